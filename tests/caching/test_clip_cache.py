"""The clip cache: what it serves, what makes it build again, and every fault that must not be served."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from test_shards import flip_byte

from caching import cache_building, clip_cache
from caching.cache_building import DecodeStrip, EntryWriter, Unreadable, build, complete_cache
from caching.clip_cache import CacheError, CacheSettings, ClipCache
from caching.jpeg import decode_jpeg, encode_jpeg
from clips import dataset
from clips.dataset import ClipDataset, DecodingReader
from clips.samplers import Sample
from conftest import write_moving_bar
from helpers.numbered_videos import write_video
from runtime.worker_pool import WorkerDied
from videos.decoding import VideoError, WholeVideo, probe_video, read_frames
from videos.folder import VideoFolder
from videos.frame_selection import FRAME_SELECTORS, official_strip
from videos.resizing import Region, resize_crop, to_uint8

SETTINGS = CacheSettings((32, 40), 4, 4.0)
SCRIPTS = Path(__file__).parents[2] / "references" / "video_classification"


@pytest.fixture
def root(tmp_path):
    for i in range(4):
        write_moving_bar(tmp_path / "data" / "abc"[i % 3] / f"{i}.mp4", seed=i, num_frames=30 + i)
    return tmp_path / "data"


@pytest.fixture
def decoded(monkeypatch):
    """The names of the files that were decoded for a cache."""
    names = []
    real = DecodeStrip.__call__

    def decode(self, path):
        names.append(Path(path).name)
        return real(self, path)

    monkeypatch.setattr(DecodeStrip, "__call__", decode)
    return names


def open_cache(root, cache_dir, settings=SETTINGS):
    files = VideoFolder(root)
    cache = ClipCache(files, settings, settings.folder(cache_dir, root))
    complete_cache(cache, 0)
    return cache


def shard_of(cache):
    (shard,) = cache.folder.glob("*.shard")
    return shard


def read(cache, video, indices, region=None):
    region = region or Region(0, 0, *cache.settings.size)
    clip = np.empty((len(indices), region.height, region.width, 3), np.uint8)
    cache.read_into(clip, video, np.array(indices), region)
    return clip


def expected_frames(path, indices, size=SETTINGS.size):
    return np.stack([to_uint8(resize_crop(frame.numpy(), size)) for frame in read_frames(path, indices)])


def assert_serves_the_videos(cache):
    assert not len(cache.missing) and not cache.damage
    for video in range(len(cache.files)):
        info = probe_video(cache.files.path(video))
        assert (cache.index.num_frames[video], cache.index.fps[video]) == (info.frames, info.fps)
        strip = official_strip(info.frames, info.fps, 4.0, 4).unique().tolist()
        assert np.array_equal(read(cache, video, strip), expected_frames(cache.files.path(video), strip))


# What is served.


def test_a_hit_equals_a_miss_pixel_for_pixel(root, tmp_path, decoded):
    assert_serves_the_videos(open_cache(root, tmp_path / "cache"))
    assert sorted(decoded) == ["0.mp4", "1.mp4", "2.mp4", "3.mp4"]
    again = open_cache(root, tmp_path / "cache")
    assert_serves_the_videos(again)
    assert len(decoded) == 4
    region, whole = Region(3, 5, 28, 30), read(again, 1, [0, 7, 15])
    assert np.array_equal(read(again, 1, [0, 7, 15], region), whole[:, 3:31, 5:35])
    assert np.array_equal(read(again, 1, [0, 15, 15]), whole[[0, 2, 2]])


def test_jpeg_entries_are_the_encoded_frames(root, tmp_path):
    cache = open_cache(root, tmp_path / "cache", CacheSettings((32, 40), 4, 4.0, encoding="jpeg"))
    pixels = expected_frames(cache.files.path(0), [0, 7])
    for frame, stored in zip(pixels, read(cache, 0, [0, 7]), strict=True):
        encoded = encode_jpeg(torch.from_numpy(frame).permute(2, 0, 1))
        assert np.array_equal(stored, decode_jpeg(encoded).permute(1, 2, 0).numpy())
    region = Region(2, 4, 10, 12)
    assert np.array_equal(read(cache, 0, [7], region), read(cache, 0, [7])[:, 2:12, 4:16])


def test_the_motion_curve_is_that_of_the_index(root, tmp_path):
    from videos.index import scan_videos

    cache = open_cache(root, tmp_path / "cache")
    index = scan_videos(cache.files, tmp_path / "x.index", 0, with_motion=True)
    for video in range(4):
        assert torch.equal(cache.index.timing(video).motion, index.timing(video).motion)


@pytest.mark.parametrize("selection", FRAME_SELECTORS)
def test_cached_and_uncached_clips_are_the_same_within_the_rounding(root, tmp_path, selection):
    from videos.index import scan_videos

    candidate_rate = None if selection == "official" else 10.0
    cache = open_cache(root, tmp_path / "cache", CacheSettings((32, 40), 4, 4.0, candidate_rate))
    index = scan_videos(cache.files, tmp_path / "x.index", 0, with_motion=True)
    shared = dict(
        selector=FRAME_SELECTORS[selection],
        clip_len=4,
        frame_rate=4.0,
        clips_per_video=1,
        candidate_rate=candidate_rate,
        resize_size=(32, 40),
        crop_size=(28, 28),
        may_flip=torch.ones(3, dtype=torch.bool),
        random=True,
    )
    cached = ClipDataset(cache.files, cache.index.timing, cache, **shared)
    uncached = ClipDataset(cache.files, index.timing, DecodingReader(cache.files, (32, 40)), **shared)
    for sample in [Sample(video, 0, epoch) for video in range(4) for epoch in range(-1, 4)]:
        a, b = np.empty(cached.clip_shape, np.uint8), np.empty(cached.clip_shape, np.float32)
        assert cached.plan(sample)[1:] == uncached.plan(sample)[1:]
        assert cached.plan(sample).indices.tolist() == uncached.plan(sample).indices.tolist()
        assert cached.read_into(a, sample) == uncached.read_into(b, sample)
        assert np.abs(a - 255 * b).max() <= 0.501


def test_candidates_are_kept_beside_the_official_strip():
    both = CacheSettings((32, 40), 4, 4.0, candidate_rate=10.0).frames_to_keep(60, 30.0).tolist()
    assert set(official_strip(60, 30.0, 4.0, 4).tolist()) | set(range(0, 60, 3)) == set(both)
    assert both == sorted(both)


def test_frames_that_are_not_kept_are_refused_with_the_flag_to_add(root, tmp_path):
    cache = open_cache(root, tmp_path / "cache")
    for indices in ([0, 1], [10_000]):
        with pytest.raises(CacheError, match="--cache-frame-rate"):
            read(cache, 0, indices)


def test_a_cache_of_other_pixels_is_not_served(root, tmp_path, monkeypatch):
    folder, source = SETTINGS.folder(tmp_path, root), DecodingReader(VideoFolder(root), (32, 40)).source
    for module in (clip_cache, dataset):
        monkeypatch.setattr(module, "RGB_RULE", "another")
    assert SETTINGS.folder(tmp_path, root) != folder
    assert DecodingReader(VideoFolder(root), (32, 40)).source != source


@pytest.mark.parametrize("promise", [(39, 30.0), (500, 30.0), (40, 25.0)])
def test_a_header_that_is_wrong_does_not_matter(tmp_path, monkeypatch, promise):
    path = str(write_moving_bar(tmp_path / "data" / "a" / "0.mp4", seed=0, num_frames=40))
    right = DecodeStrip(SETTINGS)(path)
    monkeypatch.setattr(WholeVideo, "promised_timing", lambda self: promise)
    entry = DecodeStrip(SETTINGS)(path)
    assert (entry.num_frames, entry.fps, entry.frames.tolist()) == (40, 30.0, right.frames.tolist())
    assert entry.blob == right.blob


@pytest.mark.parametrize("name, codec, pix_fmt", [("v.webm", "libvpx-vp9", "yuv420p"), ("v.mkv", "libx264", "yuv420p")])
def test_containers_that_do_not_count_their_frames(tmp_path, name, codec, pix_fmt):
    frames = np.random.default_rng(0).integers(0, 255, (25, 48, 64, 3), np.uint8)
    path = write_video(tmp_path / name, frames, codec=codec, pix_fmt=pix_fmt)
    entry = DecodeStrip(SETTINGS)(str(path))
    assert entry.num_frames == 25
    assert entry.blob == expected_frames(path, entry.frames.tolist()).tobytes()


# What makes it build again.


def test_a_changed_file_alone_is_decoded_again(root, tmp_path, decoded):
    open_cache(root, tmp_path / "cache")
    decoded.clear()
    write_moving_bar(root / "a" / "0.mp4", seed=9, num_frames=33)  # another size
    os.utime(root / "b" / "1.mp4")  # another time
    assert_serves_the_videos(open_cache(root, tmp_path / "cache"))
    assert sorted(decoded) == ["0.mp4", "1.mp4"]
    decoded.clear()
    assert_serves_the_videos(open_cache(root, tmp_path / "cache"))
    assert decoded == []


def test_a_file_of_the_same_size_and_another_time_is_decoded_again(tmp_path, decoded):
    path = write_moving_bar(tmp_path / "data" / "a" / "0.mp4", seed=1)
    cache = open_cache(tmp_path / "data", tmp_path / "cache")
    before, size = read(cache, 0, [0]), path.stat().st_size
    write_moving_bar(path, seed=8)
    with open(path, "ab") as file:  # the same size: an mp4 may end in anything
        file.write(bytes(max(0, size - path.stat().st_size)))
    cache = open_cache(tmp_path / "data", tmp_path / "cache")
    assert len(decoded) == 2 and not np.array_equal(read(cache, 0, [0]), before)


def test_a_deleted_video_drops_out_and_a_new_one_comes_in(root, tmp_path, decoded):
    open_cache(root, tmp_path / "cache")
    decoded.clear()
    (root / "a" / "0.mp4").unlink()
    assert_serves_the_videos(open_cache(root, tmp_path / "cache"))
    assert decoded == []
    write_moving_bar(root / "c" / "0new.mp4", seed=5)
    assert_serves_the_videos(open_cache(root, tmp_path / "cache"))
    assert decoded == ["0new.mp4"]


def test_shards_without_a_video_left_are_removed(root, tmp_path):
    cache = open_cache(root, tmp_path / "cache")
    first = shard_of(cache)
    for path in root.glob("*/*.mp4"):
        os.utime(path)
    assert shard_of(open_cache(root, tmp_path / "cache")) != first


@pytest.mark.parametrize(
    "change",
    [{"size": (40, 32)}, {"clip_len": 5}, {"frame_rate": 5.0}, {"candidate_rate": 10.0}, {"encoding": "jpeg"}],
    ids=lambda change: next(iter(change)),
)
def test_another_setting_is_another_cache(root, tmp_path, decoded, change):
    from dataclasses import replace

    open_cache(root, tmp_path / "cache")
    open_cache(root, tmp_path / "cache", replace(SETTINGS, **change))
    assert len(decoded) == 8
    assert_serves_the_videos(open_cache(root, tmp_path / "cache"))
    assert len(decoded) == 8


def test_the_same_rate_is_the_same_cache_however_it_is_written(root, tmp_path):
    whole = CacheSettings((32, 40), 4, 4, candidate_rate=8)
    assert whole.folder(tmp_path, root) == CacheSettings((32, 40), 4, 4.0, 8.0).folder(tmp_path, root)


def test_another_data_path_is_never_served_this_ones_entries(root, tmp_path, decoded):
    other = tmp_path / "other"
    for path in root.glob("*/*.mp4"):  # the same names, sizes and times, and other pixels
        copy = other / path.relative_to(root)
        copy.parent.mkdir(parents=True, exist_ok=True)
        write_moving_bar(copy, seed=50 + int(path.stem), num_frames=30 + int(path.stem))
        size = max(copy.stat().st_size, path.stat().st_size)
        for file in (copy, path):
            os.truncate(file, size)
            os.utime(file, ns=(1, 1))
    assert_serves_the_videos(open_cache(root, tmp_path / "cache"))
    assert_serves_the_videos(open_cache(other, tmp_path / "cache"))
    assert_serves_the_videos(open_cache(root, tmp_path / "cache"))
    assert len(decoded) == 8


def test_the_same_folder_by_another_name_is_the_same_cache(root, tmp_path, decoded):
    (tmp_path / "link").symlink_to(root)
    open_cache(root, tmp_path / "cache")
    open_cache(tmp_path / "link", tmp_path / "cache")
    assert len(decoded) == 4


# Faults.


def test_a_truncated_shard_is_built_again(root, tmp_path, decoded, capsys):
    shard = shard_of(open_cache(root, tmp_path / "a cache: it"))
    os.truncate(shard, shard.stat().st_size // 2)
    assert_serves_the_videos(open_cache(root, tmp_path / "a cache: it"))
    assert len(decoded) == 8 and not shard.exists()
    assert "cut short" in capsys.readouterr().out


@pytest.mark.parametrize("position", [100, -1, -300])
def test_a_flipped_byte_is_built_again(root, tmp_path, decoded, position):
    shard = shard_of(open_cache(root, tmp_path / "cache"))
    flip_byte(shard, position)
    assert_serves_the_videos(open_cache(root, tmp_path / "cache"))
    assert len(decoded) == 8 and not shard.exists()


def start_build(root, cache_dir, **limits):
    """Builds in another process."""
    script = (
        "import sys; from pathlib import Path; from caching import cache_building; import test_clip_cache as t\n"
        f"for name, value in {limits}.items(): setattr(cache_building, name, value)\n"
        "t.open_cache(*map(Path, sys.argv[1:]))"
    )
    path = os.pathsep.join([str(SCRIPTS), str(Path(__file__).parent)])
    command = [sys.executable, "-c", script, str(root), str(cache_dir)]
    return subprocess.Popen(command, env={**os.environ, "PYTHONPATH": path}, stdout=subprocess.PIPE, text=True)


def test_a_killed_build_is_taken_up_where_it_was(tmp_path, decoded):
    root = tmp_path / "data"
    for i in range(12):
        write_moving_bar(root / "a" / f"{i:02}.mp4", seed=i, num_frames=60)
    process = start_build(root, tmp_path / "cache", SHARD_VIDEOS=2)
    folder, deadline = SETTINGS.folder(tmp_path / "cache", root), time.monotonic() + 60
    while len(list(folder.glob("*.shard"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    published = len(list(folder.glob("*.shard")))
    assert published >= 2
    (folder / ".writing-left.tmp").write_bytes(b"half a shard")  # whatever moment the kill came at
    assert_serves_the_videos(open_cache(root, tmp_path / "cache"))
    assert len(decoded) <= 12 - 2 * published
    assert not list(folder.glob(".*.tmp"))


def test_two_runs_at_once_share_the_work(root, tmp_path, decoded):
    first, second = (start_build(root, tmp_path / "cache") for _ in range(2))
    for process in (first, second):
        process.communicate(timeout=120)
        assert process.returncode == 0
    cache = open_cache(root, tmp_path / "cache")
    assert_serves_the_videos(cache)
    assert sum(len(shard) for shard in cache._shards) == 4 and decoded == []


def test_an_interrupted_build_keeps_what_was_decoded(root, tmp_path, monkeypatch, decoded):
    real = EntryWriter.add

    def interrupted_at_the_third(self, video, entry):
        if video == 2:
            raise KeyboardInterrupt
        real(self, video, entry)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(EntryWriter, "add", interrupted_at_the_third)
        open_cache(root, tmp_path / "cache")
    decoded.clear()
    assert_serves_the_videos(open_cache(root, tmp_path / "cache"))
    assert len(decoded) == 2


def test_a_disk_that_fills_up_leaves_what_was_published(root, tmp_path, monkeypatch, decoded):
    monkeypatch.setattr(cache_building, "SHARD_VIDEOS", 2)
    real, writes = cache_building.ShardWriter.add, []

    def full_at_the_fourth(self, blob):
        writes.append(blob)
        if len(writes) == 4:
            raise OSError(28, "No space left on device")
        real(self, blob)

    with monkeypatch.context() as patch, pytest.raises(CacheError, match="No space left on device.*--cache-dir"):
        patch.setattr(cache_building.ShardWriter, "add", full_at_the_fourth)
        open_cache(root, tmp_path / "cache")
    folder = SETTINGS.folder(tmp_path / "cache", root)
    assert len(list(folder.glob("*.shard"))) == 1 and not list(folder.glob(".*"))
    decoded.clear()
    assert_serves_the_videos(open_cache(root, tmp_path / "cache"))
    assert len(decoded) == 2


def test_too_little_space_is_said_before_starting(root, tmp_path, monkeypatch, decoded):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1_000))
    with pytest.raises(CacheError) as caught:
        open_cache(root, tmp_path / "cache", CacheSettings((1280, 1710), 4, 4.0))
    needed = 4 * 4 * 3 * 1280 * 1710
    message = str(caught.value)
    assert f"needs about {needed / 1e9:.1f} GB in {tmp_path / 'cache'}, where 0.0 GB are free" in message
    assert f"--cache-format jpeg would need about {cache_building.JPEG_SHARE * needed / 1e9:.1f} GB" in message
    assert decoded == []
    with pytest.raises(CacheError) as caught:
        open_cache(root, tmp_path / "cache", CacheSettings((1280, 1710), 4, 4.0, encoding="jpeg"))
    assert "--cache-dir" in str(caught.value) and "--cache-format" not in str(caught.value)


@pytest.fixture
def read_only(tmp_path, monkeypatch):
    """Makes the cache read-only; root, who may write anywhere, is refused by hand."""

    def protect():
        for path in [*(tmp_path / "cache").rglob("*"), tmp_path / "cache"]:
            path.chmod(0o555 if path.is_dir() else 0o444)
        if os.geteuid() == 0:
            real_open, real_mkstemp = open, cache_building.ShardWriter.__init__.__globals__["tempfile"].mkstemp

            def refuse(path):
                if str(path).startswith(str(tmp_path / "cache")):
                    raise OSError(30, "Read-only file system", str(path))

            def guarded_open(path, mode="r", *args, **kwargs):
                if set(mode) & set("wax+"):
                    refuse(path)
                return real_open(path, mode, *args, **kwargs)

            def guarded_mkstemp(*args, **kwargs):
                refuse(kwargs.get("dir"))
                return real_mkstemp(*args, **kwargs)

            monkeypatch.setattr("builtins.open", guarded_open)
            monkeypatch.setattr("tempfile.mkstemp", guarded_mkstemp)

    yield protect
    for path in [tmp_path / "cache", *(tmp_path / "cache").rglob("*")]:
        path.chmod(0o755 if path.is_dir() else 0o644)


@pytest.mark.parametrize("is_noted", [True, False], ids=["checked before", "to be checked"])
def test_a_complete_cache_on_a_read_only_disk_works(root, tmp_path, decoded, read_only, is_noted):
    cache = open_cache(root, tmp_path / "cache")
    if not is_noted:
        (cache.folder / "verified.json").unlink()
    read_only()
    assert_serves_the_videos(open_cache(root, tmp_path / "cache"))
    assert len(decoded) == 4


def test_an_incomplete_cache_on_a_read_only_disk_says_so(root, tmp_path, read_only):
    open_cache(root, tmp_path / "cache")
    read_only()
    os.utime(root / "a" / "0.mp4")
    with pytest.raises(CacheError, match="is not complete, and .*cannot be written.*--cache-dir"):
        open_cache(root, tmp_path / "cache")


# Unreadable files.


def test_unreadable_files_are_told_of_and_not_tried_again(root, tmp_path, decoded):
    (root / "a" / "bad.mp4").write_bytes(b"no video")
    cut = write_moving_bar(root / "b" / "cut.mp4", seed=3, num_frames=60)
    os.truncate(cut, cut.stat().st_size * 2 // 3)
    cache = open_cache(root, tmp_path / "cache")
    assert {Path(cache.files.path(video)).name for video in cache.index.reasons} == {"bad.mp4", "cut.mp4"}
    assert [int(cache.index.num_frames[video]) for video in cache.index.reasons] == [0, 0]
    with pytest.raises(VideoError) as caught:
        probe_video(root / "a" / "bad.mp4")
    assert caught.value.reason in cache.index.reasons.values()
    decoded.clear()
    again = open_cache(root, tmp_path / "cache")
    assert decoded == [] and again.index.reasons == cache.index.reasons
    write_moving_bar(root / "a" / "bad.mp4", seed=4)
    assert list(open_cache(root, tmp_path / "cache").index.reasons) == [4] and decoded == ["bad.mp4"]


def test_a_note_of_unreadable_files_that_cannot_be_written_is_a_clear_error(root, tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(28, "No space left on device")

    (root / "a" / "bad.mp4").write_bytes(b"no video")
    monkeypatch.setattr(cache_building, "write_unreadable", refuse)
    with pytest.raises(CacheError, match="No space left on device.*--cache-dir"):
        open_cache(root, tmp_path / "cache")


@pytest.mark.parametrize("fps", [-2.0, float("nan"), 1e-300])
def test_a_rate_by_which_no_frames_can_be_chosen_is_unreadable(root, tmp_path, monkeypatch, fps):
    monkeypatch.setattr(WholeVideo, "promised_timing", lambda self: (30, fps))
    cache = open_cache(root, tmp_path / "cache")
    assert len(cache.index.reasons) == 4 and f"{fps=}" in cache.index.reasons[0]


def test_a_file_on_which_a_worker_died_is_tried_again(root, tmp_path, monkeypatch, decoded):
    def results(function, paths, *_, on_death, **__):
        for number, path in enumerate(paths):
            yield on_death(WorkerDied(path, -9)) if number == 1 else function(path)

    with monkeypatch.context() as patch:
        patch.setattr(cache_building, "map_in_workers", results)
        cache = open_cache(root, tmp_path / "cache")
    ((video, reason),) = cache.index.reasons.items()
    assert video == 1 and "SIGKILL" in reason
    decoded.clear()
    assert open_cache(root, tmp_path / "cache").index.reasons == {} and len(decoded) == 1


def test_worker_processes_build_the_same(root, tmp_path):
    (root / "a" / "bad.mp4").write_bytes(b"no video")
    files = VideoFolder(root)
    cache = ClipCache(files, SETTINGS, SETTINGS.folder(tmp_path / "cache", root))
    found = build(cache, cache.missing, 2, quiet=True)
    assert list(found) == [2] and isinstance(found[2], Unreadable) and found[2].is_lasting
    (root / "a" / "bad.mp4").unlink()
    assert_serves_the_videos(open_cache(root, tmp_path / "cache"))
