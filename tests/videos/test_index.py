import errno
import os
import signal

import av
import numpy as np
import pytest

from helpers.damaged_videos import find_box, replace_range
from helpers.numbered_videos import write_numbered_video
from helpers.small_datasets import write_moving_bar
from runtime.columns import Ragged, pack_columns, unpack_columns
from runtime.signals import Stopped, StopRequest
from runtime.worker_pool import WorkerDied
from videos import index
from videos.folder import VideoFolder
from videos.index import RowMatcher, Scan, Unreadable, scan_videos


@pytest.fixture
def root(tmp_path):
    for i in range(4):
        write_moving_bar(tmp_path / "data" / "a" / f"{i}.mp4", seed=i, num_frames=10 + i)
    (tmp_path / "data" / "a" / "bad.mp4").write_bytes(b"no video")
    return tmp_path / "data"


@pytest.fixture
def scanned(monkeypatch):
    """The file names that were probed."""
    names = []
    real = index.probe_video

    def probe(path):
        names.append(os.path.basename(path))
        return real(path)

    monkeypatch.setattr(index, "probe_video", probe)
    return names


def test_each_file_is_scanned_once(root, tmp_path, scanned):
    store = tmp_path / "store" / "x.index"
    index = scan_videos(VideoFolder(root), store, 0)
    assert index.num_frames.tolist() == [10, 11, 12, 13, 0] and index.fps[:4].tolist() == [30.0] * 4
    assert list(index.reasons) == [4] and index.timing(2).num_frames == 12
    assert len(scanned) == 5
    again = scan_videos(VideoFolder(root), store, 0)
    assert len(scanned) == 5
    assert again.num_frames.tolist() == index.num_frames.tolist() and again.reasons == index.reasons


def test_what_changed_is_scanned_again_and_what_is_gone_drops_out(root, tmp_path, scanned):
    store = tmp_path / "x.index"
    scan_videos(VideoFolder(root), store, 0)
    scanned.clear()
    write_moving_bar(root / "a" / "1.mp4", seed=1, num_frames=25)
    (root / "a" / "0.mp4").unlink()
    write_moving_bar(root / "b" / "new.mp4", seed=1, num_frames=7)
    index = scan_videos(VideoFolder(root), store, 0)
    assert sorted(scanned) == ["1.mp4", "new.mp4"]
    assert index.num_frames.tolist() == [25, 12, 13, 0, 7] and list(index.reasons) == [3]
    os.utime(root / "a" / "2.mp4", ns=(1, 1))
    scanned.clear()
    scan_videos(VideoFolder(root), store, 0)
    assert scanned == ["2.mp4"]


def test_worker_processes_find_the_same(root, tmp_path):
    here = scan_videos(VideoFolder(root), tmp_path / "a.index", 0, with_motion=True)
    there = scan_videos(VideoFolder(root), tmp_path / "b.index", 2, with_motion=True)
    assert here.num_frames.tolist() == there.num_frames.tolist() and here.reasons == there.reasons
    assert all(np.array_equal(here.motion[i], there.motion[i]) for i in range(5))
    assert [len(here.motion[i]) for i in range(5)] == [9, 10, 11, 12, 0]


def test_motion_is_metered_when_first_asked_for(root, tmp_path, scanned):
    store = tmp_path / "x.index"
    assert scan_videos(VideoFolder(root), store, 0).timing(0).motion is None
    assert len(scan_videos(VideoFolder(root), store, 0, with_motion=True).timing(0).motion) == 9
    scanned.clear()
    assert len(scan_videos(VideoFolder(root), store, 0).timing(0).motion) == 9 and not scanned


@pytest.mark.parametrize("fps", [-2.0, 0.0, float("inf"), float("nan")])
def test_a_rate_that_cannot_be_is_unreadable(root, tmp_path, monkeypatch, fps):
    real = index.probe_video
    monkeypatch.setattr(index, "probe_video", lambda path: real(path)._replace(fps=fps))
    found = scan_videos(VideoFolder(root), tmp_path / "x.index", 0)
    assert not found.num_frames.any() and f"frame rate of {fps:g} a second" in found.reasons[0]


def test_a_video_of_years_is_unreadable(tmp_path):
    path = write_numbered_video(tmp_path / "v.mp4", 4, fps=1)
    data = path.read_bytes()
    header, _ = find_box(data, "moov", "trak", "mdia", "mdhd")
    times, _ = find_box(data, "moov", "trak", "mdia", "minf", "stbl", "stts")
    data = replace_range(data, header + 12, (1).to_bytes(4, "big"))  # units a second
    path.write_bytes(replace_range(data, times + 12, (1 << 29).to_bytes(4, "big")))  # units a frame
    result = Scan(False)(str(path))
    assert isinstance(result, Unreadable) and "which cannot be" in result.reason


@pytest.mark.parametrize("content", [b"", b"garbage", b"PK\x03\x04 cut short"])
def test_a_damaged_index_is_made_anew(root, tmp_path, content):
    store = tmp_path / "x.index"
    store.write_bytes(content)
    assert scan_videos(VideoFolder(root), store, 0).num_frames.tolist() == [10, 11, 12, 13, 0]


