import subprocess
import sys

import pytest

from benchmarks.measuring import (
    AnyVideos,
    children_peak_megabytes,
    count_frames,
    median_ratio,
    time_side_by_side,
)
from helpers.numbered_videos import write_numbered_video
from helpers.template_process import SCRIPTS
from videos.folder import DatasetError


def test_videos_are_found_however_deep(tmp_path):
    for name in ("b/c/1.mp4", "a/0.mp4", "top.mp4"):
        write_numbered_video(tmp_path / name, 12)
    (tmp_path / "a" / "notes.txt").touch()
    videos = AnyVideos(tmp_path)
    assert videos.paths == [str(tmp_path / name) for name in ("a/0.mp4", "b/c/1.mp4", "top.mp4")]
    assert videos.classes == ["", "a", "b/c"] and videos.labels.tolist() == [1, 2, 0]
    assert videos.sizes.tolist() == [(tmp_path / name).stat().st_size for name in ("a/0.mp4", "b/c/1.mp4", "top.mp4")]
    with pytest.raises(DatasetError, match="holds no videos to measure on"):
        AnyVideos(tmp_path / "a" / "empty")


def test_frames_are_counted_and_unreadable_files_have_none(tmp_path):
    assert count_frames(str(write_numbered_video(tmp_path / "a.mp4", 12))) == 12
    assert count_frames(str(tmp_path / "absent.mp4")) == 0


def test_each_round_runs_all_actions_in_turn_forwards_and_backwards():
    order = []
    seconds = time_side_by_side(3, a=lambda: order.append("a"), b=lambda: order.append("b"))
    assert order == ["a", "b", "b", "a", "a", "b"]
    assert all(len(seconds[name]) == 3 and min(seconds[name]) >= 0 for name in "ab")


def test_the_ratio_is_of_each_round():
    assert median_ratio([1.0, 30.0, 8.0], [1.0, 10.0, 2.0]) == 3.0


def test_memory_is_in_megabytes():
    """In a process of its own, since the peak of this one may lie behind it."""
    program = (
        "from benchmarks.measuring import peak_megabytes; before = peak_megabytes();"
        "block = b'x' * 300_000_000; print(before, peak_megabytes())"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=SCRIPTS, capture_output=True, text=True, check=True)
    before, after = map(float, done.stdout.split())
    assert 20 < before < 2000 and after - before > 200 and children_peak_megabytes() > 0
