"""Clips of any files."""

import numpy as np
import pytest

from clips.preprocessing import Preprocessing
from deployment.prediction import find_videos, read_clips
from helpers.numbered_videos import write_numbered_video
from helpers.small_models import write_coloured_videos
from videos.decoding import VideoError


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_coloured_videos(tmp_path_factory.mktemp("data"), {"val": 2}, ["dips"])


def test_found_videos_are_named_once_and_linked_folders_are_entered(tmp_path, data):
    (tmp_path / "link").symlink_to(data / "val" / "dips", target_is_directory=True)
    (tmp_path / "link" / ".hidden.mp4").touch()
    (tmp_path / "loop").symlink_to(tmp_path, target_is_directory=True)
    names = [str(tmp_path / "link" / name) for name in ("0.mp4", "1.mp4")]
    assert find_videos([str(tmp_path), names[0], f"{tmp_path}/link/[01].mp4"]) == names
    assert find_videos(["absent*.mp4"]) == ["absent*.mp4"]


def test_each_file_gives_its_clips_or_the_reason_why_not(tmp_path):
    paths = [str(write_numbered_video(tmp_path / "a.mp4", 20)), str(tmp_path / "absent.mp4"), str(tmp_path)]
    small = Preprocessing(clip_len=4, resize_size=(32, 42), crop_size=(28, 28))
    clips, absent, folder = read_clips(paths, small, clips_per_video=2, num_workers=0)
    assert clips.shape == (2, 4, 28, 28, 3) and clips.dtype == np.float32 and 0 <= clips.min() <= clips.max() <= 1
    assert isinstance(absent, VideoError) and absent.reason == "No such file or directory"
    assert isinstance(folder, VideoError) and "holds no video" in folder.reason
