"""What a script writes is none of the files that it reads, and can be written: both are known before any work."""

import importlib
import os

import pytest

from helpers.extras import require_extra
from helpers.small_datasets import write_moving_bar
from helpers.template_process import SCRIPTS

# An output that is an input, as the arguments of each script; every file exists, and holds its own name.
TAKEN = {
    "export_onnx": ["a.pth", "--output", "a.pth"],
    "export_onnx, the classes": ["a.pth", "--classes-file", "names.txt", "--output", "names.txt"],
    "export_onnx, the float file": (
        ["a_float.onnx", "--output", "a.onnx", "--quantize", "int8", "--data-path", "data"]
    ),
    "export_onnx, the map": ["a.pth", "--class-map", "m.json", "--output", "m.json"],
    "export_onnx, a video": ["a.pth", "--data-path", ".", "--output", "val/a/v.mp4"],
    "average_checkpoints, a video": ["a.pth", "b.pth", "--greedy", "--data-path", ".", "--output", "val/a/v.mp4"],
    "run_on_ai_hub, a video": ["a.pth", "--data-path", ".", "--output-dir", "train/a"],
    "predict, the video": ["a.pth", "data/v.mp4", "--output", "data/v.mp4"],
    "predict, a video in a folder": ["a.pth", "data", "--output", "data/v.mp4"],
    "predict, the checkpoint": ["a.pth", "data/v.mp4", "--output", "a.pth"],
    "predict, the copies": ["a.pth", "data", "--annotate", "data"],
    "predict, the copies and a link": ["a.pth", "data", "--annotate", "link"],
    "average_checkpoints": ["a.pth", "b.pth", "--output", "b.pth"],
    "compare_runs": ["run", "other.csv", "--output", "run/predictions.csv"],
    "compare_runs, the file": ["run", "other.csv", "--output", "other.csv"],
    "run_on_ai_hub": ["a.pth", "--data-path", "data", "--classes-file", "run/device.json", "--output-dir", "run"],
    "train": ["--data-path", "data", "--test-only", "--resume", "a.pth", "--save-logits", "a.pth"],
    "train, the weights": ["--data-path", "data", "--test-only", "--weights", "a.pth", "--save-logits", "a.pth"],
    "train, the map": ["--data-path", "data", "--test-only", "--flip-map", "m.json", "--save-logits", "m.json"],
    "train, a video": ["--data-path", ".", "--test-only", "--resume", "a.pth", "--save-logits", "train/a/v.mp4"],
    "quickstart": ["--output-dir", "run", "--weights", "run/run/model_best.pth"],
    "benchmark": ["decode", "--data-path", "data", "--json", "data/v.mp4"],
}
FILES = ["a.pth", "b.pth", "names.txt", "a_float.onnx", "run/predictions.csv", "other.csv", "m.json"]
FILES += ["val/a/v.mp4", "train/a/v.mp4", "train/a/model.onnx"]
FILES += ["run/run/model_best.pth", "run/device.json"]


@pytest.fixture
def files(tmp_path, monkeypatch):
    """The files' contents, in the current folder."""
    monkeypatch.chdir(tmp_path)
    for name in FILES:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    write_moving_bar(tmp_path / "data" / "v.mp4", seed=1)
    (tmp_path / "link").symlink_to("data")
    return contents(tmp_path)


def contents(folder):
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def end_of(script, argv):
    try:
        return importlib.import_module(script).main(argv)
    except SystemExit as end:
        return end.code


@pytest.mark.parametrize("case", TAKEN)
def test_an_output_that_is_an_input_is_wrong_usage(files, tmp_path, capsys, case):
    assert end_of(case.split(",")[0], TAKEN[case]) == 2
    err = capsys.readouterr().err.splitlines()[-1]
    assert ": error: --" in err and ("would replace it" in err) and "choose another" in err
    assert contents(tmp_path) == files


