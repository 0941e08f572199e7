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
from network.acceleration import StepQueue
from network.checkpoint import Checkpoint, rng_state
from network.models import set_train_mode
from network.precision import Precision, ToInputs, to_device
from runtime.distributed import broadcast_buffers, maximum_over_processes, rank, sum_over_processes
from runtime.errors import UserError
from runtime.progress import StepMeter
from training.targets import TargetMaker
from training.validation import run_validation
from training.weight_averaging import WeightAverage

LOOK_EVERY = 20  # steps between two looks at the losses on a GPU, each of which waits for it, without `print_freq`
NEVER = 2**62  # as a step


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
        after_step: Callable[[int, Callable[[], list[float]]], None] = lambda clips, totals: None,
    ) -> EpochSummary:
        """Takes a step every `batches_per_step` batches, of the gradient of their clips' mean loss.

        Args:
            batches: of this epoch, from `first_step` on.
            to_inputs: the dataset's.
            epoch: its number.
            num_steps: how many steps the epoch has.
            first_step, totals: where an epoch that was interrupted goes on, and its sums up to there.
            after_step: called with the clips of the step and a function that gives the sums of loss, right clips and
                clips up to it; that function raises NonFiniteLoss too.

        Raises:
            NonFiniteLoss: a loss is not finite. On a CPU its step is not taken; on a GPU it is found at most
                `print_freq` steps later.
            Whatever `after_step` raises.
        """
        set_train_mode(self.network, self.frozen)
        if not first_step:
            self.skipped_steps = 0
        groups = in_groups(batches, self.options.batches_per_step)
        is_first, self._has_begun = not self._has_begun, True
        meter = StepMeter(f"Epoch: [{epoch}]", groups, num_steps, self.options.print_freq, first_step, is_first)
        queue, losses = StepQueue(self.precision.device, meter), StepLosses(epoch, totals)
        every = self._steps_between_looks()
        for step, group in enumerate(meter, first_step):
            queue.batch_is_here()
            lr, videos = self.learning_rate, [batch.videos for batch in group]
            losses.add(step, lr, videos, self._add_gradients(group, to_inputs, epoch, step))
            if step in (first_step, num_steps - 1) or step % every == 0:
                losses.look()
            self._take_step()
            queue.step_is_queued()
            count = sum(map(len, videos))
            meter.update(step, count, loss=losses.latest, lr=lr)
            after_step(count, losses.totals)
        queue.finish()
        broadcast_buffers(self.network)  # what is validated is what is saved
        loss_sum, right, count = sum_over_processes(torch.tensor(losses.totals(), dtype=torch.float64)).tolist()
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

    def _steps_between_looks(self) -> int:
        return 1 if self.precision.device.type == "cpu" else self.options.print_freq or LOOK_EVERY

    def _add_gradients(self, group: Sequence[Batch], to_inputs: ToInputs, epoch: int, step: int) -> list[Tensor]:
        """Leaves the gradient of the mean loss over a step's clips; of each batch, see `_add_gradient`."""
        # Dropout and the like: the same at this step however the run came here.
        torch.manual_seed(seeded_generator(self.options.seed, epoch, step, rank()).initial_seed())
        rng = np.random.default_rng(seeded_generator(self.options.seed, epoch, step).initial_seed())
        count = sum(len(batch.targets) for batch in group)
        self.optimizer.zero_grad(set_to_none=True)
        sums = []
        for number, batch in enumerate(group, 1):
            with self._gradients_exchanged(is_last=number == len(group)):
                clips, labels = to_device(batch, to_inputs, self.precision)
                clips, targets, labels = self.targets(clips, labels, batch, rng)
                sums.append(self._add_gradient(clips, targets, labels, count))
        return sums

    def _add_gradient(self, clips: Tensor, targets: Any, labels: Tensor, count: int) -> Tensor:
        """Adds the gradient of a batch's share of the mean loss over `count` clips.

        Returns:
            float32 (2,) on the device: the sum of its clips' losses, and how many clips are right.
        """
        trained = self.network if self.parallel is None else self.parallel
        with self.precision.autocast():
            # A copy only where mixing has left another layout.
            logits = trained(clips.contiguous(memory_format=self.precision.memory_format))
            loss_sum = self.criterion(logits, targets).sum()
        loss = loss_sum / count
        scaler = self.precision.scaler
        (loss if scaler is None else scaler.scale(loss)).backward()
        right = (truth_ranks(logits.detach().float(), labels) < 1).sum()
        return torch.stack([loss_sum.detach().float(), right.float()])

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


class StepLosses:
    """The losses of an epoch's steps, which stay on the device until they are looked at: that waits for it.

    Args:
        epoch: its number.
        totals: sums of losses, right clips and clips up to the first step, None for zeros.

    Attributes:
        latest: the mean loss of the last step that was looked at.
    """

    def __init__(self, epoch: int, totals: Sequence[float] | None) -> None:
        self._epoch, self._totals, self.latest = epoch, list(totals or (0.0, 0.0, 0.0)), math.nan
        self._unseen: list[tuple[int, float, Sequence[Tensor], Sequence[Tensor]]] = []

    def add(self, step: int, lr: float, videos: Sequence[Tensor], sums: Sequence[Tensor]) -> None:
        """Adds a step, with the videos and the `_add_gradient` of each of its batches."""
        self._unseen.append((step, lr, videos, sums))

    def look(self) -> None:
        """Reads the losses of the steps that were added since the last look; every process calls it.

        Raises:
            NonFiniteLoss: one is not finite. Gradients carry it to the other processes, which go on and are then ended:
                the one that had it first tells its videos.
        """
        steps, self._unseen = self._unseen, []
        rows = iter(torch.stack([row for *_, sums in steps for row in sums]).tolist() if steps else [])
        found = None
        for step, lr, videos, sums in steps:
            loss, right, count = 0.0, 0.0, sum(map(len, videos))
            for own_loss, own_right in islice(rows, len(sums)):
                loss, right = loss + own_loss, right + own_right
            self.latest = loss / count
            self._totals = [total + own for total, own in zip(self._totals, (loss, right, count), strict=True)]
            if found is None and not math.isfinite(self.latest):
                found = NonFiniteLoss(self._epoch, step, lr, self.latest, torch.cat(list(videos)).tolist())
        first = NEVER if found is None else found.step
        if len(steps) > 1:
            first = -maximum_over_processes([-first])[0]
        if found is not None and found.step == first:
            raise found

    def totals(self) -> list[float]:
        """The sums of losses, right clips and clips up to the last step. Raises as `look`."""
        self.look()
        return self._totals


def in_groups(batches: Iterable[Batch], size: int) -> Iterator[list[Batch]]:
    """Yields lists of `size` batches; the last may be shorter."""
    iterator = iter(batches)
    while group := list(islice(iterator, size)):
        yield group
