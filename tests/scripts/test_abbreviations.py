"""No script takes a part of a flag's name: the command that continues a run could not find the flag otherwise."""

import importlib

import pytest

NAMES = ("train", "predict", "export_onnx", "evaluate_logits", "compare_runs", "average_checkpoints", "benchmark")


@pytest.mark.parametrize("name", [*NAMES, "quickstart", "benchmarks.plot_frame_selection"])
def test_flags_are_written_out(name):
    assert not importlib.import_module(name).get_args_parser().allow_abbrev


def test_a_part_of_a_flags_name_is_wrong_usage(capsys):
    parser = importlib.import_module("train").get_args_parser()
    with pytest.raises(SystemExit) as stop:
        parser.parse_args(["--data-path", "x", "--overw"])
    assert stop.value.code == 2 and "--overw" in capsys.readouterr().err
