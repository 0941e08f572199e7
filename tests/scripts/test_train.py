"""The training script from end to end, on small videos."""

import argparse
import json
import os
import re
import shutil

import pytest
import torch
from torchvision.models.video import mc3_18, r2plus1d_18

import train
from helpers.interrupted_training import interrupt_in_second_epoch
from helpers.small_datasets import make_dataset, write_moving_bar
from reporting.run_folder import sole_run


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path, monkeypatch):
    """--test-only writes its report into the current folder where no other is given."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def finished_run(dataset, tmp_path_factory):
    """Two epochs from a cache: (folder, arguments)."""
    from helpers.small_datasets import SMALL

    folder = tmp_path_factory.mktemp("run")
    options = [
        *SMALL,
        "--data-path",
        str(dataset),
        "--cache-dir",
        str(folder / "cache"),
        "--epochs",
        "2",
        "--cache-dataset",
    ]
    assert train.main([*options, "--output-dir", str(folder / "run")]) == 0
    return folder / "run", options


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """The default --output-dir is the working directory."""
    monkeypatch.chdir(tmp_path)


def accuracies(text):
    return re.findall(r"^ \* (\w+) Acc@1 ([\d.]+) \1 Acc@5 ([\d.]+)$", text, re.MULTILINE)


def load(path):
    return torch.load(path, weights_only=True)


def same_weights(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_a_run_leaves_checkpoints_log_and_args(finished_run):
    folder, _ = finished_run
    assert {path.name for path in folder.glob("*.pth")} == {
        "model_0.pth",
        "model_1.pth",
        "checkpoint.pth",
        "model_best.pth",
    }
    assert os.path.samefile(folder / "checkpoint.pth", folder / "model_1.pth")
    checkpoint = load(folder / "checkpoint.pth")
    expected = {"model", "optimizer", "lr_scheduler", "scaler", "epoch", "best_video_acc1", "classes", "preprocessing"}
    assert expected | {"args", "rng"} <= checkpoint.keys()
    assert checkpoint["classes"] == ["left_raise", "pushups", "squats"] and checkpoint["epoch"] == 1
    mc3_18(num_classes=3).load_state_dict(checkpoint["model"])
    assert isinstance(checkpoint["args"], dict) and checkpoint["preprocessing"]["clip_len"] == 4
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [0, 1]
    assert {"train_loss", "val_loss", "val_video_acc1", "lr", "seconds", "data_seconds"} <= lines[0].keys()
    assert lines[1]["lr"] < 0.05 * checkpoint["args"]["lr"]
    assert json.loads((folder / "args.json").read_text())["clip_len"] == 4
    assert not list(folder.glob(".*"))


def test_validation_of_the_checkpoint_prints_what_training_printed(finished_run, tmp_path, capsys):
    folder, options = finished_run
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    resume = ["--resume", str(folder / "checkpoint.pth"), "--test-only", "--output-dir", str(folder)]
    assert train.main([*options, *resume]) == 0
    out = capsys.readouterr().out
    last = json.loads((folder / "log.jsonl").read_text().splitlines()[-1])
    (clip, clip1, _), (video, video1, video5) = accuracies(out)
    assert (clip, video) == ("Clip", "Video")
    assert float(clip1) == pytest.approx(last["val_clip_acc1"], abs=5e-4)
    assert float(video1) == pytest.approx(last["val_video_acc1"], abs=5e-4)
    assert float(video5) == 100  # three classes
    assert "6 videos, 6 clips; official frames, 4 at 4 a second" in out
    assert all(path.stat().st_mtime_ns == before[path] for path in before)


def test_validation_needs_no_training_videos_and_takes_several_clips(finished_run, dataset, tmp_path, capsys):
    folder, options = finished_run
    shutil.copytree(dataset / "val", tmp_path / "data" / "val")
    options = [*options, "--data-path", str(tmp_path / "data"), "--cache-dir", str(tmp_path / "cache")]
    assert (
        train.main([*options, "--resume", str(folder / "checkpoint.pth"), "--test-only", "--clips-per-video", "3"]) == 0
    )
    assert "6 videos, 18 clips" in capsys.readouterr().out


def test_interrupting_and_resuming_changes_nothing(dataset, tmp_path, small_options, monkeypatch):
    common = [*small_options, "--data-path", str(dataset), "--cache-dir", str(tmp_path / "cache"), "--epochs", "3"]
    common += ["--cache-dataset", "--opt", "adamw", "--lr", "1e-4"]
    assert train.main([*common, "--output-dir", str(tmp_path / "whole")]) == 0
    interrupt_in_second_epoch([*common, "--output-dir", str(tmp_path / "cut")], monkeypatch)
    checkpoint = tmp_path / "cut" / "checkpoint.pth"
    assert load(checkpoint)["epoch"] == 0
    # With another number of workers, which must not matter.
    assert (
        train.main([*common, "--output-dir", str(tmp_path / "cut"), "--resume", str(checkpoint), "--workers", "0"]) == 0
    )
    whole, cut = load(tmp_path / "whole" / "checkpoint.pth"), load(checkpoint)
    assert same_weights(whole["model"], cut["model"])
    assert whole["lr_scheduler"] == cut["lr_scheduler"]
    logs = [(tmp_path / run / "log.jsonl").read_text().splitlines() for run in ("whole", "cut")]
    values = [[{k: v for k, v in json.loads(line).items() if "seconds" not in k} for line in log] for log in logs]
    assert values[0] == values[1]


def test_frozen_layers_stay_bit_identical(finished_run):
    folder, _ = finished_run
    first, second = load(folder / "model_0.pth")["model"], load(folder / "model_1.pth")["model"]
    changed = {name for name in first if not torch.equal(first[name], second[name])}
    assert changed and {name.split(".")[0] for name in changed} == {"layer4", "fc"}


def test_without_a_cache_the_float_path_is_taken_and_said(dataset, tmp_path, small_options, capsys):
    options = [*small_options, "--data-path", str(dataset), "--cache-dir", str(tmp_path), "--epochs", "1"]
    assert train.main([*options, "--output-dir", str(tmp_path / "run")]) == 0
    assert "pixels: decoded, float" in capsys.readouterr().out
    assert list(tmp_path.glob("*.index"))


def test_a_new_run_does_not_write_over_an_old_one(finished_run, capsys):
    folder, options = finished_run
    assert train.main([*options, "--output-dir", str(folder)]) == 1
    error = capsys.readouterr().err
    assert "--resume" in error and "--overwrite" in error and "Traceback" not in error


@pytest.mark.parametrize("flag", ["--overwrite", "--resume=auto"])
def test_a_folder_in_which_a_run_trains_is_left_alone(finished_run, capsys, flag):
    folder, options = finished_run
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    with sole_run(folder):  # as the other run has
        assert train.main([*options, "--output-dir", str(folder), flag]) == 1
    assert f"error: another run is at work in {folder}: wait" in capsys.readouterr().err
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == before


def test_overwrite_begins_anew(finished_run, tmp_path):
    folder, options = finished_run
    shutil.copytree(folder, tmp_path / "run")
    assert train.main([*options, "--output-dir", str(tmp_path / "run"), "--overwrite", "--epochs", "1"]) == 0
    assert {path.name for path in tmp_path.glob("run/model_*")} == {"model_0.pth", "model_best.pth"}
    assert len((tmp_path / "run" / "log.jsonl").read_text().splitlines()) == 1


def test_a_given_start_epoch_wins(finished_run, tmp_path, capsys):
    folder, options = finished_run
    resume = ["--resume", str(folder / "checkpoint.pth"), "--output-dir", str(tmp_path / "run")]
    assert train.main([*options, *resume, "--start-epoch", "1"]) == 0
    assert [json.loads(line)["epoch"] for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()] == [1]
    capsys.readouterr()
    assert train.main([*options, *resume, "--epochs", "2"]) == 1
    assert "holds another run already" in capsys.readouterr().err
    assert train.main([*options, *resume, "--resume", "auto", "--epochs", "2"]) == 0
    assert "Nothing is left to train" in capsys.readouterr().out


def test_unreadable_files_are_all_named_before_the_first_step(dataset, tmp_path, small_options, capsys):
    data = tmp_path / "data"
    shutil.copytree(dataset, data)
    broken = [data / "train/pushups/a.mp4", data / "train/squats/b.mp4", data / "val/squats/c.mp4"]
    for path in broken:
        path.write_bytes(b"no video")
    options = [*small_options, "--data-path", str(data), "--output-dir", str(tmp_path / "run"), "--epochs", "1"]
    for cached in ([], ["--cache-dataset"]):
        assert train.main([*options, *cached]) == 1
        error = capsys.readouterr().err
        assert all(str(path) in error for path in broken) and error.count("--skip-unreadable") == 1
        assert "check_videos.py" in error and not (tmp_path / "run").exists()
    assert train.main([*options, "--skip-unreadable"]) == 0
    out = capsys.readouterr().out
    assert "6 videos, 6 clips, 1 unreadable videos not scored" in out


def test_a_frame_that_fails_later_stops_the_run_and_names_the_file(dataset, tmp_path, small_options, capsys):
    data = tmp_path / "data"
    shutil.copytree(dataset, data)
    options = [*small_options, "--data-path", str(data), "--output-dir", str(tmp_path / "run"), "--epochs", "1"]
    assert train.main([*options, "--overwrite"]) == 0
    # The same size and time, so that the index believes its scan: one video's data becomes noise.
    victim = data / "train/squats/00000001.mp4"
    status, content = victim.stat(), bytearray(victim.read_bytes())
    start = content.index(b"mdat") + 8
    content[start:] = os.urandom(len(content) - start)
    victim.write_bytes(content)
    os.utime(victim, ns=(status.st_atime_ns, status.st_mtime_ns))
    capsys.readouterr()
    assert train.main([*options, "--overwrite"]) == 1
    assert str(victim) in capsys.readouterr().err


def test_classes_are_matched_by_name(finished_run, tmp_path, capsys):
    folder, options = finished_run
    data = tmp_path / "data"
    write_moving_bar(data / "val" / "squats" / "v.mp4", seed=3)
    resume = ["--resume", str(folder / "checkpoint.pth"), "--test-only", "--data-path", str(data)]
    resume += ["--cache-dir", str(tmp_path / "cache")]
    assert train.main([*options, *resume]) == 0  # two classes are absent, the third keeps its index
    capsys.readouterr()
    write_moving_bar(data / "val" / "planks" / "v.mp4", seed=4)
    assert train.main([*options, *resume]) == 1
    assert "planks" in capsys.readouterr().err


def test_a_checkpoint_with_the_order_of_a_class_map_is_validated_and_another_refused(finished_run, tmp_path, capsys):
    folder, options = finished_run
    path = tmp_path / "class_map.json"
    test = [*options, "--resume", str(folder / "checkpoint.pth"), "--test-only", "--class-map", str(path)]
    path.write_text('{"0": "left raise", "1": "pushups", "2": "squats"}')
    assert train.main(test) == 0
    path.write_text('{"0": "left raise", "1": "squats", "2": "pushups"}')
    assert train.main(test) == 1
    assert "class 1 is 'pushups' there and 'squats' in the map" in capsys.readouterr().err
    with pytest.raises(SystemExit) as stop:
        train.main([*options, "--class-map", str(path)])
    assert stop.value.code == 2 and "--test-only" in capsys.readouterr().err


def test_absent_classes_keep_their_index(finished_run, dataset, tmp_path):
    folder, _ = finished_run
    from videos.folder import VideoFolder

    classes = load(folder / "checkpoint.pth")["classes"]
    shutil.copytree(dataset / "val" / "squats", tmp_path / "squats")
    assert VideoFolder(tmp_path, classes).labels.tolist() == [2, 2]


def test_weights_from_a_checkpoint_keep_the_head_where_the_classes_are_the_same(finished_run, tmp_path, capsys):
    folder, options = finished_run
    weights = ["--weights", str(folder / "checkpoint.pth"), "--output-dir"]
    assert train.main([*options, *weights, str(tmp_path / "a"), "--epochs", "1", "--lr", "1e-9"]) == 0
    assert "its head is kept" in capsys.readouterr().out
    old, new = load(folder / "checkpoint.pth")["model"], load(tmp_path / "a" / "checkpoint.pth")["model"]
    assert torch.allclose(old["fc.weight"], new["fc.weight"], atol=1e-5)
    other = make_dataset(tmp_path / "data", ["planks", "squats"], num_train=2, num_val=1)
    options = [*options, "--data-path", str(other), "--cache-dir", str(tmp_path / "cache")]
    assert train.main([*options, *weights, str(tmp_path / "b"), "--epochs", "1", "--lr", "1e-9"]) == 0
    assert "its head is replaced" in capsys.readouterr().out
    new = load(tmp_path / "b" / "checkpoint.pth")
    assert new["classes"] == ["planks", "squats"] and new["model"]["fc.weight"].shape[0] == 2
    assert torch.equal(old["layer1.0.conv1.0.weight"], new["model"]["layer1.0.conv1.0.weight"])


def legacy_checkpoint(path, num_classes):
    """The public sample solution's form."""
    model = r2plus1d_18(num_classes=num_classes)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, [5])
    names = ("model", "optimizer", "lr_scheduler")
    states = (model.state_dict(), optimizer.state_dict(), scheduler.state_dict())
    args = argparse.Namespace(lr=0.01, kinetics_version="400", clip_len=16)
    torch.save({**dict(zip(names, states, strict=True)), "epoch": 0, "args": args}, path)
    return model


