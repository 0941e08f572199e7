"""One epoch of training."""

import contextlib
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from clips.dataset import Batch
from clips.samplers import seeded_generator
from evaluation.metrics import truth_ranks
from network.models import set_train_mode
from network.precision import Precision, to_device
from runtime.distributed import broadcast_buffers, rank, sum_over_processes
from runtime.errors import UserError
from runtime.progress import StepMeter


class NonFiniteLoss(UserError):
    """Training cannot go on: the loss is no number. The attributes say where; videos are rows of the folder."""

    def __init__(self, epoch: int, step: int, lr: float, loss: float, videos: list[int]) -> None:
        super().__init__(f"the loss is {loss} at step {step} of epoch {epoch}, at a rate of {lr:.3g}")
        self.epoch, self.step, self.lr, self.loss, self.videos = epoch, step, lr, loss, videos


@dataclass(frozen=True)
class EpochSummary:
    """What an epoch of training came to, over all processes: mean loss, clip accuracy in percent, times in seconds.

    counted_by: which labels the accuracy is against, in words.
    """

    loss: float
    clip_acc1: float
    seconds: float
    data_seconds: float
    epoch: int
    counted_by: str = "labels"

    def line(self) -> str:
        """For the screen."""
        against = "" if self.counted_by == "labels" else f" (against {self.counted_by})"
        waiting = 100 * self.data_seconds / max(self.seconds, 1e-9)
        return (
            f"Epoch: [{self.epoch}] loss {self.loss:.4f}, training clips Acc@1 {self.clip_acc1:.3f}{against}, "
            f"{self.seconds:.1f} s, waiting for data {waiting:.1f} %"
        )


def labels_alone(clips: Tensor, labels: Tensor, batch: Batch, rng: np.random.Generator) -> tuple[Tensor, Any, Tensor]:
    """Leaves a batch as it is; see `targets.TargetMaker` for what else can become of it."""
    return clips, labels, labels


def train_one_epoch(
    model: nn.Module,
    criterion: nn.Module,
    optimizer: torch.optim.Optimizer,
    lr_scheduler: torch.optim.lr_scheduler.LRScheduler,
    batches: Iterable[Batch],
    *,
    to_inputs: Callable[[Tensor, Tensor, Tensor | None], Tensor],
    to_targets: Callable[[Tensor, Tensor, Batch, np.random.Generator], tuple[Tensor, Any, Tensor]] = labels_alone,
    num_steps: int,
    precision: Precision,
    frozen: Sequence[str],
    epoch: int,
    seed: int,
    print_freq: int,
    first_step: int = 0,
    totals: Sequence[float] | None = None,
    after_step: Callable[[int, list[float]], None] = lambda clips, totals: None,
    batches_per_step: int = 1,
    max_grad_norm: float | None = None,
    counted_by: str = "labels",
) -> EpochSummary:
    """Takes a step every `batches_per_step` batches, of the gradient of their clips' mean loss.

    Args:
        model: the network, in DistributedDataParallel where there are several processes.
        criterion: (logits, targets) -> losses (B,).
        batches: yields the batches of this epoch from `first_step` on.
        to_inputs: the dataset's, makes the model's input of a batch's clips, flips and seeds.
        to_targets: (input, labels, batch, the step's generator) -> (input, what `criterion` takes, labels to count by).
        num_steps: how many steps the epoch has.
        precision: see there.
        frozen: modules that stay in evaluation mode, from `models.freeze`.
        epoch, seed: what the steps' randomness depends on, with the step's number.
        print_freq: steps between two lines.
        first_step, totals: where an epoch that was interrupted goes on, and what `after_step` was told there.
        after_step: called with the clips of the step and with the sums of loss, right clips and clips up to it.
        batches_per_step: batches whose gradients are added up for a step; BatchNorm sees them one by one.
        max_grad_norm: longer gradients are shortened to this.
        counted_by: which labels `to_targets` gives for the accuracy, in words.

    Raises:
        NonFiniteLoss: the loss is no number any more.
        Whatever `after_step` raises.
    """
    set_train_mode(getattr(model, "module", model), frozen)
    meter = StepMeter(f"Epoch: [{epoch}]", in_groups(batches, batches_per_step), num_steps, print_freq, first_step)
    sums = torch.tensor(totals or [0.0, 0.0, 0.0], dtype=torch.float64)  # loss, right, clips
    for step, group in enumerate(meter, first_step):
        # Dropout and the like: the same at this step however the run came here.
        torch.manual_seed(seeded_generator(seed, epoch, step, rank()).initial_seed())
        rng = np.random.default_rng(seeded_generator(seed, epoch, step).initial_seed())
        count, lr = sum(len(batch.targets) for batch in group), lr_scheduler.get_last_lr()[0]
        optimizer.zero_grad(set_to_none=True)
        of_step = torch.zeros(3, dtype=torch.float64)
        for number, batch in enumerate(group, 1):
            with _gradients_summed(model, is_last=number == len(group)):
                clips, labels = to_device(batch, to_inputs, precision)
                clips, targets, labels = to_targets(clips, labels, batch, rng)
                of_step += _add_gradient(model, criterion, clips, targets, labels, precision, count)
        value = of_step[0].item() / count
        if not math.isfinite(value):
            raise NonFiniteLoss(epoch, step, lr, value, [video for batch in group for video in batch.videos.tolist()])
        _take_step(optimizer, precision.scaler, max_grad_norm)
        lr_scheduler.step()
        sums += of_step
        meter.update(step, count, loss=value, lr=lr)
        after_step(count, sums.tolist())
    broadcast_buffers(model)  # what is validated is what is saved
    loss_sum, right, count = sum_over_processes(sums).tolist()
    return EpochSummary(loss_sum / count, 100 * right / count, meter.seconds, meter.data_seconds, epoch, counted_by)


def in_groups(batches: Iterable[Batch], size: int) -> Iterator[list[Batch]]:
    """Yields lists of `size` batches; the last may be shorter."""
    iterator = iter(batches)
    while group := list(islice(iterator, size)):
        yield group


def _add_gradient(
    model: nn.Module,
    criterion: nn.Module,
    clips: Tensor,
    targets: Any,
    labels: Tensor,
    precision: Precision,
    count: int,
) -> Tensor:
    """Adds the gradient of the batch's share of the mean loss over `count` clips.

    Returns:
        float64 (3,): sum of losses, right predictions, clips.
    """
    with precision.autocast():
        logits = model(clips.contiguous(memory_format=precision.memory_format))
        loss_sum = criterion(logits, targets).sum()
    loss = loss_sum / count
    (loss if precision.scaler is None else precision.scaler.scale(loss)).backward()
    right = (truth_ranks(logits.detach().float(), labels) < 1).sum()
    return torch.tensor([loss_sum.item(), right.item(), len(labels)], dtype=torch.float64)


def _gradients_summed(model: nn.Module, is_last: bool) -> contextlib.AbstractContextManager:
    """Around a batch: processes exchange gradients once a step, after its last batch."""
    no_sync = getattr(model, "no_sync", None)
    return contextlib.nullcontext() if is_last or no_sync is None else no_sync()


def _take_step(
    optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler | None, max_grad_norm: float | None
) -> None:
    if max_grad_norm is not None:
        if scaler is not None:
            scaler.unscale_(optimizer)
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        nn.utils.clip_grad_norm_(parameters, max_grad_norm)
    if scaler is None:
        optimizer.step()
    else:
        scaler.step(optimizer)
        scaler.update()
