"""Opening splits: which videos each selection sees."""

from pathlib import Path

import pytest
import video_index
from clip_sources import ClipOptions, open_splits
from conftest import make_dataset
from datasets import VideoFolder
from decoding import VideoError

OPTIONS = {
    "clip_len": 4,
    "frame_rate": 4.0,
    "clips_per_video": 1,
    "resize_size": (32, 40),
    "crop_size": (28, 28),
    "skip_unreadable": True,
    "batch_size": 4,
    "num_workers": 0,
}


@pytest.fixture
def data(tmp_path):
    return make_dataset(tmp_path / "data", ["a", "b"], num_train=1, num_val=2)


@pytest.mark.parametrize("selections", [["official"], ["official", "motion"], ["motion", "uniform"]])
def test_all_selections_see_the_same_videos(data, tmp_path, monkeypatch, selections):
    """One file's header is whole, and it decodes for a while: only reading all of it finds the damage."""
    real = video_index.iter_frames

    def iter_frames(path):
        for number, frame in enumerate(real(path)):
            if number == 15 and Path(path).parts[-2:] == ("b", "00000001.mp4"):
                raise VideoError(path, "damaged")
            yield frame

    monkeypatch.setattr(video_index, "iter_frames", iter_frames)
    folder = VideoFolder(data / "val")
    splits = [(folder, ClipOptions(**OPTIONS, selection=name, cache_dir=tmp_path / "cache")) for name in selections]
    expected = [0, 1, 2] if "motion" in selections else [0, 1, 2, 3]
    for _ in range(2):
        assert [clips.videos.tolist() for clips in open_splits(splits)] == [expected] * len(splits)
