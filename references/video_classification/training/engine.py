"""The trainer: an epoch of training, a validation, and the state that a checkpoint keeps."""

import contextlib
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from caching.splits import Clips
from clips.dataset import Batch
from clips.samplers import seeded_generator
from evaluation.metrics import VideoResults, truth_ranks
from network.checkpoint import Checkpoint, rng_state
from network.models import set_train_mode
from network.precision import Precision, to_device
from runtime.distributed import broadcast_buffers, rank, sum_over_processes
from runtime.errors import UserError
from runtime.progress import StepMeter
from training.targets import TargetMaker
from training.validation import run_validation
from training.weight_averaging import WeightAverage

ToInputs = Callable[[Tensor, Tensor, Tensor | None], Tensor]  # clips, flips, seeds -> B C T H W, as a dataset does


class NonFiniteLoss(UserError):
    """Training cannot go on: the loss is not finite. The attributes say where; videos are rows of the folder."""

    def __init__(self, epoch: int, step: int, lr: float, loss: float, videos: list[int]) -> None:
        super().__init__(f"the loss is {loss} at step {step} of epoch {epoch}, at a learning rate of {lr:.3g}")
        self.epoch, self.step, self.lr, self.loss, self.videos = epoch, step, lr, loss, videos


@dataclass(frozen=True)
class EpochSummary:
    """What an epoch of training came to, over all processes."""

    loss: float  # mean over the clips
    clip_acc1: float  # percent
    seconds: float
    data_seconds: float  # of those, spent waiting for batches
    epoch: int


@dataclass(frozen=True)
class StepOptions:
    """How steps are taken."""

    seed: int = 0  # of their randomness, with epoch and step
    batches_per_step: int = 1  # whose gradients are added up; BatchNorm sees them one by one
    max_grad_norm: float | None = None  # longer gradients are shortened to this
    print_freq: int | None = None  # steps between two lines of progress, None for a line from time to time


