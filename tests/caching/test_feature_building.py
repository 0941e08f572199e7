"""Features that the frozen trunk gives once must train the head as the clips themselves would."""

import os
import re
import shutil
from collections import namedtuple

import pytest
import torch

import train
from caching import feature_building, feature_cache, shards
from caching.feature_cache import FEATURE_TYPES, choose_views
from caching.shards import CacheError
from clips.samplers import EVALUATION, Sample
from helpers import training_processes
from helpers.interrupted_training import interrupt_in_second_epoch
from helpers.small_datasets import SMALL
from network.models import build_model, freeze
from network.precision import Precision, to_device
from runtime import distributed
from runtime.distributed import FolderSharers
from training import recipe

CLASSES = ["left_raise", "pushups", "squats"]
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def clip_cache(dataset, tmp_path_factory):
    """Where the decoded clips of `dataset` lie; shared, so that they are decoded once."""
    cache = tmp_path_factory.mktemp("cache")
    load_clips((dataset, cache))
    return cache


@pytest.fixture
def folder(dataset, clip_cache, tmp_path):
    """A folder of its own for what a test keeps, with the decoded clips in it: (data, cache)."""
    shutil.copytree(clip_cache, tmp_path / "cache", ignore=shutil.ignore_patterns("features"))
    return dataset, tmp_path / "cache"


def options(folder, *flags):
    data, cache = folder
    return [*SMALL, "--data-path", str(data), "--cache-dir", str(cache), "--cache-dataset", "--workers", "0", *flags]


def make_model(seed=0, trainable=("layer4", "fc")):
    torch.manual_seed(seed)
    model = build_model("mc3_18", 3)
    return model, freeze(model, trainable)


def load_clips(folder, *flags):
    """The flags' settings, and the clips of both splits."""
    parser = train.get_args_parser()
    args = parser.parse_args(options(folder, *flags))
    train.check_args(parser, args)
    clips, val_clips = recipe.load_clips(args, CLASSES)
    return args, (clips, [val_clips])


class Features:
    """What `train.py` makes of the flags: the clips, their features, the head."""

    def __init__(self, folder, *flags, model=None):
        args, (self.train_clips, self.val_clips) = load_clips(folder, "--cache-features", *flags)
        self.model, frozen = model or make_model()
        self.precision = Precision.of(args.amp, CPU)
        self.head, self.frozen, self.train, self.val = feature_building.train_on_features(
            *(self.model, frozen, args.trainable, self.train_clips, self.val_clips),
            precision=self.precision,
            dtype=args.feature_dtype,
            views=args.cache_features,
        )
        self.cache = self.train.loader.dataset.reader

    def of(self, sample, clips=None):
        """float32 (C, T, H, W) for a training sample."""
        dataset = (clips or self.train).loader.dataset
        batch = next((clips or self.train).loader.batches([sample]))
        return to_device(batch, dataset.to_inputs, self.precision)[0][0]

    def computed(self, sample, clips=None):
        """The same, from the clip itself."""
        clip = self.of(sample, clips or self.train_clips)
        with torch.inference_mode():
            return self.model.layer3(self.model.layer2(self.model.layer1(self.model.stem.eval()(clip[None]))))[0]


@pytest.fixture
def computed_samples(monkeypatch):
    """Every sample that a trunk was run on."""
    samples = []
    real = feature_building.compute_features

    def compute(trunk, clips, own, progress):
        samples.extend(own)
        yield from real(trunk, clips, own, progress)

    monkeypatch.setattr(feature_building, "compute_features", compute)
    return samples


def shards_of(folder):
    return sorted((folder[1] / "features").glob("*/*.shard"))


