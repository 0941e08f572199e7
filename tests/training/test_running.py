import pytest
import torch

import train
from clips.preprocessing import Preprocessing
from network.checkpoint import Checkpoint
from training.options import fill_in_preprocessing
from training.running import best_checkpoint, check_start
from training.starting import Start


def test_the_best_checkpoint_is_this_runs_else_that_of_the_run_before(tmp_path):
    run, before = tmp_path / "run", tmp_path / "before"
    for folder in (run, before):
        folder.mkdir()
    resumed = before / "model_3.pth"
    resumed.write_text("")
    assert best_checkpoint(run, resumed) == resumed
    (before / "model_best.pth").write_text("")
    assert best_checkpoint(run, resumed) == before / "model_best.pth"
    (run / "model_best.pth").write_text("")
    assert best_checkpoint(run, resumed) == best_checkpoint(run, None) == run / "model_best.pth"


@pytest.mark.parametrize(
    "flags, told",
    [
        ([], None),
        (["--frame-rate", "8"], "frame_rate 8.0 instead of 4"),
        (["--val-frame-selection", "uniform", "--clip-len", "8"], "clip_len 8 instead of 16, frame_selection uniform"),
    ],
)
def test_a_validation_that_differs_from_that_of_the_training_says_in_what(flags, told, capsys):
    args = train.get_args_parser().parse_args(["--data-path", "x", "--test-only", "--model", "mc3_18", *flags])
    fill_in_preprocessing(args)
    weights = {"fc.weight": torch.ones(1)}
    check_start(args, Start(["a"], weights, checkpoint=Checkpoint(weights, ["a"], Preprocessing())))
    found = capsys.readouterr().out
    assert found == "" if told is None else f"validation differs from that of the training: {told}" in found
