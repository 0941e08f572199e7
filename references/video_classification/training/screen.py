"""What a run prints."""

import textwrap
from typing import Any

from torch import nn

from caching.splits import Clips
from evaluation.metrics import VideoResults
from network.models import parameter_counts
from runtime.distributed import print_main, world_size

SCREEN_WIDTH = 110


def print_plan(model: nn.Module, name: str, clips: Clips, num_classes: int, epochs: range) -> None:
    """What is about to be done, with the numbers that follow from the settings.

    Args:
        model: the whole network.
        name: of the network.
        clips: the training split.
        num_classes: outputs of the network.
        epochs: those that are left.
    """
    trained, total = parameter_counts(model)
    options, steps = clips.options, clips.steps_per_epoch()
    repeated = -len(clips.videos) * options.clips_per_video % world_size()
    batch = [(options.batch_size, "clips"), (options.batches_per_step, "batches"), (world_size(), "processes")]
    print_main(
        f"{name}: {trained:,} of {total:,} parameters trained; {num_classes} classes, "
        f"{len(clips.videos)} training videos; epochs {epochs.start} to {epochs.stop - 1}, "
        f"{steps} steps each, {steps * len(epochs)} in all; effective batch {clips.clips_per_step()} "
        f"({' x '.join(f'{count} {what}' for count, what in batch)}); "
        f"{options.preprocessing.rule}; pixels: {clips.pixels}"
        + (f"; {repeated} clips an epoch come twice, for every process to take the same steps" if repeated else "")
    )


def print_settings(settings: dict[str, Any]) -> None:
    """Prints every setting as it was resolved, plain values, several on a line."""
    entries = [f"{name} {_as_text(value)}" for name, value in sorted(settings.items())]
    for line in textwrap.wrap(", ".join(entries), SCREEN_WIDTH, break_long_words=False, break_on_hyphens=False):
        print_main(f"   {line}")


def _as_text(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


def print_results(
    results: VideoResults, rule: str, pixels: str, skipped: int, turned: int = 0, seen: bool = False
) -> None:
    """Prints the two lines of torchvision's reference script, and what was measured, and how.

    Args:
        results: of the validation.
        rule: how frames were chosen, in words.
        pixels: how they were read, in words.
        skipped: videos that cannot be read.
        turned: videos that are turned or mirrored for display.
        seen: whether the network was trained on these videos.
    """
    for name, accuracy in (("Clip", results.clip), ("Video", results.video)):
        print_main(f" * {name} Acc@1 {accuracy.top1:.3f} {name} Acc@5 {accuracy.top5:.3f}")
    not_scored = f", {skipped} unreadable videos not scored" if skipped else ""
    counts = f"{len(results.videos)} videos, {results.clip.count} clips{not_scored}"
    print_main(f"   {counts}; {rule}; pixels: {pixels}; loss {results.loss:.4f}")
    if seen:
        print_main("   of videos seen in training (--train-on-val): it does not tell the accuracy on others")
    if turned:
        print_main(f"   {turned} of them turned or mirrored for display, which the challenge's evaluator would not do")