def test_training_on_features_is_the_same_training(folder, tmp_path):
    common = options(folder, "--augment", "none", "--epochs", "2", "--clips-per-video", "2")
    assert train.main([*common, "--output-dir", str(tmp_path / "plain")]) == 0
    cached = [*common, "--cache-features", "--feature-dtype", "fp32", "--output-dir", str(tmp_path / "cached")]
    assert train.main(cached) == 0
    for epoch in (0, 1):
        plain, features = (
            torch.load(tmp_path / run / f"model_{epoch}.pth", weights_only=True) for run in ("plain", "cached")
        )
        assert plain["model"].keys() == features["model"].keys() == build_model("mc3_18", 3).state_dict().keys()
        for name, value in plain["model"].items():
            torch.testing.assert_close(features["model"][name], value, rtol=0, atol=1e-5)
        assert features["best_video_acc1"] == plain["best_video_acc1"]
        assert len(features["optimizer"]["state"]) == len(plain["optimizer"]["state"])


def test_interrupted_training_on_features_resumes_the_same(folder, tmp_path, monkeypatch):
    common = options(folder, "--cache-features", "2", "--epochs", "2")
    assert train.main([*common, "--output-dir", str(tmp_path / "whole")]) == 0
    interrupt_in_second_epoch([*common, "--output-dir", str(tmp_path / "cut")], monkeypatch)
    checkpoint = tmp_path / "cut" / "checkpoint.pth"
    assert train.main([*common, "--output-dir", str(tmp_path / "cut"), "--resume", str(checkpoint)]) == 0
    whole, cut = (torch.load(tmp_path / run / "checkpoint.pth", weights_only=True)["model"] for run in ("whole", "cut"))
    assert all(torch.equal(whole[name], cut[name]) for name in whole)


@pytest.mark.parametrize("dtype", FEATURE_TYPES)
def test_entries_are_the_trunks_output_in_their_type(folder, dtype):
    run = Features(folder, "1", "--feature-dtype", dtype)
    for split_features, split_clips in ((run.train, run.train_clips), (run.val[0], run.val_clips[0])):
        for video in split_clips.videos.tolist():
            sample = Sample(video)
            expected = run.computed(sample, split_clips).to(FEATURE_TYPES[dtype]).float()
            torch.testing.assert_close(run.of(sample, split_features), expected, rtol=8e-3, atol=1e-5)
    assert run.cache.dtype(0).itemsize == FEATURE_TYPES[dtype].itemsize
    assert f"features of the trunk, {dtype}" in run.val[0].pixels


def test_views_are_the_official_clip_and_what_training_would_draw(folder):
    run = Features(folder, "3", "--feature-dtype", "fp32", "--official-start-prob", "0")
    seen = set()
    for epoch in range(6):
        for video in range(9):
            (view,) = choose_views(0, [Sample(video, 0, epoch)], 3)
            seen.add((video, view))
            drawn = Sample(video, 0, EVALUATION if view == 0 else view)
            features = run.of(Sample(video, 0, epoch))
            torch.testing.assert_close(features, run.computed(drawn), rtol=1e-5, atol=1e-5)
    assert len(seen) == 27
    views = [run.of(Sample(4, 0, epoch)) for epoch in range(3)]
    assert not torch.equal(views[0], views[1]) and not torch.equal(views[1], views[2])


def test_a_second_run_computes_nothing(folder, computed_samples):
    first = Features(folder, "2")
    assert len(computed_samples) == 9 * 2 + 6
    before = {path: path.stat().st_mtime_ns for path in shards_of(folder)}
    second = Features(folder, "2")
    assert len(computed_samples) == 24 and {path: path.stat().st_mtime_ns for path in shards_of(folder)} == before
    assert torch.equal(first.of(Sample(3, 0, 1)), second.of(Sample(3, 0, 1)))


