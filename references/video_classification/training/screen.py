"""What a run prints."""

import textwrap
from pathlib import Path
from typing import Any

from torch import nn

from caching.splits import Clips
from evaluation.metrics import VideoResults
from network.models import parameter_counts
from runtime.distributed import print_main, rank, world_size
from runtime.files import write_json
from training.engine import EpochSummary, NonFiniteLoss
from training.saving import RunProgress
from videos.folder import VideoFolder

SCREEN_WIDTH = 110


def epoch_entry(epoch: int, summary: EpochSummary, results: VideoResults, lr: float) -> dict[str, Any]:
    """An epoch's line in the log; accuracies in percent, `lr` after the last step."""
    return {
        "epoch": epoch,
        "train_loss": summary.loss,
        "train_clip_acc1": summary.clip_acc1,
        "val_loss": results.loss,
        "val_clip_acc1": results.clip.top1,
        "val_clip_acc5": results.clip.top5,
        "val_video_acc1": results.video.top1,
        "val_video_acc5": results.video.top5,
        "lr": lr,
        "seconds": summary.seconds,
        "data_seconds": summary.data_seconds,
        "val_seconds": results.seconds,
        "val_data_seconds": results.data_seconds,
    }


def print_plan(model: nn.Module, name: str, clips: Clips, num_classes: int, progress: RunProgress, epochs: int) -> None:
    """What is about to be done, with the numbers that follow from the settings."""
    trained, total = parameter_counts(model)
    options, steps = clips.options, clips.steps_per_epoch()
    repeated = -len(clips.videos) * options.clips_per_video % world_size()
    batch = [(options.batch_size, "clips"), (options.batches_per_step, "batches"), (world_size(), "processes")]
    print_main(
        f"{name}: {trained:,} of {total:,} parameters trained; {num_classes} classes, "
        f"{len(clips.videos)} training videos; epochs {progress.epoch} to {epochs - 1}, "
        f"{steps} steps each, {steps * (epochs - progress.epoch)} in all; effective batch {clips.clips_per_step()} "
        f"({' x '.join(f'{count} {what}' for count, what in batch)}); "
        f"{options.rule}; pixels: {clips.pixels}"
        + (f"; {repeated} clips an epoch come twice, for every process to take the same steps" if repeated else "")
    )


def print_settings(settings: dict[str, Any]) -> None:
    """Every setting as it was resolved, plain values, a line for a few of them."""
    entries = [f"{name} {_as_text(value)}" for name, value in sorted(settings.items())]
    for line in textwrap.wrap(", ".join(entries), SCREEN_WIDTH, break_long_words=False, break_on_hyphens=False):
        print_main(f"   {line}")


def _as_text(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


def write_failed_batch(folder: Path, videos: VideoFolder, error: NonFiniteLoss) -> Path:
    """Writes what the step was made of whose loss was no number; returns the file."""
    where = folder / f"non_finite_loss_rank{rank()}.json"
    names = [videos.path(video) for video in error.videos]
    place = {"epoch": error.epoch, "step": error.step, "lr": error.lr, "loss": str(error.loss)}
    write_json(where, {**place, "videos": names})
    return where


def print_results(results: VideoResults, rule: str, pixels: str, skipped: int, turned: int = 0) -> None:
    """The two lines of the reference script, and what was measured, and how."""
    for name, accuracy in (("Clip", results.clip), ("Video", results.video)):
        print_main(f" * {name} Acc@1 {accuracy.top1:.3f} {name} Acc@5 {accuracy.top5:.3f}")
    not_scored = f", {skipped} unreadable videos not scored" if skipped else ""
    counts = f"{len(results.videos)} videos, {results.clip.count} clips{not_scored}"
    print_main(f"   {counts}; {rule}; pixels: {pixels}; loss {results.loss:.4f}")
    if turned:
        print_main(f"   {turned} of them turned or mirrored for display, which the challenge's evaluator would not do")
