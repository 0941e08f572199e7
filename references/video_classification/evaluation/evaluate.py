"""A pass over a validation split."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from clips.loading import ClipLoader
from clips.samplers import Sample, evaluation_samples
from evaluation.metrics import VideoResults, VideoScores
from network.acceleration import StepQueue
from network.precision import Precision, ToInputs, to_device
from runtime.distributed import barrier, rank, world_size
from runtime.progress import StepMeter


@torch.inference_mode()
def evaluate(
    model: nn.Module,
    criterion: nn.Module,
    loader: ClipLoader,
    videos: Tensor,
    *,
    num_classes: int,
    precision: Precision,
    print_freq: int | None,
    on_logits: Callable[[Sequence[Sample], Tensor], None] | None = None,
) -> VideoResults:
    """Scores each video exactly once; every process scores its share, without padding.

    Args:
        model: takes clips (B, C, T, H, W).
        criterion: takes logits and targets, returns losses (B,).
        loader: of the validation clips.
        videos: int64 (V,), rows of the loader's folder.
        num_classes: number of classes.
        precision: of the forward pass.
        print_freq: steps between two lines of progress, None for a line from time to time.
        on_logits: called with the samples of each batch and their logits (B, num_classes), on the CPU.

    Raises:
        RuntimeError: a video was not scored exactly once.
    """
    model.eval()
    dataset = loader.dataset
    scores = VideoScores(torch.from_numpy(dataset.folder.labels), num_classes, dataset.clips_per_video)
    samples = evaluation_samples(videos, dataset.clips_per_video, rank(), world_size())
    meter = StepMeter("Test:", loader.batches(samples), loader.num_batches(len(samples)), print_freq)
    outputs = _outputs(model, criterion, meter, dataset.to_inputs, precision)
    for step, (of_videos, logits, losses) in enumerate(outputs):
        scores.update(of_videos, logits, losses)
        if on_logits is not None:
            begin = step * loader.batch_size
            on_logits(samples[begin : begin + loader.batch_size], logits)
        meter.update(step, len(of_videos), loss=losses.mean().item())
    barrier()  # unlike the sums that follow, a wait that a stop signal ends
    return replace(scores.reduce(videos), seconds=meter.seconds, data_seconds=meter.data_seconds)


def _outputs(
    model: nn.Module, criterion: nn.Module, meter: StepMeter, to_inputs: ToInputs, precision: Precision
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yields of each batch the videos (B,), logits (B, num_classes) and losses (B,), on the CPU.

    On a GPU they come late, while it computes those of the next batches.
    """
    queue = StepQueue(precision.device, meter)
    late: deque[tuple[Tensor, Tensor, Tensor]] = deque()
    for batch in meter:
        queue.batch_is_here()
        clips, targets = to_device(batch, to_inputs, precision)
        with precision.autocast():
            logits = model(clips)
            losses = criterion(logits, targets)
        late_copy = queue.steps_ahead > 0  # which the queue waits for before it is read
        logits, losses = (values.float().to("cpu", non_blocking=late_copy) for values in (logits, losses))
        late.append((batch.videos, logits, losses))
        queue.step_is_queued()
        while len(late) > queue.steps_ahead:
            yield late.popleft()
    queue.finish()
    yield from late
