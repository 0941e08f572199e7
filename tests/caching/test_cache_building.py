"""Building the clip cache: what decoding gives, every fault that must not be served, and unreadable files."""

import errno
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import av
import numpy as np
import pytest

from caching import cache_building, shards
from caching.cache_building import DecodeStrip, build
from caching.clip_cache import CacheError, CacheSettings, ClipCache
from caching.shards import ShardFile, ShardWriter
from helpers.clip_caches import (
    PREPROCESSING,
    SETTINGS,
    assert_serves_the_videos,
    expected_frames,
    open_cache,
    shard_of,
)
from helpers.damaging import flip_byte
from helpers.numbered_videos import write_video
from helpers.small_datasets import write_moving_bar
from runtime.worker_pool import WorkerDied
from videos.decoding import VideoError, WholeVideo, probe_video
from videos.folder import VideoFolder
from videos.index import Unreadable

SCRIPTS = Path(__file__).parents[2] / "references" / "video_classification"


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
        "import sys; from pathlib import Path; from caching import shards; import helpers.clip_caches as t\n"
        f"for name, value in {limits}.items(): setattr(shards, name, value)\n"
        "t.open_cache(*map(Path, sys.argv[1:]))"
    )
    path = os.pathsep.join([str(SCRIPTS), str(Path(__file__).parents[1])])
    command = [sys.executable, "-c", script, str(root), str(cache_dir)]
    return subprocess.Popen(command, env={**os.environ, "PYTHONPATH": path}, stdout=subprocess.PIPE, text=True)


def test_a_killed_build_is_taken_up_where_it_was(tmp_path, decoded):
    root = tmp_path / "data"
    for i in range(12):
        write_moving_bar(root / "a" / f"{i:02}.mp4", seed=i, num_frames=60)
    process = start_build(root, tmp_path / "cache", SHARD_ROWS=2)
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
    real = ShardWriter.add

    def interrupted_at_the_third(self, blob, row):
        if row[0] == 2:
            raise KeyboardInterrupt
        real(self, blob, row)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(ShardWriter, "add", interrupted_at_the_third)
        open_cache(root, tmp_path / "cache")
    decoded.clear()
    assert_serves_the_videos(open_cache(root, tmp_path / "cache"))
    assert len(decoded) == 2


def test_a_disk_that_fills_up_leaves_what_was_published(root, tmp_path, monkeypatch, decoded):
    monkeypatch.setattr(shards, "SHARD_ROWS", 2)
    real, writes = ShardFile.add, []

    def full_at_the_fourth(self, blob):
        writes.append(blob)
        if len(writes) == 4:
            raise OSError(28, "No space left on device")
        real(self, blob)

    with monkeypatch.context() as patch, pytest.raises(CacheError, match="No space left on device.*--cache-dir"):
        patch.setattr(ShardFile, "add", full_at_the_fourth)
        open_cache(root, tmp_path / "cache")
    folder = SETTINGS.folder(tmp_path / "cache", root)
    assert len(list(folder.glob("*.shard"))) == 1 and not list(folder.glob(".*"))
    decoded.clear()
    assert_serves_the_videos(open_cache(root, tmp_path / "cache"))
    assert len(decoded) == 2


def test_too_little_space_is_said_before_starting(root, tmp_path, monkeypatch, decoded):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1_000))
    large = replace(PREPROCESSING, resize_size=(640, 855))
    with pytest.raises(CacheError) as caught:
        open_cache(root, tmp_path / "cache", CacheSettings(large))
    needed = 4 * 4 * 3 * 640 * 855
    message = str(caught.value)
    assert f"needs about {needed / 1e6:.0f} MB in {tmp_path / 'cache'}, where 0 MB are free" in message
    assert f"--cache-format jpeg would need about {cache_building.JPEG_SHARE * needed / 1e6:.0f} MB" in message
    assert decoded == []
    with pytest.raises(CacheError) as caught:
        open_cache(root, tmp_path / "cache", CacheSettings(large, "jpeg"))
    assert "--cache-dir" in str(caught.value) and "--cache-format" not in str(caught.value)


@pytest.fixture
def read_only(tmp_path, monkeypatch):
    """Makes the cache read-only; root, who may write anywhere, is refused by hand."""

    def protect():
        for path in [*(tmp_path / "cache").rglob("*"), tmp_path / "cache"]:
            path.chmod(0o555 if path.is_dir() else 0o444)
        if os.geteuid() == 0:
            real_open, real_mkstemp = open, tempfile.mkstemp

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


@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO])
def test_a_file_that_the_system_refuses_is_tried_again(root, tmp_path, monkeypatch, decoded, number):
    real = av.open

    def refuse(path, *args, **kwargs):
        if Path(path).name == "1.mp4":
            raise av.error.OSError(number, os.strerror(number))
        return real(path, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(av, "open", refuse)
        assert list(open_cache(root, tmp_path / "cache").index.reasons.values()) == [os.strerror(number)]
    decoded.clear()
    assert_serves_the_videos(open_cache(root, tmp_path / "cache"))
    assert decoded == ["1.mp4"]


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
