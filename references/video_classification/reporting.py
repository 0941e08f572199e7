"""What a run tells: the lines on the screen, `args.json`, and `log.jsonl` with a line an epoch."""

import json
import textwrap
from pathlib import Path
from typing import Any

from checkpoint import NEWEST
from clip_sources import Clips
from datasets import VideoFolder
from distributed import barrier, is_main, print_main, rank, world_size
from engine import EpochSummary, NonFiniteLoss
from errors import UserError
from metrics import VideoResults
from models import parameter_counts
from saving import RunProgress
from tables import replaced_file
from torch import nn

LOG, ARGS = "log.jsonl", "args.json"
SCREEN_WIDTH = 110


class RunLog:
    """`log.jsonl` in a run's folder: one JSON object a line, one line an epoch. Only rank 0 writes."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / LOG
        self._lines: list[str] = []

    def resume(self, start_epoch: int) -> None:
        """Keeps the lines of epochs before `start_epoch`; the others will be written anew."""
        if self._path.exists():
            lines = self._path.read_text().splitlines()
            self._lines = [line for line in lines if json.loads(line)["epoch"] < start_epoch]

    @property
    def entries(self) -> list[dict[str, Any]]:
        """All lines so far."""
        return [json.loads(line) for line in self._lines]

    def add(self, entry: dict[str, Any]) -> None:
        """Writes the line of one more epoch; the file is whole at any moment."""
        self._lines.append(json.dumps(entry))
        if not is_main():
            return
        try:
            with replaced_file(self._path) as file:
                file.write(("\n".join(self._lines) + "\n").encode())
        except OSError as error:
            raise RunFolderError(
                f"{self._path} cannot be written: {error.strerror}. Make room, then --resume auto"
            ) from error


def read_log(folder: Path) -> list[dict[str, Any]]:
    """The lines of a finished run's log, without those that are something else; none where there is none."""
    try:
        entries = [json.loads(line) for line in (folder / LOG).read_text().splitlines()]
    except (OSError, ValueError):
        return []
    return [entry for entry in entries if _is_entry(entry)]


def _is_entry(entry: Any) -> bool:
    """Whether it is an epoch's line: its number, and other numbers."""
    return (
        isinstance(entry, dict)
        and type(entry.get("epoch")) is int
        and all(value is None or type(value) in (int, float) for value in entry.values())
    )


class RunFolderError(UserError):
    """A folder that must not be written to; the message says what to do."""


def check_run_folder(folder: Path, resumes: bool, overwrite: bool) -> None:
    """Raises RunFolderError where it holds a run's checkpoints, and the run neither resumes nor overwrites."""
    if _checkpoints(folder) and not (resumes or overwrite):
        raise RunFolderError(
            f"{folder} holds a run's checkpoints already: continue it with --resume {folder / NEWEST}, choose another "
            "--output-dir, or begin anew with --overwrite"
        )


def _checkpoints(folder: Path) -> list[Path]:
    return [*folder.glob("model_*.pth"), *folder.glob(NEWEST)]


def open_run_folder(folder: Path, args: dict[str, Any], resumes: bool, overwrite: bool) -> None:
    """Makes a run's folder and writes its settings to `args.json`, on rank 0.

    Raises:
        RunFolderError: see `check_run_folder`; or it cannot be written.
    """
    check_run_folder(folder, resumes, overwrite)
    barrier()  # every process has looked before one of them changes anything
    if not is_main():
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not resumes:
            for path in _checkpoints(folder):
                path.unlink(missing_ok=True)
        write_json(folder / ARGS, args)
    except OSError as error:
        raise RunFolderError(f"{folder} cannot be written: {error.strerror}; choose another --output-dir") from error


def write_json(path: Path, content: Any) -> None:
    """Writes a JSON file, whole or not at all."""
    with replaced_file(path) as file:
        file.write((json.dumps(content, indent=2) + "\n").encode())


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


def print_results(results: VideoResults, rule: str, pixels: str, skipped: int) -> None:
    """The two lines of the reference script, and what was measured, and how."""
    for name, accuracy in (("Clip", results.clip), ("Video", results.video)):
        print_main(f" * {name} Acc@1 {accuracy.top1:.3f} {name} Acc@5 {accuracy.top5:.3f}")
    not_scored = f", {skipped} unreadable videos not scored" if skipped else ""
    counts = f"{len(results.videos)} videos, {results.clip.count} clips{not_scored}"
    print_main(f"   {counts}; {rule}; pixels: {pixels}; loss {results.loss:.4f}")
