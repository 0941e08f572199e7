"""Validation as the scripts do it: scored, printed, and told of. A room of its own between `engine`, which scores, and
the scripts, which know the flags.
"""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from caching.splits import Clips
from evaluation.evaluate import evaluate
from evaluation.logits_files import LogitsWriter
from evaluation.metrics import VideoResults
from network.checkpoint import load_checkpoint, temperature_of
from network.models import load_state
from network.precision import Precision
from reporting.run_report import RunReport
from runtime.distributed import print_main
from training.screen import print_results


def run_validation(
    model: nn.Module, precision: Precision, print_freq: int, clips: Clips, on_logits=None
) -> VideoResults:
    """Scores the validation videos and prints what came out, and how."""
    results = evaluate(
        model,
        nn.CrossEntropyLoss(reduction="none"),
        clips.loader,
        clips.videos,
        num_classes=len(clips.loader.dataset.folder.classes),
        precision=precision,
        print_freq=print_freq,
        on_logits=on_logits,
    )
    print_results(results, clips.options.rule, clips.pixels, clips.skipped, clips.turned)
    return results


def validate_selections(
    validate: Callable[..., VideoResults], val_clips: Sequence[Clips], save_logits: Path | None = None
) -> dict[str, VideoResults]:
    """Validates by each frame selection, and writes the clips' logits if asked.

    Args:
        validate: `run_validation` but for `clips` and `on_logits`.
        val_clips: of the same videos, each by another selection.
        save_logits: file for the logits of the first.

    Returns:
        The results by name of the selection.

    Raises:
        LogitsError: the file cannot be written.
    """
    writer = LogitsWriter(save_logits) if save_logits else None
    if writer is not None:
        validate = partial(validate, on_logits=writer.add)
    results = {clips.options.selection: validate(clips) for clips in val_clips}
    if writer is not None:
        writer.write(val_clips[0].loader.dataset.folder)
    return results


def report_best(
    report: RunReport,
    log: Sequence[dict[str, Any]],
    model: nn.Module,
    validate: Callable[[], VideoResults],
    best: VideoResults | None,
    path: str | Path,
) -> None:
    """Tells of the best epoch; validates it again where it is from before the run was resumed.

    Args:
        report: to write.
        log: entries of `log.jsonl`.
        model: takes the weights of the best epoch where it must be validated again.
        validate: scores `model`.
        best: what validation found in that epoch, None where it is from before.
        path: the checkpoint of that epoch.
    """
    if best is None:
        print_main(f"Validating {path}, the best so far, for the report")
        checkpoint = load_checkpoint(path)
        if report.calibrate and "temperature" not in checkpoint:
            print_main(f"{path} is from before --calibrate: calibrate it by --test-only --calibrate --resume {path}")
        report.calibrate, report.temperature = False, temperature_of(checkpoint, path)
        load_state(model, checkpoint["model"], keep_head=True)
        best = validate()
    report.write_training(best, path, log)
