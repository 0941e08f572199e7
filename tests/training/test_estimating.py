import argparse
import shutil
import time
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torchvision.models.video import mc3_18

import train
from caching.clip_cache import CacheSettings
from clips.preprocessing import Preprocessing
from network.precision import Precision
from training import estimating
from training.estimating import Need, Rates, StepSeconds, TriedVideo, Work
from training.option_checks import check_args

SETTINGS = CacheSettings(Preprocessing(clip_len=4, resize_size=(32, 40), crop_size=(28, 28)))


@pytest.mark.parametrize("encoding", ["raw", "jpeg"])
def test_a_tried_video_tells_what_the_cache_would_keep(dataset, encoding):
    path = str(dataset / "train" / "squats" / "00000000.mp4")
    (tried,) = estimating.try_videos([path], CacheSettings(SETTINGS.preprocessing, encoding), 0, 60)
    assert tried.reason is None and min(tried.scan_seconds, tried.strip_seconds, tried.clip_seconds) > 0
    assert tried.num_frames == 4  # a short video gives one clip
    raw = 4 * 32 * 40 * 3
    assert tried.cache_bytes == raw if encoding == "raw" else 0 < tried.cache_bytes < raw


def test_what_cannot_be_read_is_told_by_workers_too(dataset, tmp_path):
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    shutil.copy(dataset / "train" / "squats" / "00000000.mp4", tmp_path / "good.mp4")
    paths = [str(tmp_path / name) for name in ("broken.mp4", "good.mp4", "missing.mp4")]
    tried = estimating.try_videos(paths, SETTINGS, 1, 600)
    assert [video.path for video in tried] == paths
    assert [video.reason is None for video in tried] == [False, True, False]


@pytest.mark.parametrize("seconds, expected", [(0, 1), (3, 3)])
def test_trying_ends_when_the_time_is_over(dataset, monkeypatch, seconds, expected):
    ticks = iter(range(100))
    monkeypatch.setattr(time, "monotonic", lambda: next(ticks))  # twice at the first video, then once for each
    monkeypatch.setattr(estimating, "map_in_workers", lambda *_, **__: (path for path in "abcdef"))
    assert len(estimating.try_videos("abcdef", SETTINGS, 0, seconds)) == expected


@pytest.mark.parametrize("on_features", [False, True])
def test_steps_are_timed_on_clips_or_on_features(monkeypatch, on_features):
    monkeypatch.setattr(estimating, "STEP_SECONDS", 0)
    shape, precision = (2, 3, 4, 28, 28), Precision.of("off", torch.device("cpu"))
    seconds = estimating.time_steps("mc3_18", 3, ["layer4", "fc"], shape, precision, on_features)
    assert seconds.train > 0 and seconds.validate > 0 and (seconds.trunk > 0) == on_features


STEPS = StepSeconds(train=0.5, validate=0.2, trunk=0.4)
RATES = Rates(scan=0.01, strip=0.1, clip=0.05, steps=STEPS)
WORK = Work(videos=1000, to_cache=900, train_clips=800, val_clips=200, views=None, is_cached=False, epochs=10)


def test_rates_are_of_all_workers_and_of_videos_that_can_be_read():
    tried = [TriedVideo("a", None, 0.02, 0.2, 0.1), TriedVideo("b", None, 0.06, 0.4, 0.2), TriedVideo("c", "broken")]
    rates = Rates.of(tried, STEPS, workers=4)
    assert (rates.scan, rates.strip, rates.clip) == pytest.approx((0.01, 0.075, 0.0375))
    assert Rates.of([], STEPS, 0).strip == 0