@pytest.mark.parametrize("link", [os.symlink, os.link])
@pytest.mark.parametrize(
    "case", ["export_onnx", "average_checkpoints", "predict, the checkpoint", "train", "train, a video"]
)
def test_links_are_followed(files, tmp_path, capsys, case, link):
    *begin, taken = TAKEN[case]
    link(taken, "other name")
    assert end_of(case.split(",")[0], [*begin, "other name"]) == 2
    assert "other name is one of the files to read" in capsys.readouterr().err


@pytest.mark.parametrize("case", sorted(path.stem for path in SCRIPTS.glob("*.py")))
def test_every_script_that_writes_is_tried(case):
    parser = importlib.import_module(case).get_args_parser()
    writes = {"--output", "--output-dir", "--json", "--annotate", "--save-logits", "--dump-tensors"}
    assert case in {name.split(",")[0] for name in TAKEN} or not writes & set(parser._option_string_actions)


# The other files are no checkpoints: the place is tried before they are read.
@pytest.mark.parametrize(
    "script, argv",
    [
        ("predict", ["a.pth", "data", "--output", "m.json/x.csv"]),
        ("predict", ["a.pth", "data", "--annotate", "m.json/copies"]),
        ("average_checkpoints", ["a.pth", "b.pth", "--output", "m.json/x.pth"]),
        ("benchmark", ["decode", "--data-path", "data", "--json", "m.json/x.json"]),
        ("export_onnx", ["a.pth", "--output", "m.json/x.onnx"]),
        ("export_onnx", ["a.pth", "--output", "x.onnx", "--data-path", "data", "--dump-tensors", "m.json/x"]),
        ("compare_runs", ["run", "other.csv", "--output", "m.json/x.csv"]),
    ],
)
def test_a_place_that_cannot_be_written_is_known_before_the_work(files, tmp_path, capsys, script, argv):
    assert end_of(script, argv) == 1
    err = capsys.readouterr().err.splitlines()[-1]
    assert err.startswith(f"error: {argv[-2]} {argv[-1]}") and "cannot be written: " in err and "choose another" in err
    assert contents(tmp_path) == files


# An output of another script that takes a name of a run or an evaluation; the folder says whose it is.
OF_A_RUN = {
    "predict": ["a.pth", "data", "--format", "csv", "--output", "{}/predictions.csv"],
    "average_checkpoints": ["a.pth", "b.pth", "--output", "{}/model_best.pth"],
    "compare_runs": ["run", "other.csv", "--output", "{}/per_class.csv"],
    "benchmark": ["decode", "--data-path", "data", "--json", "{}/metrics.json"],
    "export_onnx": ["a.pth", "--output", "{}/checkpoint.pth"],
}


@pytest.mark.parametrize("sign", ["args.json", "log.jsonl", "report.html"])
@pytest.mark.parametrize("script", OF_A_RUN)
def test_the_files_of_a_run_are_not_replaced(files, tmp_path, capsys, script, sign):
    if script == "export_onnx":
        require_extra("onnxruntime")
    folder = tmp_path / "another_run"
    folder.mkdir()
    (folder / sign).touch()
    before = contents(tmp_path)
    argv = [argument.format(folder) for argument in OF_A_RUN[script]]
    assert end_of(script, argv) == 1
    assert f"{argv[-1]} is a name of the run in that folder: choose another" in capsys.readouterr().err
    assert contents(tmp_path) == before


@pytest.mark.parametrize("sign", ["args.json", "log.jsonl", "report.html"])
def test_a_device_keeps_the_report_of_a_run(files, tmp_path, capsys, sign):
    (tmp_path / "run" / sign).touch()
    before = contents(tmp_path)
    assert end_of("run_on_ai_hub", ["a.pth", "--data-path", "data", "--output-dir", "run"]) == 2
    assert "--output-dir run: holds a run of train.py" in capsys.readouterr().err
    assert contents(tmp_path) == before