@pytest.mark.parametrize(
    "change",
    [
        lambda columns: columns.pop("fps"),
        lambda columns: columns.pop("motion"),
        lambda columns: columns.update(names=np.arange(5)),
        lambda columns: columns.update(num_frames=columns["num_frames"][:2]),
        lambda columns: columns.update(unreadable=np.frombuffer(b"[]", np.uint8)),
    ],
)
def test_a_table_that_is_not_an_index_is_made_anew(root, tmp_path, change):
    store = tmp_path / "x.index"
    scan_videos(VideoFolder(root), store, 0)
    columns = unpack_columns(store.read_bytes())
    change(columns)
    store.write_bytes(pack_columns(columns))
    assert scan_videos(VideoFolder(root), store, 0).num_frames.tolist() == [10, 11, 12, 13, 0]


def test_an_index_that_cannot_be_kept_is_said(root, tmp_path, capsys):
    (tmp_path / "file").write_text("in the way")
    index = scan_videos(VideoFolder(root), tmp_path / "file" / "x.index", 0)
    assert index.num_frames[0] == 10 and "cannot be kept" in capsys.readouterr().out


PASSING = {
    "no permission": av.error.PermissionError(errno.EACCES, "Permission denied"),
    "a disk error": av.error.OSError(errno.EIO, "Input/output error"),
    "no memory": MemoryError(),
    "gone for a moment": av.error.FileNotFoundError(errno.ENOENT, "No such file or directory"),
}


@pytest.mark.parametrize("error", PASSING.values(), ids=PASSING)
def test_a_failure_that_may_pass_is_tried_again_by_the_next_run(root, tmp_path, monkeypatch, scanned, error):
    real = av.open

    def refuse(path, *args, **kwargs):
        if os.path.basename(path) == "2.mp4":
            raise error
        return real(path, *args, **kwargs)

    store = tmp_path / "x.index"
    with monkeypatch.context() as patch:
        patch.setattr(av, "open", refuse)
        assert list(scan_videos(VideoFolder(root), store, 0).reasons) == [2, 4]
    scanned.clear()
    again = scan_videos(VideoFolder(root), store, 0)
    assert again.num_frames.tolist() == [10, 11, 12, 13, 0] and list(again.reasons) == [4] and scanned == ["2.mp4"]


def test_a_video_on_which_a_worker_died_is_tried_again(root, tmp_path, monkeypatch, scanned):
    def results(function, paths, *_, on_death):
        for number, path in enumerate(paths):
            yield on_death(WorkerDied(path, -9)) if number == 1 else function(path)

    with monkeypatch.context() as patch:
        patch.setattr(index, "map_in_workers", results)
        assert "SIGKILL" in scan_videos(VideoFolder(root), tmp_path / "x.index", 0).reasons[1]
    scanned.clear()
    assert list(scan_videos(VideoFolder(root), tmp_path / "x.index", 0).reasons) == [4] and scanned == ["1.mp4"]


def test_bytes_that_a_disk_does_not_give_are_not_blamed_on_the_file(root, tmp_path, monkeypatch):
    monkeypatch.setattr(index, "_reads_to_its_end", lambda path: False)
    store = tmp_path / "x.index"
    assert list(scan_videos(VideoFolder(root), store, 0).reasons) == [4]
    monkeypatch.undo()
    assert unpack_columns(store.read_bytes())["unreadable"].tobytes() == b"{}"


@pytest.mark.parametrize("processes", [0, 2])
def test_a_stop_keeps_what_was_scanned(root, tmp_path, monkeypatch, scanned, processes):
    done = []
    real = index.Progress.update

    def update(*args, **kwargs):
        real(*args, **kwargs)
        done.append(args)
        if len(done) == 2:
            signal.raise_signal(signal.SIGTERM)

    with monkeypatch.context() as patch, pytest.raises(Stopped), StopRequest(at_once=True):
        patch.setattr(index.Progress, "update", update)
        scan_videos(VideoFolder(root), tmp_path / "x.index", processes)
    scanned.clear()
    assert len(scan_videos(VideoFolder(root), tmp_path / "x.index", 0).reasons) == 1
    assert scanned == ["2.mp4", "3.mp4", "bad.mp4"]


def test_rows_are_matched_by_name_size_and_time(root):
    files = VideoFolder(root)  # a/0.mp4 .. a/3.mp4, a/bad.mp4
    matcher = RowMatcher(files)
    assert matcher.find(["a/2.mp4", "a/gone.mp4", "a/0.mp4"]).tolist() == [2, -1, 0]
    order = np.array([4, 1, 0, 3])
    table = {"names": files.names.take(order), "sizes": files.sizes[order], "mtimes_ns": files.mtimes_ns[order]}
    assert [rows.tolist() for rows in matcher.unchanged(table)] == [[0, 1, 2, 3], [4, 1, 0, 3]]
    table["sizes"] = table["sizes"] + np.array([0, 1, 0, 0])
    table["mtimes_ns"] = table["mtimes_ns"] + np.array([0, 0, 0, -1])
    assert [rows.tolist() for rows in matcher.unchanged(table)] == [[0, 2], [4, 0]]
    gone = {**table, "names": Ragged.of_strings(["b/0.mp4", "a/1", "", "a/5.mp4"])}
    assert [rows.tolist() for rows in matcher.unchanged(gone)] == [[], []]