def test_features_are_keyed_by_all_that_they_depend_on(folder, computed_samples):
    Features(folder, "1")
    computed_samples.clear()
    model, frozen = make_model()
    torch.nn.init.normal_(model.fc.weight)
    torch.nn.init.normal_(model.layer4[1].conv2[0].weight)
    Features(folder, "1", "--seed", "5", "--lr", "0.3", model=(model, frozen))
    assert not computed_samples  # neither head nor seed matters to official clips

    with torch.no_grad():
        model.layer3[1].conv2[1].running_var[0] += 1  # a buffer of the trunk does
    changed = Features(folder, "1", model=(model, frozen))
    assert len(computed_samples) == 15
    torch.testing.assert_close(changed.of(Sample(2)), changed.computed(Sample(2)), rtol=2e-3, atol=1e-3)
    for flags in (
        ["--feature-dtype", "bf16"],
        ["--amp", "bf16"],
        ["--frame-rate", "5"],
        ["--trainable", "layer3", "layer4", "fc"],
        ["--train-crop-size", "24", "24", "--val-crop-size", "24", "24"],
    ):
        computed_samples.clear()
        Features(folder, "1", *flags)
        assert len(computed_samples) == 15, flags
    computed_samples.clear()
    Features(folder, "2")
    assert len(computed_samples) == 18
    Features(folder, "2", "--seed", "5")
    assert len(computed_samples) == 36  # drawn views are another seed's


def test_only_changed_videos_are_computed_again(dataset, clip_cache, tmp_path, computed_samples):
    data = shutil.copytree(dataset, tmp_path / "data")
    folder = (data, tmp_path / "cache")
    Features(folder, "1")
    computed_samples.clear()
    os.utime(data / "train" / "pushups" / "00000001.mp4", ns=(1, 1))
    (data / "train" / "left_raise" / "00000000.mp4").unlink()
    run = Features(folder, "1")
    assert [(sample.video, sample.epoch) for sample in computed_samples] == [(3, EVALUATION)]
    torch.testing.assert_close(run.of(Sample(3)), run.computed(Sample(3)), rtol=2e-3, atol=1e-3)

    Features(folder, "2")
    computed_samples.clear()
    (data / "train" / "pushups" / "00000001.mp4").unlink()
    run = Features(folder, "2")
    # Draws are seeded by the row: those of the videos behind have moved.
    assert {(sample.video, sample.epoch) for sample in computed_samples} == {(video, 1) for video in range(3, 7)}
    epoch = next(epoch for epoch in (0, 1) if choose_views(0, [Sample(5, 0, epoch)], 2) == [1])
    drawn = run.computed(Sample(5, 0, 1))
    torch.testing.assert_close(run.of(Sample(5, 0, epoch)), drawn, rtol=2e-3, atol=1e-3)


