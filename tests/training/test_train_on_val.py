"""A last run on everything: both splits are trained on, nothing is chosen by them, and what is told says so."""

import json

import pytest
import torch

import average_checkpoints
import export_onnx
import train
from caching.splits import ClipOptions, join, open_splits
from clips.preprocessing import Preprocessing
from clips.samplers import Sample
from helpers.extras import require_extra
from helpers.interrupted_training import interrupt_in_second_epoch
from helpers.small_datasets import SMALL
from videos.folder import VideoFolder

SEEN = "of videos seen in training"
PREPROCESSING = Preprocessing(4, resize_size=(32, 40), crop_size=(28, 28))


@pytest.fixture
def options(dataset, tmp_path):
    small = [*SMALL, "--data-path", str(dataset), "--cache-dir", str(tmp_path / "cache"), "--cache-dataset"]
    return [*small, "--trainable", "fc", "--epochs", "2", "--output-dir", str(tmp_path / "run")]


def load(path):
    return torch.load(path, weights_only=True)


@pytest.mark.parametrize("cached", [True, False])
@pytest.mark.parametrize("strong", [True, False])
def test_joined_clips_are_those_of_both_folders(dataset, tmp_path, cached, strong):
    clip_options = ClipOptions(
        PREPROCESSING, tmp_path, batch_size=4, num_workers=2, cached=cached, strong=strong, random=True
    )
    parts = open_splits([(VideoFolder(dataset / split), clip_options) for split in ("train", "val")])
    joined = join(parts)
    folder = joined.loader.dataset.folder
    assert len(folder) == 15 and joined.videos.tolist() == list(range(15)) and joined.skipped == 0
    assert folder.names.string(9).startswith("val/left_raise/") and folder.path(9) == parts[
        1
    ].loader.dataset.folder.path(0)
    assert folder.labels.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2, 0, 0, 1, 1, 2, 2]
    own = [clips.loader.batches([Sample(video, 0) for video in clips.videos.tolist()]) for clips in parts]
    expected = torch.cat([batch.clips for batches in own for batch in batches])
    batches = list(joined.loader.batches([Sample(video, 0) for video in range(15)]))
    assert torch.equal(torch.cat([batch.clips for batch in batches]), expected)
    assert torch.equal(torch.cat([batch.targets for batch in batches]), torch.from_numpy(folder.labels))
    caches = [path for path in tmp_path.iterdir() if path.is_dir()]
    assert len(caches) == (2 if cached else 0)  # those of the two splits: nothing is decoded again


def test_a_run_on_everything_ends_with_its_last_epoch_and_says_what_it_has_seen(options, dataset, tmp_path, capsys):
    assert train.main([*options, "--train-on-val"]) == 0
    out = capsys.readouterr().out
    assert "15 training videos" in out and "4 steps each" in out and "best" not in out.split("Report:")[0]
    assert out.count(" * Video Acc@1") == out.count(SEEN) == 2
    run = tmp_path / "run"
    assert {path.name for path in run.glob("*.pth")} == {"model_0.pth", "model_1.pth", "checkpoint.pth"}
    metrics = json.loads((run / "metrics.json").read_text())
    table = [line.split(",") for line in (run / "per_class.csv").read_text().splitlines()]
    assert [row[-1] for row in table] == ["seen_in_training", *["yes"] * (len(table) - 1)]
    assert metrics["seen_in_training"] and metrics["checkpoint"] == str(run / "checkpoint.pth")
    assert "These videos were seen in training" in (run / "report.html").read_text()
    log = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert all(entry["val_seen_in_training"] for entry in log)
    assert metrics["video_acc1"] == pytest.approx(log[-1]["val_video_acc1"])


@pytest.fixture(scope="module")
def seen_run(dataset, tmp_path_factory):
    """The checkpoint of a run on everything, and its options."""
    folder = tmp_path_factory.mktemp("seen")
    common = [*SMALL, "--data-path", str(dataset), "--cache-dir", str(folder / "cache"), "--trainable", "fc"]
    run = ["--epochs", "1", "--train-on-val", "--output-dir", str(folder), "--model-ema", "--lr", "0.1"]
    assert train.main([*common, *run]) == 0
    return folder / "checkpoint.pth", common


def test_the_average_is_the_result_where_one_is_kept(seen_run):
    checkpoint = load(seen_run[0])
    assert checkpoint["model_ema"] == {"updates": 4, "is_used": True}
    assert not torch.equal(checkpoint["model"]["fc.weight"], checkpoint["training_model"]["fc.weight"])
    assert checkpoint["best_video_acc1"] == -1