@pytest.mark.parametrize(
    "changes, is_shared, expected",
    [
        # An epoch: 800 x 0.5 + 200 x 0.2 = 440 s to compute, 1000 x 0.05 = 50 s to decode.
        ({}, True, {"scan": 10, "epoch": 490, "decoding in an epoch": 50, "all": 10 + 4900}),
        ({}, False, {"epoch": 440, "all": 10 + 4400}),
        ({"is_cached": True}, True, {"clip cache": 90, "epoch": 440, "decoding in an epoch": 0, "all": 90 + 4400}),
        # 800 x 3 + 200 features: 2600 x 0.4 s to compute, and 2600 x 0.05 s to decode without the clip cache.
        ({"is_cached": True, "views": 3}, True, {"features": 1040, "epoch": 440, "all": 90 + 1040 + 4400}),
        ({"views": 3}, True, {"features": 1170, "decoding in an epoch": 0}),
        ({"views": 3}, False, {"features": 1040}),
    ],
)
def test_times_are_counts_times_rates(changes, is_shared, expected):
    found = replace(WORK, **changes).seconds(RATES, is_shared)
    assert {name: found[name] for name in expected} == pytest.approx(expected)
    assert ("features" in found) == ("views" in changes)


def options(*flags) -> argparse.Namespace:
    parser = train.get_args_parser()
    args = parser.parse_args(["--data-path", "d", *flags])
    check_args(parser, args)
    return args


def test_space_is_counts_times_sizes():
    tried = [TriedVideo("a", num_frames=20, cache_bytes=100_000), TriedVideo("b", num_frames=30, cache_bytes=300_000)]
    needs = WORK.bytes(options("--epochs", "4"), tried)
    assert needs["clip cache"].bytes == pytest.approx(900 * 25 * 128 * 171 * 3)
    assert not needs["clip cache"].is_wanted and not needs["features"].is_wanted
    assert needs["features"].bytes == 1000 * 401_408  # the README's 401 kB
    wanted = replace(WORK, views=2).bytes(options("--cache-features", "2", "--feature-dtype", "fp32"), tried)
    assert wanted["features"].bytes == 1800 * 2 * 401_408 and wanted["features"].is_wanted
    jpeg = WORK.bytes(options("--cache-format", "jpeg", "--cache-dataset"), tried)["clip cache"]
    assert jpeg.bytes == pytest.approx(900 * 200_000) and jpeg.is_wanted
    assert "features" not in WORK.bytes(options("--trainable", "all"), tried)
    assert {"4 checkpoints"} < needs.keys()
    assert "4 checkpoints" in WORK.bytes(options("--keep-checkpoints", "2"), tried)
    shorter_side = ["--val-resize-size", "128", "--train-resize-size", "128"]  # which a clip cache does not take
    assert "clip cache" not in WORK.bytes(options(*shorter_side), tried)


def test_work_follows_from_the_options():
    assert Work.of(options("--clips-per-video", "2"), 80, 20, 7) == Work(100, 7, 160, 40, None, False, 15)
    work = Work.of(options("--train-on-val", "--cache-features", "3", "--epochs", "4"), 80, 20, 0)
    assert (work.train_clips, work.val_clips, work.views, work.epochs) == (100, 20, 3, 4)


@pytest.mark.parametrize("opt, make", [("sgd", torch.optim.SGD), ("adamw", torch.optim.AdamW)])
def test_a_checkpoint_has_about_the_size_of_what_torch_saves(tmp_path, opt, make):
    model = mc3_18(num_classes=1)
    model.requires_grad_(False)
    model.layer4.requires_grad_(True)
    momentum = {"momentum": 0.9} if opt == "sgd" else {}
    optimizer = make([weight for weight in model.parameters() if weight.requires_grad], lr=0.1, **momentum)
    for weight in model.layer4.parameters():
        weight.grad = torch.zeros_like(weight)
    optimizer.step()
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, tmp_path / "saved.pth")
    expected = (tmp_path / "saved.pth").stat().st_size
    assert estimating.checkpoint_bytes("mc3_18", ["layer4"], opt, ema=False) == pytest.approx(expected, rel=0.01)


@pytest.mark.parametrize("free, told", [(299, True), (300, False)])
def test_needs_on_one_disk_are_added_up(tmp_path, monkeypatch, free, told):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=free * 10**6))
    needs = {
        "clip cache": Need(200e6, tmp_path / "new" / "cache", True, "use jpeg"),
        "2 checkpoints": Need(100e6, tmp_path, True, "keep fewer"),
    }
    problems = estimating.space_problems(needs)
    assert len(problems) == told
    if told:
        assert all(words in problems[0] for words in ("clip cache 0.2 GB", "2 checkpoints 0.1 GB", "use jpeg"))
