"""Writes the result files, the report page and TensorBoard's events of a run.

A RunReport is made before the work, so that a missing package is known at the start and not at the end.
"""

import datetime
import json
import platform
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
import torchvision

from caching.splits import Clips
from evaluation.calibration import fit_temperature, is_at_limit
from evaluation.metrics import VideoResults
from network.checkpoint import Checkpoint
from reporting.html_report import REPORT, Report, write_report
from reporting.mistakes import worst_mistakes
from reporting.result_files import METRICS, Evaluation, write_result_files
from reporting.run_folder import RESULTS, read_log
from reporting.tensorboard_log import TensorBoardLog, event_files
from runtime.distributed import is_main, print_main
from runtime.errors import UserError, reason_of
from runtime.files import file_identity, sha256_of

WORST_MISTAKES = 12


def open_evaluation_folder(output_dir: Path, weights: str | None, split: str = "val") -> Path:
    """Makes `output_dir`/eval_<stem of the checkpoint>, so that no file of a run is overwritten.

    The name of a split other than `val` is appended. Raises UserError where it cannot be written.
    """
    name = f"eval_{Path(weights).stem if weights else 'untrained'}"
    folder = output_dir / (name if split == "val" else f"{name}_{split}")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder} cannot be written: {reason_of(error)}; choose another --output-dir") from error
    return folder


@dataclass
class RunReport:
    """Writes the results of a run, on rank 0. Raises MissingExtra where `tensorboard` is not installed."""

    folder: Path  # where to
    title: str  # of the page
    classes: Sequence[str]
    clips: Clips  # the validation split
    settings: dict[str, dict[str, Any]]  # values by name, by the title of their table
    calibrate: bool = False  # whether to fit a temperature
    temperature: float = 1.0  # otherwise
    preparing_seconds: float = 0.0  # from the start of the run until now
    tensorboard: bool = False  # whether to write events too
    start_epoch: int = 0  # the first that will be trained
    defaults: dict[str, dict[str, Any]] = field(default_factory=dict)  # as `settings`; the page folds those that equal
    _events: TensorBoardLog | None = field(default=None, init=False)
    _earlier_events: list[Path] = field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        self._earlier_events = event_files(self.folder)
        if self.tensorboard and is_main():
            self._events = TensorBoardLog(self.folder, self.start_epoch)

    def add_epoch(self, entry: dict[str, Any]) -> None:
        """Writes the events of an epoch; `entry` is its line of the log."""
        if self._events is not None:
            self._events.add_epoch(entry)

    def write_evaluation(self, results: VideoResults, path: Path | None, checkpoint: Checkpoint | None) -> None:
        """Reports on weights that were only validated, and writes a calibrated copy of the checkpoint if asked.

        `path` and `checkpoint` are None for weights that come from elsewhere. Raises as `write_training`, and
        CheckpointError where the calibrated checkpoint cannot be written.
        """
        if not is_main():
            return
        temperature = self._temperature(results)
        self._remove_earlier(path)
        if self.calibrate and path is not None and checkpoint is not None:
            calibrated = self._calibrated(path)
            replace(checkpoint, temperature=temperature).write(calibrated)
            print_main(f"Calibrated: {calibrated}")
        log = read_log(Path(path).parent) if path else []
        timed = {"val_seconds": results.seconds, "val_data_seconds": results.data_seconds}
        self._write(results, path, temperature, log, [timed])

    def _calibrated(self, path: Path) -> Path:
        return self.folder / f"{path.stem}_calibrated.pth"

    def _remove_earlier(self, path: Path | None) -> None:
        """Removes what an earlier evaluation left in the folder, since this one, of `path`, may write fewer files.

        A calibrated copy stays while it is of the same checkpoint: somebody may use it.
        """
        earlier = [*map(self.folder.joinpath, RESULTS), *self._earlier_events]
        try:
            if path is not None and self._is_outdated(self._calibrated(path), path):
                earlier.append(self._calibrated(path))
            for file in earlier:
                file.unlink(missing_ok=True)
        except OSError as error:
            raise UserError(f"the report cannot be written to {self.folder}: {error}") from error

    def _is_outdated(self, calibrated: Path, checkpoint: Path) -> bool:
        """Whether the folder's evaluation is known to be of another checkpoint, and neither is a link to the other."""
        try:
            before = json.loads((self.folder / METRICS).read_text(encoding="utf-8"))["checkpoint_sha256"]
        except (OSError, ValueError, LookupError, TypeError):
            return False
        return before != sha256_of(checkpoint) and file_identity(calibrated) != file_identity(checkpoint)

    def write_training(self, best: VideoResults, path: str | Path, log: Sequence[dict[str, Any]]) -> None:
        """Reports on a training: the results of the best epoch, its checkpoint, and the entries of `log.jsonl`.

        Raises UserError where the folder cannot be written, or the frames of a mistake can no longer be read.
        """
        if is_main():
            self._write(best, Path(path), self._temperature(best), log, log)

    def _temperature(self, results: VideoResults) -> float:
        return fit_temperature(results.scores, results.targets) if self.calibrate else self.temperature

    def _write(
        self,
        results: VideoResults,
        checkpoint: Path | None,
        temperature: float,
        log: Sequence[dict[str, Any]],
        timed: Sequence[dict[str, Any]],
    ) -> None:
        """Writes everything; `timed` has the seconds of the stages, as an entry of the log."""
        evaluation = Evaluation.of(results, self.clips, self.classes, checkpoint, temperature)
        stages = {"Preparing": self.preparing_seconds, **seconds_of_stages(timed)}
        content = {"log": log, "stages": stages, "settings": self.settings, "defaults": self.defaults}
        try:
            (self.folder / REPORT).unlink(missing_ok=True)  # it would describe other results until it is written
            page = write_results(self.folder, self.title, evaluation, self.clips, **content)
        except OSError as error:
            raise UserError(f"the report cannot be written to {self.folder}: {error}") from error
        if self._events is not None:
            self._events.add_evaluation(evaluation, page.mistakes, log[-1]["epoch"] if log else 0)
            self._events.close()
        print_main(calibration_line(page.metrics))
        print_main(f"Report: {self.folder / REPORT}")


