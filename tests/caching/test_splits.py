"""Opening splits: which videos each selection sees, and the space that all of them need."""

import shutil
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice
from pathlib import Path
from types import SimpleNamespace

import pytest

from caching import cache_building
from caching.clip_cache import CacheError
from caching.splits import ClipOptions, open_splits
from clips.preprocessing import Preprocessing
from helpers.small_datasets import make_dataset
from runtime.worker_pool import WorkerDied
from videos import index
from videos.decoding import VideoError
from videos.folder import VideoFolder

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
