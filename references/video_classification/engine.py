"""One epoch of training, one pass of validation."""

import contextlib
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import numpy as np
import torch
from datasets import Batch, Sample, evaluation_samples, seeded_generator
from distributed import broadcast_buffers, rank, sum_over_processes, world_size
from errors import UserError
from loading import ClipLoader
from metrics import VideoResults, VideoScores, truth_ranks
from models import set_train_mode
from progress import StepMeter
from torch import Tensor, nn

AMP_TYPES = {"off": None, "bf16": torch.bfloat16, "fp16": torch.float16}

LAYOUTS = {"contiguous": torch.contiguous_format, "channels last": torch.channels_last_3d}


class NonFiniteLoss(UserError):
    """Training cannot go on: the loss is no number. The attributes say where; videos are rows of the folder."""

    def __init__(self, epoch: int, step: int, lr: float, loss: float, videos: list[int]) -> None:
        super().__init__(f"the loss is {loss} at step {step} of epoch {epoch}, at a rate of {lr:.3g}")
        self.epoch, self.step, self.lr, self.loss, self.videos = epoch, step, lr, loss, videos


@dataclass
class Precision:
    """In which type, and which layout, the network computes.

    amp: the type of autocast, None for float32. scaler: scales the loss where float16 gradients would vanish.
    layout: a name of LAYOUTS, of the clips and the network's weights.
    """

    device: torch.device
    amp: torch.dtype | None
    scaler: torch.amp.GradScaler | None
    layout: str = "contiguous"

    @classmethod
    def of(cls, name: str, device: torch.device) -> "Precision":
        """By a name of AMP_TYPES."""
        amp = AMP_TYPES[name]
        return cls(device, amp, torch.amp.GradScaler(device.type) if amp == torch.float16 else None)

    @property
    def memory_format(self) -> torch.memory_format:
        """Of the layout."""
        return LAYOUTS[self.layout]

    def autocast(self) -> contextlib.AbstractContextManager:
        """The context of a forward pass."""
        if self.amp is None:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, dtype=self.amp)


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


@torch.inference_mode()
def evaluate(
    model: nn.Module,
    criterion: nn.Module,
    loader: ClipLoader,
    videos: Tensor,
    *,
    num_classes: int,
    precision: Precision,
    print_freq: int,
    on_logits: Callable[[Sequence[Sample], Tensor], None] | None = None,
) -> VideoResults:
    """Scores every one of `videos`, int64, once: each process its share, without padding.

    `on_logits` is told of each batch: its samples, and their logits (B, num_classes).

    Raises:
        RuntimeError: the scores of a video did not arrive exactly once.
    """
    model.eval()
    dataset = loader.dataset
    scores = VideoScores(torch.from_numpy(dataset.folder.labels), num_classes, dataset.clips_per_video)
    samples = evaluation_samples(videos, dataset.clips_per_video, rank(), world_size())
    meter = StepMeter("Test:", loader.batches(samples), loader.num_batches(len(samples)), print_freq)
    for step, batch in enumerate(meter):
        clips, targets = to_device(batch, dataset.to_inputs, precision)
        with precision.autocast():
            logits = model(clips)
            losses = criterion(logits, targets)
        scores.update(batch.videos, logits, losses)
        if on_logits is not None:
            begin = step * loader.batch_size
            on_logits(samples[begin : begin + loader.batch_size], logits)
        meter.update(step, len(targets), loss=losses.mean().item())
    return replace(scores.reduce(videos), seconds=meter.seconds, data_seconds=meter.data_seconds)


def to_device(
    batch: Batch, to_inputs: Callable[[Tensor, Tensor, Tensor | None], Tensor], precision: Precision
) -> tuple[Tensor, Tensor]:
    """The batch on the device: the model's input, float32 (B, C, T, H, W), and targets (B,)."""
    clips, flips, targets = (
        values.to(precision.device, non_blocking=True) for values in (batch.clips, batch.flips, batch.targets)
    )
    return to_inputs(clips, flips, batch.seeds).contiguous(memory_format=precision.memory_format), targets


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
