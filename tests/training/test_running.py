import pytest
import torch

import train
from clips.preprocessing import Preprocessing
from network.checkpoint import Checkpoint
from network.models import ModelError
from training.options import fill_in_preprocessing
from training.running import best_checkpoint, check_start
from training.starting import Start


def test_the_best_checkpoint_is_this_runs_and_never_that_of_the_run_it_came_from(tmp_path):
    run, before = tmp_path / "run", tmp_path / "before"
    for folder in (run, before):
        folder.mkdir()
    resumed = before / "model_3.pth"
    for name in (resumed, before / "model_best.pth"):
        name.write_text("")
    assert best_checkpoint(run, resumed) == resumed
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


def test_a_run_that_cannot_be_deterministic_is_refused_at_its_start(capsys):
    flags = ["--data-path", "x", "--model", "s3d", "--trainable", "all", "--use-deterministic-algorithms"]
    args = train.get_args_parser().parse_args([*flags, "--device", "cuda"])
    args.train_crop_size = args.val_crop_size = (224, 224)
    with pytest.raises(ModelError, match="s3d has MaxPool3d"):
        check_start(args, Start(["a"], {}))