def test_the_sample_solutions_checkpoints_are_read(dataset, tmp_path, small_options, capsys):
    model = legacy_checkpoint(tmp_path / "old.pth", 3)
    options = [*small_options, "--data-path", str(dataset), "--cache-dir", str(tmp_path / "cache")]
    options += ["--resume", str(tmp_path / "old.pth"), "--output-dir", str(tmp_path / "run"), "--model", "r2plus1d_18"]
    assert train.main([*options, "--test-only"]) == 0
    assert train.main([*options, "--epochs", "2"]) == 0
    out = capsys.readouterr().out
    assert "Not carried over" in out and "optimiser" in out and "sorted folder names" in out
    new = load(tmp_path / "run" / "checkpoint.pth")
    assert new["epoch"] == 1 and new["classes"] == ["left_raise", "pushups", "squats"]
    assert torch.equal(new["model"]["stem.0.weight"], model.state_dict()["stem.0.weight"])
    legacy_checkpoint(tmp_path / "old.pth", 7)
    assert train.main([*options, "--test-only"]) == 1
    error = capsys.readouterr().err
    assert "7 outputs" in error and "3 classes" in error


def test_torchvisions_weights_are_loaded_from_where_torch_keeps_them(
    dataset, tmp_path, small_options, monkeypatch, capsys
):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    options = [*small_options, "--data-path", str(dataset), "--cache-dir", str(tmp_path / "cache"), "--epochs", "1"]
    options += ["--model", "r2plus1d_18"]
    place = tmp_path / "torch" / "hub" / "checkpoints" / "r2plus1d_18-91a641e6.pth"
    place.parent.mkdir(parents=True)
    pretrained = r2plus1d_18(num_classes=400)
    torch.save(pretrained.state_dict(), place)
    for number, name in enumerate(("KINETICS400_V1", "R2Plus1D_18_Weights.KINETICS400_V1")):
        run = tmp_path / f"run{number}"
        assert train.main([*options, "--weights", name, "--output-dir", str(run)]) == 0
        saved = load(run / "checkpoint.pth")["model"]
        assert torch.equal(saved["layer3.0.conv1.0.0.weight"], pretrained.layer3[0].conv1[0][0].weight)
        assert saved["fc.weight"].shape[0] == 3
    capsys.readouterr()
    assert train.main([*options, "--weights", "KINETICS999", "--output-dir", str(tmp_path / "x")]) == 1
    assert "R2Plus1D_18_Weights.KINETICS400_V1" in capsys.readouterr().err