def write_results(folder: Path, title: str, evaluation: Evaluation, clips: Clips, **content: Any) -> Report:
    """Writes the result files and the page.

    Args:
        folder: to write to.
        title: of the page.
        evaluation: what to report on.
        clips: that were validated, to show the worst mistakes.
        content: further fields of the page.
    """
    # The result files come first: the page needs the frames of the mistakes, and reading these may fail.
    metrics = write_result_files(folder, evaluation)
    mistakes = worst_mistakes(evaluation, clips.loader.dataset, WORST_MISTAKES)
    subtitle = f"{evaluation.checkpoint or 'no checkpoint'}, {datetime.datetime.now():%Y-%m-%d %H:%M}"
    settings = {**content.pop("settings", {}), "Software": software()}
    page = Report(title, subtitle, evaluation, metrics, mistakes=mistakes, settings=settings, **content)
    write_report(folder, page)
    return page


def seconds_of_stages(timed: Sequence[dict[str, Any]]) -> dict[str, float]:
    """The seconds of steps and of waiting for data by stage, from entries of a log."""
    stages: dict[str, float] = {}
    for prefix, stage in (("", "training"), ("val_", "validation")):
        if any(f"{prefix}seconds" in entry for entry in timed):
            names = (f"{prefix}seconds", f"{prefix}data_seconds")
            total, waiting = (sum(entry.get(name, 0.0) for entry in timed) for name in names)
            stages |= {f"{stage.capitalize()} steps": total - waiting, f"Waiting for {stage} data": waiting}
    return stages


def software() -> dict[str, str]:
    """Versions of the libraries and the system, and the GPU."""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "system": platform.platform(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
    }


def calibration_line(metrics: dict[str, Any]) -> str:
    """The calibration in `metrics.json`, in words."""
    error, temperature = metrics["expected_calibration_error"], metrics["temperature"]
    if error is None:
        return "Expected calibration error: not a number, since all outputs of the network are NaN"
    if temperature == 1:
        return f"Expected calibration error {error:.4f}"
    before = metrics["expected_calibration_error_uncalibrated"]
    limit = " (a limit of the fit: these videos do not determine it)" if is_at_limit(temperature) else ""
    return f"Expected calibration error {error:.4f} at temperature {temperature:.4f}{limit}, {before:.4f} without"
