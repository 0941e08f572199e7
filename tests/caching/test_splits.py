"""Opening splits: which videos each selection sees, and the space that all of them need."""

import re
import shutil
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from caching import cache_building, clip_cache, splits
from caching.clip_cache import CacheError
from caching.shards import Shard
from caching.splits import ClipOptions, DifferentVideos, open_clips, open_splits
from clips.preprocessing import Preprocessing
from helpers.small_datasets import make_dataset
from helpers.training_processes import run
from runtime.columns import Ragged
from runtime.worker_pool import WorkerDied
from videos import index
from videos.decoding import VideoError
from videos.folder import VideoFolder
from videos.index import scan_videos

PREPROCESSING = Preprocessing(4, resize_size=(32, 40), crop_size=(28, 28))
OPTIONS = {
    "skip_unreadable": True,
    "batch_size": 4,
    "num_workers": 0,
}


@pytest.fixture
def data(tmp_path):
    return make_dataset(tmp_path / "data", ["a", "b"], num_train=1, num_val=2)


def test_the_space_for_all_splits_is_checked_before_the_first_is_built(data, tmp_path, monkeypatch):
    options = ClipOptions(PREPROCESSING, **OPTIONS, cached=True, cache_dir=tmp_path / "cache")
    splits = [(VideoFolder(data / split), options) for split in ("train", "val", "val")]
    videos = 2 + 4  # those of val once
    needed = videos * 4 * 3 * 32 * 40  # 4 frames of 32x40 each
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=needed - 1))
    with pytest.raises(CacheError, match="are free"):
        open_splits(splits)
    assert not list((tmp_path / "cache").glob("*/*.shard"))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=needed))
    assert [len(clips.videos) for clips in open_splits(splits)] == [2, 4, 4]


def test_a_file_on_which_a_worker_died_is_left_out_by_all_selections(data, tmp_path, monkeypatch):
    real = cache_building.map_in_workers

    def results(function, paths, *rest, on_death):
        for number, result in enumerate(real(function, paths, *rest)):
            yield on_death(WorkerDied("", -9)) if number == 1 else result

    monkeypatch.setattr(cache_building, "map_in_workers", results)
    options = {**OPTIONS, "cached": True, "cache_dir": tmp_path / "cache"}
    wanted = [replace(PREPROCESSING, frame_selection=name, candidate_rate=8.0) for name in ("official", "uniform")]
    splits = [(VideoFolder(data / "val"), ClipOptions(preprocessing, **options)) for preprocessing in wanted]
    assert [clips.videos.tolist() for clips in open_splits(splits)] == [[0, 2, 3]] * 2


@pytest.mark.parametrize("selections", [["official"], ["official", "motion"], ["motion", "uniform"]])
def test_all_selections_see_the_same_videos(data, tmp_path, monkeypatch, selections):
    """One file's header is whole, and it decodes for a while: only reading all of it finds the damage."""
    real = index.open_whole

    @contextmanager
    def open_whole(path):
        with real(path) as video:
            if Path(path).parts[-2:] == ("b", "00000001.mp4"):
                frames = [*islice(video.frames(), 15)]
                monkeypatch.setattr(video, "frames", lambda: damaged_after(frames, path))
            yield video

    def damaged_after(frames, path):
        yield from frames
        raise VideoError(path, "damaged")

    monkeypatch.setattr(index, "open_whole", open_whole)
    folder = VideoFolder(data / "val")
    wanted = [replace(PREPROCESSING, frame_selection=name) for name in selections]
    splits = [(folder, ClipOptions(preprocessing, **OPTIONS, cache_dir=tmp_path / "cache")) for preprocessing in wanted]
    expected = [0, 1, 2] if "motion" in selections else [0, 1, 2, 3]
    for _ in range(2):
        assert [clips.videos.tolist() for clips in open_splits(splits)] == [expected] * len(splits)


def test_motion_is_metered_when_a_cache_is_first_asked_for_it(data, tmp_path, monkeypatch):
    """Its frames are decoded once for all selections, and its curves once for all runs."""
    folder, metered = VideoFolder(data / "val"), []
    preprocessing = replace(PREPROCESSING, candidate_rate=8.0)
    options = ClipOptions(preprocessing, **OPTIONS, cached=True, cache_dir=tmp_path / "cache")
    by_motion = replace(options, preprocessing=replace(preprocessing, frame_selection="motion"))
    expected = scan_videos(folder, tmp_path / "x.index", 0, with_motion=True)
    real = index.MotionMeter
    monkeypatch.setattr(index, "MotionMeter", lambda: metered.append(1) or real())
    assert open_clips(folder, options).built == 4 and not metered
    for again in (False, True):
        clips = open_clips(folder, by_motion)
        assert clips.built == 0 and len(metered) == 4
        for video in range(4):
            timing, true = clips.loader.dataset.timing(video), expected.timing(video)
            assert torch.equal(timing.motion, true.motion) and timing.num_frames == true.num_frames, again


