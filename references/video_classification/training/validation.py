"""Validation as the scripts do it: scored, and printed."""

from collections.abc import Callable, Sequence
from pathlib import Path

from torch import Tensor, nn

from caching.splits import Clips
from clips.samplers import Sample
from evaluation.evaluate import evaluate
from evaluation.logits_files import LogitsWriter
from evaluation.metrics import VideoResults
from network.precision import Precision
from training.screen import print_results


def run_validation(
    network: nn.Module,
    precision: Precision,
    clips: Clips,
    print_freq: int | None,
    on_logits: Callable[[Sequence[Sample], Tensor], None] | None = None,
    in_full: bool = True,
) -> VideoResults:
    """Scores the videos of a split and prints the results, and how they were found.

    Args:
        network: on its device.
        precision: to compute in.
        clips: the split.
        print_freq: steps between two lines of progress, None for a line from time to time.
        on_logits: called with the samples of each batch and their logits (B, num_classes).
        in_full: also print how it was measured.
    """
    results = evaluate(
        network,
        nn.CrossEntropyLoss(reduction="none"),
        clips.loader,
        clips.videos,
        num_classes=len(clips.loader.dataset.folder.classes),
        precision=precision,
        print_freq=print_freq,
        on_logits=on_logits,
    )
    rule = clips.options.preprocessing.rule
    print_results(results, rule, clips.pixels, clips.skipped, clips.turned, in_full, clips.seen)
    return results


def validate_selections(
    network: nn.Module,
    precision: Precision,
    val_clips: Sequence[Clips],
    print_freq: int | None,
    save_logits: Path | None = None,
) -> dict[str, VideoResults]:
    """Validates by each frame selection, and writes the clips' logits if asked.

    Args:
        network: on its device.
        precision: to compute in.
        val_clips: of the same videos, each by another selection.
        print_freq: steps between two lines of progress, None for a line from time to time.
        save_logits: file for the logits.

    Returns:
        The results by name of the selection.

    Raises:
        UserError: the file cannot be written.
    """
    writer = LogitsWriter(save_logits) if save_logits else None
    on_logits = writer.add if writer is not None else None
    results = {
        clips.options.preprocessing.frame_selection: run_validation(network, precision, clips, print_freq, on_logits)
        for clips in val_clips
    }
    if writer is not None:
        writer.write(val_clips[0].loader.dataset.folder)
    return results