@pytest.mark.parametrize("damage", ["cut short", "changed"])
def test_a_damaged_shard_is_never_served(folder, computed_samples, damage, capsys):
    expected = [Features(folder, "1").of(Sample(video)) for video in range(9)]
    computed_samples.clear()
    for path in shards_of(folder):
        data = bytearray(path.read_bytes())
        if damage == "cut short":
            data = data[:-5]
        else:
            data[len(data) // 3] ^= 1
        path.write_bytes(data)
    run = Features(folder, "1")
    assert len(computed_samples) == 15 and "computed again" in capsys.readouterr().out
    assert all(torch.equal(run.of(Sample(video)), expected[video]) for video in range(9))
    assert len(shards_of(folder)) == 2


def test_what_was_finished_before_an_error_is_kept(folder, monkeypatch, computed_samples):
    monkeypatch.setattr(shards, "SHARD_BYTES", 1)
    real = feature_building.Trunk.features
    calls = []

    def failing(self, batch, dataset):
        calls.append(batch)
        if len(calls) == 4:  # two batches of validation, then the second of training
            raise KeyboardInterrupt
        return real(self, batch, dataset)

    with monkeypatch.context() as patch:
        patch.setattr(feature_building.Trunk, "features", failing)
        with pytest.raises(KeyboardInterrupt):
            Features(folder, "1")
    assert len(shards_of(folder)) == 6 + 4 and not list((folder[1] / "features").glob("*/.*.tmp"))
    computed_samples.clear()
    Features(folder, "1")
    assert len(computed_samples) == 5


def test_processes_share_the_work(folder, monkeypatch, computed_samples):
    shares = []
    for rank in (0, 1):
        with monkeypatch.context() as patch:
            patch.setattr(distributed, "rank", lambda rank=rank: rank)
            patch.setattr(feature_building, "folder_sharers", lambda folder: FolderSharers((0, 0)))
            patch.setattr(feature_cache.FeatureCache, "missing", share_of_all_missing)
            Features(folder, "1")
        shares.append({(sample.video, sample.epoch) for sample in computed_samples[-8:]})
        computed_samples.clear()
    run = Features(folder, "1")
    assert not computed_samples
    assert all(run.of(Sample(video)).isfinite().all() for video in range(9))


def share_of_all_missing(cache, videos):
    """As both processes see it, before one of them has added anything."""
    return [Sample(video, 0, EVALUATION) for video in videos.tolist()]


def test_features_that_do_not_fit_into_the_type_are_refused(folder):
    model, frozen = make_model()
    with torch.no_grad():
        model.layer3[1].conv2[1].bias += 1e5
    with pytest.raises(CacheError, match=r"mp4: its features, up to 1e\+05, do not fit into fp16: .* bf16"):
        Features(folder, "1", model=(model, frozen))
    assert Features(folder, "1", "--feature-dtype", "bf16", model=(model, frozen)).of(Sample(0)).max() > 9e4


def test_too_little_space_is_said_before_any_work(folder, monkeypatch, computed_samples):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10, 10, 100))
    with pytest.raises(
        CacheError, match=r"the features need about 0 MB in .*features, where .* are free: .*--cache-dir"
    ):
        Features(folder, "1")
    assert not computed_samples and not shards_of(folder)


@pytest.mark.parametrize("processes", [1, 2])
def test_a_folder_that_cannot_be_written_is_said_by_every_process(dataset, tmp_path, processes):
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "features").write_bytes(b"a file where the folder should be")
    own = ["--data-path", dataset, "--cache-dir", tmp_path / "cache", "--output-dir", tmp_path / "run"]
    code, output = training_processes.run([*SMALL, "--workers", "0", "--cache-features", *own], processes)
    said = "error: the feature cache is not complete, and .* cannot be written .*--cache-dir"
    assert code == 1 and "Traceback" not in output and len(re.findall(said, output)) == processes, output


@pytest.mark.parametrize(
    "flags, reason",
    [
        (["--cache-features", "--trainable", "all"], "no frozen trunk"),
        (["--cache-features", "--trainable", "stem", "fc"], "no frozen trunk"),
        (["--cache-features", "3", "--augment", "none"], "all views of a clip would be the same"),
        (["--cache-features", "0"], "whole number above 0"),
        (["--cache-features", "--feature-dtype", "int8"], "invalid choice"),
    ],
)
def test_what_cannot_be_right_is_refused_with_the_reason(folder, flags, reason, capsys):
    with pytest.raises(SystemExit) as stop:
        train.main(options(folder, *flags))
    assert stop.value.code == 2 and reason in " ".join(capsys.readouterr().err.split())


def test_validation_alone_takes_the_whole_network(folder, tmp_path, capsys):
    common = options(folder, "--cache-features", "--feature-dtype", "fp32")
    assert train.main([*common, "--epochs", "1", "--output-dir", str(tmp_path)]) == 0
    trained = [line for line in capsys.readouterr().out.splitlines() if line.startswith(" * ")]
    resume = ["--resume", str(tmp_path / "checkpoint.pth"), "--test-only", "--output-dir", str(tmp_path)]
    assert train.main([*common, *resume]) == 0
    out = capsys.readouterr().out
    assert [line for line in out.splitlines() if line.startswith(" * ")] == trained
    assert "features of the trunk" not in out
