"""A moving average of the weights, which often validates better than the weights themselves. A room of its own beside
`optimization`: training, validation and checkpoints must agree on which of the two is meant.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from evaluation.metrics import VideoResults
from runtime.distributed import broadcast_buffers, print_main


class WeightAverage:
    """The exponential moving average of a network's weights and buffers.

    Args:
        model: the network, on its device.
        decay: what an update keeps of the average; less in the first updates, so that a short run's average is not
            mostly where it began.
        every: steps between two updates.

    Attributes:
        is_used: whether the average validated better than the weights, the last time.
    """

    def __init__(self, model: nn.Module, decay: float, every: int) -> None:
        self._model, self._decay, self._every = model, decay, every
        self._average = AveragedModel(model, multi_avg_fn=self._update, use_buffers=True)
        self.is_used = False

    def after_step(self, step: int) -> None:
        """Takes in the weights after the run's `step`-th step, if it is time to."""
        if step % self._every == 0:
            self._average.update_parameters(self._model)

    def _update(self, averages: Sequence[Tensor], values: Sequence[Tensor], updates: Tensor) -> None:
        decay = warm_decay(self._decay, int(updates))
        for average, value in zip(averages, values, strict=True):
            if average.is_floating_point():
                average.lerp_(value, 1 - decay)
            else:
                average.copy_(value)  # a count

    @contextlib.contextmanager
    def in_place(self) -> Iterator[None]:
        """Inside, the network has the averaged weights; what is changed of them there stays with the average."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        for one, other in zip(*(network.state_dict().values() for network in self._pair()), strict=True):
            held = one.clone()
            one.copy_(other)
            other.copy_(held)

    def _pair(self) -> tuple[nn.Module, nn.Module]:
        return self._model, self._average.module

    def validate(self, validate: Callable[[], VideoResults]) -> tuple[VideoResults, dict[str, float]]:
        """Validates both, and decides which is used: the average where it is no worse.

        Returns:
            The results of that one; both video accuracies, for the log.
        """
        broadcast_buffers(self._average.module)
        print_main("Validating the weights")
        plain = validate()
        print_main("Validating their average")
        with self.in_place():
            average = validate()
        self.is_used = (average.video.top1, -average.loss) >= (plain.video.top1, -plain.loss)
        print_main(f"{'The average is' if self.is_used else 'The weights are'} used")
        further = {"val_video_acc1_weights": plain.video.top1, "val_video_acc1_average": average.video.top1}
        return (average if self.is_used else plain), further

    def state(self) -> dict[str, Any]:
        """For a checkpoint, over what it would hold without an average: `model` is the one that is used."""
        weights, average = (network.state_dict() for network in self._pair())
        note = {"updates": int(self._average.n_averaged), "is_used": self.is_used}
        if self.is_used:
            return {"model": average, "training_model": weights, "model_ema": note}
        return {"model": weights, "model_ema": {**note, "model": average}}

    def load(self, checkpoint: dict[str, Any]) -> None:
        """Goes on from what `state` gave; says so where a checkpoint has none."""
        note = checkpoint.get("model_ema")
        if note is None:
            print_main("The checkpoint has no average of the weights: it begins here")
            return
        self.is_used = note["is_used"]
        self._average.module.load_state_dict(checkpoint["model"] if self.is_used else note["model"])
        self._average.n_averaged.fill_(note["updates"])


def warm_decay(decay: float, updates: int) -> float:
    """The decay of an update, after so many: it rises from 0.1 towards `decay`."""
    return min(decay, (1 + updates) / (10 + updates))