def test_a_frozen_trunk_without_weights_is_warned_of(dataset, tmp_path, small_options, capsys):
    options = [*small_options, "--data-path", str(dataset), "--cache-dir", str(tmp_path), "--epochs", "1"]
    assert train.main([*options, "--output-dir", str(tmp_path / "run")]) == 0
    assert "WARNING" in capsys.readouterr().out
    assert train.main([*options, "--output-dir", str(tmp_path / "run2"), "--trainable", "all"]) == 0
    assert "WARNING" not in capsys.readouterr().out


@pytest.mark.parametrize(
    "flags, code, words",
    [
        (["--trainable", "layer9"], 1, ["layer9", "layer4", "4x28x28"]),
        (["--trainable", "avgpool"], 1, ["avgpool", "layer4"]),
        (["--device", "meta"], 2, ["--device meta", "cpu"]),
        (["--seed", "99999999999999999999"], 2, ["--seed", "2^63"]),
        (["--opt", "adamw", "--momentum", "1"], 2, ["--momentum", "below 1"]),
        (["--test-only", "--resume", "auto"], 1, ["--resume auto", "no checkpoint"]),
        (["--model", "mvit_v2_s", "--trainable", "head"], 1, ["blocks", "4x28x28"]),
        (["--model", "resnet18"], 1, ["r2plus1d_18"]),
        (["--val-crop-size", "200", "200"], 2, ["--val-crop-size"]),
        (["--device", "cuda:7"], 2, ["--device"]),
        (["--epochs", "0"], 2, ["--epochs"]),
        (["--resume", "absent.pth"], 1, ["absent.pth"]),
        (["--weights", "./absent.pth"], 1, ["absent.pth"]),
        (["--data-path", "absent"], 1, ["absent"]),
        (["--resume", "auto", "--overwrite"], 2, ["--overwrite"]),
        (["--weights", "run/model_best.pth", "--output-dir", "run"], 2, ["--weights", "another --output-dir"]),
        (
            ["--resume", "run/model_3.pth", "--output-dir", "run", "--overwrite"],
            2,
            ["--resume", "another --output-dir"],
        ),
    ],
)
def test_bad_input_is_one_clear_message(dataset, tmp_path, small_options, capsys, flags, code, words):
    options = [*small_options, "--data-path", str(dataset), "--cache-dir", str(tmp_path / "c")]
    options += ["--output-dir", str(tmp_path / "run"), *flags]
    try:
        found = train.main(options)
    except SystemExit as error:
        found = error.code
    error = capsys.readouterr().err
    assert found == code and all(word in error for word in words) and "Traceback" not in error
    assert not (tmp_path / "run").exists()


