"""One epoch of training, one pass of validation."""

import contextlib
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import presets
import torch
from datasets import Batch, evaluation_samples, seeded_generator
from distributed import rank, sum_over_processes, world_size
from errors import UserError
from loading import ClipLoader
from metrics import VideoResults, VideoScores, truth_ranks
from models import set_train_mode
from progress import StepMeter
from torch import Tensor, nn

AMP_TYPES = {"off": None, "bf16": torch.bfloat16, "fp16": torch.float16}


class NonFiniteLoss(UserError):
    """Training cannot go on: the loss is no number. The attributes say where; videos are rows of the folder."""

    def __init__(self, epoch: int, step: int, lr: float, loss: float, videos: list[int]) -> None:
        super().__init__(f"the loss is {loss} at step {step} of epoch {epoch}, at a rate of {lr:.3g}")
        self.epoch, self.step, self.lr, self.loss, self.videos = epoch, step, lr, loss, videos


@dataclass
class Precision:
    """In which type the network computes.

    amp: the type of autocast, None for float32. scaler: scales the loss where float16 gradients would vanish.
    """

    device: torch.device
    amp: torch.dtype | None
    scaler: torch.amp.GradScaler | None

    @classmethod
    def of(cls, name: str, device: torch.device) -> "Precision":
        """By a name of AMP_TYPES."""
        amp = AMP_TYPES[name]
        return cls(device, amp, torch.amp.GradScaler(device.type) if amp == torch.float16 else None)

    def autocast(self) -> contextlib.AbstractContextManager:
        """The context of a forward pass."""
        if self.amp is None:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, dtype=self.amp)


@dataclass(frozen=True)
class EpochSummary:
    """What an epoch of training came to, over all processes: mean loss, clip accuracy in percent, times in seconds."""

    loss: float
    clip_acc1: float
    seconds: float
    data_seconds: float
    epoch: int

    def line(self) -> str:
        """For the screen."""
        waiting = 100 * self.data_seconds / max(self.seconds, 1e-9)
        return (
            f"Epoch: [{self.epoch}] loss {self.loss:.4f}, training clips Acc@1 {self.clip_acc1:.3f}, "
            f"{self.seconds:.1f} s, waiting for data {waiting:.1f} %"
        )


def train_one_epoch(
    model: nn.Module,
    criterion: nn.Module,
    optimizer: torch.optim.Optimizer,
    lr_scheduler: torch.optim.lr_scheduler.LRScheduler,
    batches: Iterable[Batch],
    *,
    num_steps: int,
    precision: Precision,
    frozen: Sequence[str],
    epoch: int,
    seed: int,
    print_freq: int,
    first_step: int = 0,
    totals: Sequence[float] | None = None,
    after_step: Callable[[int, list[float]], None] = lambda clips, totals: None,
) -> EpochSummary:
    """Takes a step a batch.

    Args:
        model: the network, in DistributedDataParallel where there are several processes.
        criterion: (logits, targets) -> losses (B,).
        batches: yields the batches of this epoch from `first_step` on.
        num_steps: how many the epoch has.
        precision: see there.
        frozen: modules that stay in evaluation mode, from `models.freeze`.
        epoch, seed: what the steps' randomness depends on, with the step's number.
        print_freq: steps between two lines.
        first_step, totals: where an epoch that was interrupted goes on, and what `after_step` was told there.
        after_step: called with the clips of the step and with the sums of loss, right clips and clips up to it.

    Raises:
        NonFiniteLoss: the loss is no number any more.
        Whatever `after_step` raises.
    """
    set_train_mode(getattr(model, "module", model), frozen)
    meter = StepMeter(f"Epoch: [{epoch}]", batches, num_steps, print_freq)
    sums = torch.tensor(totals or [0.0, 0.0, 0.0], dtype=torch.float64)  # loss, right, clips
    for step, batch in enumerate(meter, first_step):
        # Dropout and the like: the same at this step however the run came here.
        torch.manual_seed(seeded_generator(seed, epoch, step, rank()).initial_seed())
        clips, targets = to_device(batch, precision.device)
        with precision.autocast():
            logits = model(clips)
            loss = criterion(logits, targets).mean()
        value, lr = loss.item(), lr_scheduler.get_last_lr()[0]
        if not math.isfinite(value):
            raise NonFiniteLoss(epoch, step, lr, value, batch.videos.tolist())
        _backward(loss, optimizer, precision.scaler)
        lr_scheduler.step()
        right = (truth_ranks(logits.detach().float(), targets) < 1).sum().item()
        sums += torch.tensor([value * len(targets), right, len(targets)], dtype=torch.float64)
        meter.update(step, len(targets), loss=value, lr=lr)
        after_step(len(targets), sums.tolist())
    loss_sum, right, count = sum_over_processes(sums).tolist()
    return EpochSummary(loss_sum / count, 100 * right / count, meter.seconds, meter.data_seconds, epoch)


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
) -> VideoResults:
    """Scores every one of `videos`, int64, once: each process its share, without padding.

    Raises:
        RuntimeError: the scores of a video did not arrive exactly once.
    """
    model.eval()
    dataset = loader.dataset
    scores = VideoScores(torch.from_numpy(dataset.folder.labels), num_classes, dataset.clips_per_video)
    samples = evaluation_samples(videos, dataset.clips_per_video, rank(), world_size())
    meter = StepMeter("Test:", loader.batches(samples), loader.num_batches(len(samples)), print_freq)
    for step, batch in enumerate(meter):
        clips, targets = to_device(batch, precision.device)
        with precision.autocast():
            logits = model(clips)
            losses = criterion(logits, targets)
        scores.update(batch.videos, logits, losses)
        meter.update(step, len(targets), loss=losses.mean().item())
    return replace(scores.reduce(videos), seconds=meter.seconds, data_seconds=meter.data_seconds)


def to_device(batch: Batch, device: torch.device) -> tuple[Tensor, Tensor]:
    """The batch's clips, flipped and normalised, float32 (B, C, T, H, W), and targets (B,), on the device."""
    clips = batch.clips.to(device, non_blocking=True)
    flips = batch.flips.to(device, non_blocking=True)
    return presets.normalize(presets.flip(clips, flips)), batch.targets.to(device, non_blocking=True)


def _backward(loss: Tensor, optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler | None) -> None:
    optimizer.zero_grad(set_to_none=True)
    if scaler is None:
        loss.backward()
        optimizer.step()
    else:
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
