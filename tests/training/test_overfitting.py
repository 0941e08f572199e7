"""--sanity-overfit tells a run that can learn from one that cannot."""

import pytest

import train
from helpers.small_datasets import SMALL
from training import running


@pytest.fixture
def options(dataset, tmp_path):
    small = [*SMALL, "--data-path", str(dataset), "--cache-dir", str(tmp_path / "cache"), "--cache-dataset"]
    return [*small, "--output-dir", str(tmp_path / "run"), "--sanity-overfit"]


def test_a_batch_is_learnt_by_heart_and_nothing_is_written(options, tmp_path, capsys):
    recipe = ["--trainable", "all", "--label-smoothing", "0.2", "--lr", "0.02", "--lr-head-mult", "2"]
    assert train.main([*options, *recipe]) == 0
    out = capsys.readouterr().out
    assert "learnt by heart: loss 0.00" in out and "Overfitting 4 clips" in out
    assert not (tmp_path / "run").exists()


def test_a_network_that_cannot_learn_is_exit_code_1(options, capsys, monkeypatch):
    monkeypatch.setattr(running, "MAX_STEPS", 20)
    assert train.main([*options, "--trainable", "fc", "--lr", "1e-9"]) == 1
    error = capsys.readouterr().err
    assert "not learnt by heart" in error and "--lr" in error and "Traceback" not in error