def test_a_file_that_is_no_checkpoint_executes_nothing(dataset, tmp_path, small_options, capsys):
    class Bomb:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "exploded"),))

    torch.save({"model": {}, "args": Bomb()}, tmp_path / "bomb.pth")
    options = [*small_options, "--data-path", str(dataset), "--resume", str(tmp_path / "bomb.pth")]
    assert train.main(options) == 1
    assert "bomb.pth" in capsys.readouterr().err and not (tmp_path / "exploded").exists()


def test_a_single_frame_is_a_clip(dataset, tmp_path, small_options, capsys):
    shutil.copytree(dataset, tmp_path / "data")
    write_moving_bar(tmp_path / "data/train/squats/one.mp4", seed=9, num_frames=1)
    write_moving_bar(tmp_path / "data/val/squats/one.mp4", seed=8, num_frames=1)
    options = [*small_options, "--data-path", str(tmp_path / "data"), "--epochs", "1"]
    assert train.main([*options, "--output-dir", str(tmp_path / "run")]) == 0
    assert "7 videos, 7 clips" in capsys.readouterr().out


def test_the_parser_keeps_the_references_flags():
    args = train.get_args_parser().parse_args(["--data-path", "x"])
    expected = {
        **{
            "clip_len": 16,
            "frame_rate": 4,
            "clips_per_video": 1,
            "batch_size": 24,
            "epochs": 15,
            "opt": "sgd",
            "lr": 0.01,
        },
        **{"lr_scheduler": "cosine", "lr_warmup_epochs": 1, "amp": "off", "trainable": ["layer4", "fc"]},
        **{"model": "r2plus1d_18", "augment": "basic", "start_epoch": None, "test_only": False, "sync_bn": False},
    }
    assert {name: getattr(args, name) for name in expected} == expected
    assert train.get_args_parser(add_help=False).add_help is False
    assert train.get_args_parser().parse_args(["--data-path", "x", "--amp"]).amp == "auto"


