"""Averages of weights, which often validate better: over the steps of a run, or over several checkpoints."""

import contextlib
import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import compress
from pathlib import Path

import torch
from torch import Tensor, nn

from caching.splits import Clips
from evaluation.evaluate import evaluate
from evaluation.metrics import VideoResults
from network.checkpoint import AverageState, Checkpoint, CheckpointError
from network.models import load_state
from network.precision import Precision
from runtime.distributed import broadcast_buffers, print_main

Weights = dict[str, Tensor]


class WeightAverage:
    """The exponential moving average of a network's weights and buffers.

    Args:
        model: the network, on its device.
        decay: the share of the average that an update keeps; less in the first updates, so that the average of a short
            run is not mostly its initial weights.
        every: steps between two updates.
        always: whether the average is used without asking which validates better.

    Attributes:
        is_used: whether the average validated better than the weights, the last time.
    """

    def __init__(self, model: nn.Module, decay: float, every: int, always: bool = False) -> None:
        self._model, self._decay, self._every, self._always = model, decay, every, always
        # Not torch's AveragedModel, which asks the GPU for its number of updates at each of them.
        self._average, self._updates = copy.deepcopy(model), 0
        self.is_used = always

    @torch.no_grad()
    def after_step(self, step: int) -> None:
        """Takes in the weights after the run's `step`-th step, if it is time to."""
        if step % self._every:
            return
        values, averages = (list(network.state_dict().values()) for network in self._pair())
        is_mean = [self._updates > 0 and value.is_floating_point() for value in values]
        means, news = (list(compress(tensors, is_mean)) for tensors in (averages, values))
        if means:
            torch._foreach_lerp_(means, news, 1 - warm_decay(self._decay, self._updates))
        for average, value, is_done in zip(averages, values, is_mean, strict=True):
            if not is_done:
                average.copy_(value)  # the first weights, or a count
        self._updates += 1

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
        return self._model, self._average

    def validate(self, validate: Callable[[], VideoResults]) -> tuple[VideoResults, dict[str, float]]:
        """Validates both, and decides which is used: the average where it is no worse. Or the average alone.

        Returns:
            The results of that one; both video accuracies, for the log.
        """
        broadcast_buffers(self._average)
        if self._always:
            with self.in_place():
                return validate(), {}
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
        average, updates = self._average.state_dict(), self._updates
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
        self._average.load_state_dict(checkpoint.model if saved.model is None else saved.model)
        self._updates = saved.updates


def warm_decay(decay: float, updates: int) -> float:
    """The decay of an update, after so many: it rises from 0.1 towards `decay`."""
    return min(decay, (1 + updates) / (10 + updates))


def check_alike(paths: Sequence[Path], checkpoints: Sequence[Checkpoint]) -> None:
    """Raises CheckpointError unless all have the same network, classes and preprocessing."""
    first = checkpoints[0]
    for path, checkpoint in zip(paths, checkpoints, strict=True):
        if checkpoint.is_legacy:
            raise CheckpointError(f"{path} has no class names: only checkpoints of train.py are averaged")
        for name in ("classes", "preprocessing"):
            if getattr(checkpoint, name) != getattr(first, name):
                raise CheckpointError(f"{path} and {paths[0]} differ in their {name}: an average would be neither")
        shapes = {name: value.shape for name, value in checkpoint.model.items()}
        if shapes != {name: value.shape for name, value in first.model.items()}:
            raise CheckpointError(f"{path} and {paths[0]} are different networks")


def average(states: Sequence[Weights]) -> dict[str, Tensor]:
    """The mean of each weight, computed in float64; counts, which are integers, are those of the first."""
    return {
        name: torch.stack([state[name].double() for state in states]).mean(0).to(value.dtype)
        if value.is_floating_point()
        else value
        for name, value in states[0].items()
    }


def choose_greedily(
    paths: Sequence[Path], states: Sequence[Weights], validate: Callable[[Weights], VideoResults]
) -> list[int]:
    """The checkpoints of the greedy soup, as indices, the best first.

    Args:
        paths: the checkpoints.
        states: their weights.
        validate: scores weights.
    """
    accuracy = [validate(state).video.top1 for state in states]
    for path, value in zip(paths, accuracy, strict=True):
        print(f"{path}: video Acc@1 {value:.3f}", flush=True)
    ranked = sorted(range(len(states)), key=lambda number: -accuracy[number])
    chosen, best = ranked[:1], accuracy[ranked[0]]
    for number in ranked[1:]:
        trial = [*chosen, number]
        value = validate(average([states[member] for member in trial])).video.top1
        print(f"with {paths[number]}: video Acc@1 {value:.3f}, {'kept' if value >= best else 'left out'}", flush=True)
        if value >= best:
            chosen, best = trial, value
    return chosen


def validation_on(clips: Clips, network: nn.Module, device: torch.device) -> Callable[[Weights], VideoResults]:
    """A function that scores weights of `network` on the clips."""
    network = network.to(device)
    num_classes = len(clips.loader.dataset.folder.classes)

    def validate(state: Weights) -> VideoResults:
        load_state(network, state, keep_head=True)
        return evaluate(
            network,
            nn.CrossEntropyLoss(reduction="none"),
            clips.loader,
            clips.videos,
            num_classes=num_classes,
            precision=Precision.of("off", device),
            print_freq=None,
        )

    return validate


def averaged(checkpoints: Sequence[Checkpoint], names: Sequence[str]) -> Checkpoint:
    """The average as a checkpoint to validate, predict with, export or fine-tune, without the state of a run."""
    first = checkpoints[0]
    return Checkpoint(
        average([checkpoint.model for checkpoint in checkpoints]),
        first.classes,
        first.preprocessing,
        first.args,
        first.layout,
        averaged_from=list(names),
    )