@dataclass
class Trainer:
    """Trains a network, validates it, and gives the state to save."""

    model: nn.Module  # the whole network: what is saved
    network: nn.Module  # what clips go through: `model`, or the head that shares its layers, where clips are features
    frozen: Sequence[str]  # modules of `network` that stay in evaluation mode, from `models.freeze`
    precision: Precision
    optimizer: torch.optim.Optimizer
    scheduler: LambdaLR  # of the optimizer's rates, by step
    criterion: nn.Module  # (logits, what `targets` makes) -> losses (B,)
    targets: TargetMaker
    options: StepOptions = field(default_factory=StepOptions)
    average: WeightAverage | None = None  # of the weights of `model`
    parallel: nn.Module | None = None  # `network` in DistributedDataParallel, None in a single process
    # Of the epoch, since their gradients were not finite in float16: they do not count for the schedule.
    skipped_steps: int = field(default=0, init=False)
    _has_begun: bool = field(default=False, init=False)  # whether a step was taken

    @property
    def learning_rate(self) -> float:
        """Of the first parameter group, at the next step."""
        return float(self.scheduler.get_last_lr()[0])

    def train_epoch(
        self,
        batches: Iterable[Batch],
        to_inputs: ToInputs,
        *,
        epoch: int,
        num_steps: int,
        first_step: int = 0,
        totals: Sequence[float] | None = None,
        after_step: Callable[[int, list[float]], None] = lambda clips, totals: None,
    ) -> EpochSummary:
        """Takes a step every `batches_per_step` batches, of the gradient of their clips' mean loss.

        Args:
            batches: of this epoch, from `first_step` on.
            to_inputs: the dataset's.
            epoch: its number.
            num_steps: how many steps the epoch has.
            first_step, totals: where an epoch that was interrupted goes on, and what `after_step` was told there.
            after_step: called with the clips of the step and with the sums of loss, right clips and clips up to it.

        Raises:
            NonFiniteLoss: the loss is not finite any more; the step is not taken.
            Whatever `after_step` raises.
        """
        set_train_mode(self.network, self.frozen)
        if not first_step:
            self.skipped_steps = 0
        groups = in_groups(batches, self.options.batches_per_step)
        is_first, self._has_begun = not self._has_begun, True
        meter = StepMeter(f"Epoch: [{epoch}]", groups, num_steps, self.options.print_freq, first_step, is_first)
        sums = torch.tensor(totals or [0.0, 0.0, 0.0], dtype=torch.float64)  # loss, right, clips
        for step, group in enumerate(meter, first_step):
            lr = self.learning_rate
            of_step = self._add_gradients(group, to_inputs, epoch, step)
            count = int(of_step[2])
            loss = of_step[0].item() / count
            if not math.isfinite(loss):
                videos = [video for batch in group for video in batch.videos.tolist()]
                raise NonFiniteLoss(epoch, step, lr, loss, videos)
            self._take_step()
            sums += of_step
            meter.update(step, count, loss=loss, lr=lr)
            after_step(count, sums.tolist())
        broadcast_buffers(self.network)  # what is validated is what is saved
        loss_sum, right, count = sum_over_processes(sums).tolist()
        return EpochSummary(loss_sum / count, 100 * right / count, meter.seconds, meter.data_seconds, epoch)

    def validate(self, clips: Clips) -> tuple[VideoResults, dict[str, float]]:
        """Validates the weights, and their average where there is one.

        Returns:
            The results of the better of the two; with an average, the video accuracies of both, for the log.
        """

        def validate() -> VideoResults:
            return run_validation(self.network, self.precision, clips, self.options.print_freq, in_full=False)

        return self.average.validate(validate) if self.average is not None else (validate(), {})

    def state(self) -> Checkpoint:
        """What changes with the steps; the caller adds what the run is and how far it has come."""
        state = Checkpoint(
            model=self.model.state_dict(),
            optimizer=self.optimizer.state_dict(),
            lr_scheduler=self.scheduler.state_dict(),
            scaler=self.precision.scaler.state_dict() if self.precision.scaler else None,
            rng=rng_state(),
            layout=self.precision.layout,
            skipped_steps=self.skipped_steps,
        )
        return state if self.average is None else self.average.added_to(state)

    def _add_gradients(self, group: Sequence[Batch], to_inputs: ToInputs, epoch: int, step: int) -> Tensor:
        """Leaves the gradient of the mean loss over a step's clips; float64 (3,): sum of losses, right clips, clips."""
        # Dropout and the like: the same at this step however the run came here.
        torch.manual_seed(seeded_generator(self.options.seed, epoch, step, rank()).initial_seed())
        rng = np.random.default_rng(seeded_generator(self.options.seed, epoch, step).initial_seed())
        count = sum(len(batch.targets) for batch in group)
        self.optimizer.zero_grad(set_to_none=True)
        sums = torch.zeros(3, dtype=torch.float64)
        for number, batch in enumerate(group, 1):
            with self._gradients_exchanged(is_last=number == len(group)):
                clips, labels = to_device(batch, to_inputs, self.precision)
                clips, targets, labels = self.targets(clips, labels, batch, rng)
                sums += self._add_gradient(clips, targets, labels, count)
        return sums

    def _add_gradient(self, clips: Tensor, targets: Any, labels: Tensor, count: int) -> Tensor:
        """Adds the gradient of a batch's share of the mean loss over `count` clips; returns as `_add_gradients`."""
        trained = self.network if self.parallel is None else self.parallel
        with self.precision.autocast():
            logits = trained(clips.contiguous(memory_format=self.precision.memory_format))
            loss_sum = self.criterion(logits, targets).sum()
        loss = loss_sum / count
        scaler = self.precision.scaler
        (loss if scaler is None else scaler.scale(loss)).backward()
        right = (truth_ranks(logits.detach().float(), labels) < 1).sum()
        return torch.tensor([loss_sum.item(), right.item(), len(labels)], dtype=torch.float64)

    def _gradients_exchanged(self, is_last: bool) -> contextlib.AbstractContextManager:
        """Around a batch: processes exchange gradients once a step, after its last batch."""
        no_sync = getattr(self.parallel, "no_sync", None)
        return contextlib.nullcontext() if is_last or no_sync is None else no_sync()

    def _take_step(self) -> None:
        scaler = self.precision.scaler
        if self.options.max_grad_norm is not None:
            if scaler is not None:
                scaler.unscale_(self.optimizer)
            parameters = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
            nn.utils.clip_grad_norm_(parameters, self.options.max_grad_norm)
        if scaler is None:
            self.optimizer.step()
        else:
            scale = scaler.get_scale()
            scaler.step(self.optimizer)
            scaler.update()
            if scaler.get_scale() < scale:  # torch's only sign that the optimiser's step was left out
                self.skipped_steps += 1
                return
        self.scheduler.step()
        if self.average is not None:
            self.average.after_step(self.scheduler.last_epoch)


def in_groups(batches: Iterable[Batch], size: int) -> Iterator[list[Batch]]:
    """Yields lists of `size` batches; the last may be shorter."""
    iterator = iter(batches)
    while group := list(islice(iterator, size)):
        yield group