def test_selections_are_compared_on_one_checkpoint(finished_run, dataset, tmp_path, capsys):
    folder, options = finished_run
    options = [option for option in options if option != "--cache-dataset"]
    options += ["--resume", str(folder / "checkpoint.pth"), "--val-frame-selection", "official", "uniform", "motion"]
    assert train.main([*options, "--cache-dir", str(tmp_path), "--test-only"]) == 0
    table = capsys.readouterr().out.splitlines()[-4:]
    assert table[0].split()[0] == "frames" and [line.split()[0] for line in table[1:]] == [
        "official",
        "uniform",
        "motion",
    ]
    assert table[1].split()[-2:] == ["0", "0"]
    with pytest.raises(SystemExit):
        train.main(options)
    assert "--test-only" in capsys.readouterr().err


def test_what_a_resumed_run_is_told_anew_holds(finished_run, tmp_path, capsys):
    folder, options = finished_run
    resumed = [*options, "--epochs", "3", "--resume", str(folder / "checkpoint.pth"), "--output-dir"]
    assert train.main([*resumed, str(tmp_path / "a"), "--weight-decay", "0.05", "--momentum", "0.5"]) == 0
    group = load(tmp_path / "a" / "checkpoint.pth")["optimizer"]["param_groups"][0]
    assert group["weight_decay"] == 0.05 and group["momentum"] == 0.5
    assert "Not carried over" not in capsys.readouterr().out
    for number, other in enumerate((["--opt", "adamw"], ["--trainable", "layer3.1", "fc"])):
        assert train.main([*resumed, str(tmp_path / f"b{number}"), *other]) == 0
        assert "Not carried over: the optimiser's state" in capsys.readouterr().out


