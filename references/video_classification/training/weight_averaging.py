"""A moving average of the weights, which often validates better than the weights themselves."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from evaluation.metrics import VideoResults
from network.checkpoint import AverageState, Checkpoint
from runtime.distributed import broadcast_buffers, print_main


class WeightAverage:
    """The exponential moving average of a network's weights and buffers.

    Args:
        model: the network, on its device.
        decay: the share of the average that an update keeps; less in the first updates, so that the average of a short
            run is not mostly its initial weights.
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

    def _update(self, averages: Sequence[Tensor], values: Sequence[Tensor], updates: Tensor | int) -> None:
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

    def added_to(self, state: Checkpoint) -> Checkpoint:
        """`state`, which has the weights as its `model`, with the average: `model` is then the one that is used."""
        average, updates = self._average.module.state_dict(), int(self._average.n_averaged)
        if self.is_used:
            return replace(
                state, model=average, training_model=state.model, model_ema=AverageState(updates, is_used=True)
            )
        return replace(state, model_ema=AverageState(updates, is_used=False, model=average))

    def load(self, checkpoint: Checkpoint) -> None:
        """Continues the average of a checkpoint; says so where it has none."""
        saved = checkpoint.model_ema
        if saved is None:
            print_main("The checkpoint has no average of the weights: it begins here")
            return
        self.is_used = saved.is_used
        self._average.module.load_state_dict(checkpoint.model if saved.model is None else saved.model)
        self._average.n_averaged.fill_(saved.updates)


def warm_decay(decay: float, updates: int) -> float:
    """The decay of an update, after so many: it rises from 0.1 towards `decay`."""
    return min(decay, (1 + updates) / (10 + updates))
