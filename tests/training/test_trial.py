import shutil
import time

import pytest
import torch

from caching.clip_cache import CacheSettings
from clips.preprocessing import Preprocessing
from network.precision import Precision
from training import trial

SETTINGS = CacheSettings(Preprocessing(clip_len=4, resize_size=(32, 40), crop_size=(28, 28)))


@pytest.mark.parametrize("encoding", ["raw", "jpeg"])
def test_a_tried_video_tells_what_the_cache_would_keep(dataset, encoding):
    path = str(dataset / "train" / "squats" / "00000000.mp4")
    (tried,) = trial.try_videos([path], CacheSettings(SETTINGS.preprocessing, encoding), 0, 60)
    assert tried.reason is None and min(tried.scan_seconds, tried.strip_seconds, tried.clip_seconds) > 0
    assert tried.num_frames == 4  # a short video gives one clip
    raw = 4 * 32 * 40 * 3
    assert tried.cache_bytes == raw if encoding == "raw" else 0 < tried.cache_bytes < raw


def test_what_cannot_be_read_is_told_by_workers_too(dataset, tmp_path):
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    shutil.copy(dataset / "train" / "squats" / "00000000.mp4", tmp_path / "good.mp4")
    paths = [str(tmp_path / name) for name in ("broken.mp4", "good.mp4", "missing.mp4")]
    tried = trial.try_videos(paths, SETTINGS, 1, 600)
    assert [video.path for video in tried] == paths
    assert [video.reason is None for video in tried] == [False, True, False]


@pytest.mark.parametrize("seconds, expected", [(0, 1), (3, 3)])
def test_trying_ends_when_the_time_is_over(dataset, monkeypatch, seconds, expected):
    ticks = iter(range(100))
    monkeypatch.setattr(time, "monotonic", lambda: next(ticks))  # twice at the first video, then once for each
    monkeypatch.setattr(trial, "map_in_workers", lambda *_, **__: (path for path in "abcdef"))
    assert len(trial.try_videos("abcdef", SETTINGS, 0, seconds)) == expected


@pytest.mark.parametrize("on_features", [False, True])
def test_steps_are_timed_on_clips_or_on_features(monkeypatch, on_features):
    monkeypatch.setattr(trial, "STEP_SECONDS", 0)
    shape, precision = (2, 3, 4, 28, 28), Precision.of("off", torch.device("cpu"))
    seconds = trial.time_steps("mc3_18", 3, ["layer4", "fc"], shape, precision, on_features)
    assert seconds.train > 0 and seconds.validate > 0 and (seconds.trunk > 0) == on_features
