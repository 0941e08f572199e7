"""Runs that are interrupted, as by Ctrl-C."""

from collections.abc import Sequence

import pytest

import train
from training.engine import Trainer


def interrupt_in_second_epoch(argv: Sequence[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs `train.py` up to the beginning of its second epoch."""
    real = Trainer.train_epoch

    def interrupted(*args, **kwargs):
        if kwargs["epoch"] == 1:
            raise KeyboardInterrupt
        return real(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "train_epoch", interrupted)
        assert train.main([*argv]) == 130