def test_validating_it_later_says_that_it_has_seen_the_videos(seen_run, dataset, tmp_path, capsys):
    path, common = seen_run
    test = [*common, "--test-only", "--resume", str(path), "--output-dir", str(tmp_path)]
    assert train.main(test) == 0
    assert SEEN in capsys.readouterr().out
    assert json.loads((tmp_path / "eval_checkpoint" / "metrics.json").read_text())["seen_in_training"]
    (tmp_path / "other").symlink_to(dataset)  # the same data by another name
    assert train.main([*test, "--data-path", str(tmp_path / "other")]) == 0
    assert SEEN in capsys.readouterr().out
    checkpoint = load(path)
    torch.save({**checkpoint, "args": {**checkpoint["args"], "data_path": "elsewhere"}}, tmp_path / "moved.pth")
    assert train.main([*common, "--test-only", "--resume", str(tmp_path / "moved.pth")]) == 0
    out = capsys.readouterr().out
    assert "elsewhere/val too: if these videos are of it, it has seen them" in out and SEEN not in out


def test_nothing_is_fitted_or_chosen_by_what_was_seen(seen_run, dataset, tmp_path, capsys):
    path, common = seen_run
    assert train.main([*common, "--test-only", "--calibrate", "--resume", str(path)]) == 1
    assert "no temperature can be fitted" in capsys.readouterr().err
    soup = [str(path), str(seen_copy(path, tmp_path)), "--output", str(tmp_path / "soup.pth")]
    assert average_checkpoints.main([*soup, "--greedy", "--data-path", str(dataset), "--device", "cpu"]) == 1
    assert "--greedy chooses by the videos of val/" in capsys.readouterr().err
    assert average_checkpoints.main(soup) == 0


def seen_copy(path, tmp_path):
    copy = tmp_path / "copy.pth"
    copy.write_bytes(path.read_bytes())
    return copy


def test_an_exports_proof_says_so_too(seen_run, dataset, tmp_path, capsys):
    for extra in ("onnx", "onnxscript", "onnxruntime"):
        require_extra(extra)
    flags = ["--output", str(tmp_path / "m.onnx"), "--data-path", str(dataset), "--cache-dir", str(tmp_path)]
    assert export_onnx.main([str(seen_run[0]), *flags]) == 0
    assert "by ONNX Runtime of videos seen in training" in capsys.readouterr().out


def test_a_run_does_not_become_one_of_the_other_kind(seen_run, tmp_path, capsys):
    path, common = seen_run
    more = [*common, "--epochs", "2", "--output-dir", str(tmp_path / "a"), "--resume", str(path)]
    assert train.main(more) == 1
    assert "is of a run with --train-on-val, which this run is not: begin a new run" in capsys.readouterr().err
    torch.save({**load(path), "args": {}}, tmp_path / "plain.pth")
    assert train.main([*more[:-1], str(tmp_path / "plain.pth"), "--train-on-val"]) == 1
    assert "is of a run without --train-on-val" in capsys.readouterr().err


def test_it_resumes_exactly(options, tmp_path, monkeypatch):
    common = [*options, "--train-on-val", "--trainable", "layer4", "fc", "--model-ema"]
    assert train.main([*common, "--output-dir", str(tmp_path / "whole")]) == 0
    interrupt_in_second_epoch([*common, "--output-dir", str(tmp_path / "cut")], monkeypatch)
    assert train.main([*common, "--output-dir", str(tmp_path / "cut"), "--resume", "auto"]) == 0
    whole, cut = (load(tmp_path / name / "checkpoint.pth") for name in ("whole", "cut"))
    for part in ("model", "training_model", "optimizer"):
        torch.testing.assert_close(cut[part], whole[part], rtol=0, atol=0)
    assert not (tmp_path / "cut" / "model_best.pth").exists()


def test_the_head_is_trained_on_features_of_both(options, tmp_path, capsys):
    assert train.main([*options, "--train-on-val", "--cache-features"]) == 0
    out = capsys.readouterr().out
    assert "15 training videos" in out and "Features of training: 15 to compute" in out


@pytest.mark.parametrize(
    "flags, word",
    [
        (["--early-stop", "2"], "--early-stop"),
        (["--calibrate"], "--calibrate"),
        (["--test-only"], "--test-only"),
        (["--teacher-logits", "x.npz"], "--teacher-logits"),
    ],
)
def test_what_chooses_or_lacks_val_is_refused(options, flags, word, capsys):
    with pytest.raises(SystemExit) as stop:
        train.main([*options, "--train-on-val", *flags])
    assert stop.value.code == 2 and word in capsys.readouterr().err