def test_curves_that_an_earlier_version_put_into_the_cache_are_used(data, tmp_path, monkeypatch):
    folder = VideoFolder(data / "val")
    options = ClipOptions(PREPROCESSING, **OPTIONS, cached=True, cache_dir=tmp_path / "cache")
    open_clips(folder, options)
    curves = [np.arange(video, video + 9, dtype=np.uint8) for video in range(4)]
    real = clip_cache.open_shards

    def open_shards(where):
        shards, damage = real(where)
        for shard in shards:
            shard.columns["motion"] = Ragged.of(curves, np.uint8)
        return shards, damage

    monkeypatch.setattr(clip_cache, "open_shards", open_shards)
    monkeypatch.setattr(splits, "scan_videos", None)
    clips = open_clips(folder, replace(options, preprocessing=replace(PREPROCESSING, frame_selection="motion")))
    for video, curve in enumerate(curves):
        assert clips.loader.dataset.timing(video).motion.tolist() == pytest.approx((curve / 255.0) ** 2)


OPENING = Path(__file__).parents[1] / "helpers" / "opening_splits.py"


def open_in_two_processes(tmp_path, fault, caches=("cache", "cache")):
    """(exit code, output); rank 1 has the fault."""
    own = [[str(tmp_path / cache), fault] for cache in caches]
    return run([str(tmp_path / "data" / "train")], 2, own=own, script=OPENING)


@pytest.fixture
def twelve(tmp_path):
    return make_dataset(tmp_path / "data", ["a", "b"], num_train=6, num_val=0)


def test_a_process_that_looks_late_divides_the_same_videos(twelve, tmp_path):
    code, output = open_in_two_processes(tmp_path, "late")
    assert code == 0 and all(f"rank {rank} reads {list(range(12))}" in output for rank in (0, 1)), output


def test_processes_with_folders_of_their_own_build_all_of_each(twelve, tmp_path):
    code, output = open_in_two_processes(tmp_path, "none", ["here", "there"])
    assert code == 0 and all(f"rank {rank} reads {list(range(12))}" in output for rank in (0, 1)), output
    assert not list(tmp_path.glob("*/*/.rank-*"))
    for cache in ("here", "there"):
        (folder,) = (tmp_path / cache).iterdir()
        assert sum(len(Shard(path)) for path in folder.glob("*.shard")) == 12


def test_what_one_process_cannot_read_is_left_out_by_all(twelve, tmp_path):
    code, output = open_in_two_processes(tmp_path, "blind", ["here", "there"])
    expected = [*range(1, 6), *range(7, 12)]
    assert code == 0 and all(f"rank {rank} reads {expected}" in output for rank in (0, 1)), output
    code, output = open_in_two_processes(tmp_path, "none", ["here", "there"])  # it has passed
    assert code == 0 and f"rank 1 reads {list(range(12))}" in output, output


def test_a_video_that_is_neither_read_nor_unreadable_is_an_error(twelve, tmp_path):
    code, output = open_in_two_processes(tmp_path, "lost")
    told = "rank 0: 12 can be read, 0 are neither .*; rank 1: 11 can be read, 1 are neither"
    assert code == 1 and len(re.findall(told, output)) == 2 and "Traceback" not in output, output


def test_processes_that_list_other_videos_are_told_so(twelve, monkeypatch, tmp_path):
    listed = []
    monkeypatch.setattr(splits, "gather_objects", lambda value: listed.append(value) or listed)
    folder = VideoFolder(twelve / "train")
    splits._check_same_files(folder)
    (twelve / "train" / "b" / "00000005.mp4").unlink()
    with pytest.raises(DifferentVideos, match="rank 0: 12 videos of 2 classes; rank 1: 11 videos"):
        splits._check_same_files(VideoFolder(twelve / "train"))


def test_a_process_that_waits_for_another_stops_when_it_is_asked_to(twelve, tmp_path):
    code, output = open_in_two_processes(tmp_path, "busy")
    assert code == 143 and "stopped by SIGTERM" in output and "rank 0 has ended" in output, output