def test_what_cannot_come_to_an_end_is_refused_before_the_cache_is_built(finished_run, dataset, tmp_path, capsys):
    folder, options = finished_run
    anew = [*options, "--cache-dir", str(tmp_path / "cache")]
    (tmp_path / "file").write_text("")
    for flags in (
        ["--output-dir", str(folder)],
        ["--model", "resnet18", "--output-dir", str(tmp_path / "run")],
        ["--output-dir", str(tmp_path / "file" / "run")],
        ["--test-only", "--output-dir", str(tmp_path / "file" / "x")],
        ["--test-only", "--save-logits", str(tmp_path / "file" / "a.npz")],
    ):
        assert train.main([*anew, *flags]) == 1
    assert not (tmp_path / "cache").exists()


def test_a_validation_that_is_not_the_trainings_says_so(finished_run, tmp_path, capsys):
    folder, options = finished_run
    test = [*options, "--test-only", "--output-dir", str(tmp_path)]
    assert train.main([*test, "--resume", str(folder / "checkpoint.pth"), "--clip-len", "6"]) == 0
    assert "validation differs from that of the training: clip_len 6 instead of 4\n" in capsys.readouterr().out
    assert train.main(test) == 0 and "WARNING: these are random weights" in capsys.readouterr().out


def test_selections_are_compared_with_the_official_one_unless_they_are_one():
    def resolved(*names):
        parser = train.get_args_parser()
        args = parser.parse_args(["--data-path", "x", "--test-only", "--val-frame-selection", *names])
        train.check_args(parser, args)
        return args.val_frame_selection

    assert resolved("uniform", "motion") == ["uniform", "motion", "official"]
    assert resolved("uniform", "official") == ["uniform", "official"] and resolved("uniform") == ["uniform"]
