"""What a run leaves to be looked at: the result files, the page, and TensorBoard's events. A room of its own above
`reporting`: it brings together what the run measured, and is made before the work, so that what will be missing at the
end is known at the start.
"""

import datetime
import platform
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torchvision

from caching.splits import Clips
from evaluation.calibration import fit_temperature, is_at_limit
from evaluation.metrics import VideoResults
from network.checkpoint import save_calibrated
from reporting import charts
from reporting.html_report import write_report
from reporting.mistakes import worst_mistakes
from reporting.report_content import Report
from reporting.result_files import Evaluation, write_result_files
from reporting.run_folder import RunFolderError, read_log
from reporting.tensorboard_log import TensorBoardLog
from runtime.distributed import is_main, print_main
from runtime.errors import REQUIREMENTS

WORST_MISTAKES = 12


def open_evaluation_folder(output_dir: Path, weights: str | None, split: str = "val") -> Path:
    """Makes `eval_<stem of the checkpoint>` in `output_dir`, so that nothing of a run is written over.

    With `_train` at its end where that is the split.

    Raises:
        RunFolderError: it cannot be written.
    """
    name = f"eval_{Path(weights).stem if weights else 'untrained'}"
    folder = output_dir / (name if split == "val" else f"{name}_{split}")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunFolderError(f"{folder} cannot be written: {error.strerror}; choose another --output-dir") from error
    return folder


@dataclass
class RunReport:
    """Writes what a run found, on rank 0, into `folder`.

    title: of the page. classes: names. clips: the validation split. settings: see `Report`. calibrate: whether to fit
    a temperature, else `temperature` it is. preparing_seconds: that the run took to get here. tensorboard: whether to
    write events too. start_epoch: that comes first.

    Raises:
        MissingExtra: `tensorboard` without the package.
    """

    folder: Path
    title: str
    classes: Sequence[str]
    clips: Clips
    settings: dict[str, dict[str, Any]]
    calibrate: bool = False
    temperature: float = 1.0
    preparing_seconds: float = 0.0
    tensorboard: bool = False
    start_epoch: int = 0
    _events: TensorBoardLog | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        if is_main() and not charts.can_plot():
            print_main(
                "matplotlib is not installed, or cannot be imported: the report will have no plots (pip install -r "
                f"{REQUIREMENTS})"
            )
        if self.tensorboard and is_main():
            self._events = TensorBoardLog(self.folder, self.start_epoch)

    def add_epoch(self, entry: dict[str, Any]) -> None:
        """An epoch is done; `entry` is its line of the log."""
        if self._events is not None:
            self._events.add_epoch(entry)

    def write_evaluation(
        self, results: VideoResults, path: str | Path | None, checkpoint: dict[str, Any] | None
    ) -> None:
        """Tells of a checkpoint that was only validated; to calibrate it, writes it again beside the report.

        Args:
            results: what validation found.
            path, checkpoint: its file and contents, None where the weights are no checkpoint.

        Raises: as `write_training`, and CheckpointError where the calibrated checkpoint cannot be written.
        """
        if not is_main():
            return
        temperature = fit_temperature(results.scores, results.targets) if self.calibrate else self.temperature
        if self.calibrate:
            print_main(f"Calibrated: {save_calibrated(self.folder, path, checkpoint, temperature)}")
        log = read_log(Path(path).parent) if path else []
        stages = {
            "Preparing": self.preparing_seconds,
            "Validation steps": results.seconds - results.data_seconds,
            "Waiting for validation data": results.data_seconds,
        }
        self._write(results, path, temperature, log, stages)

    def write_training(self, best: VideoResults, path: str | Path, log: Sequence[dict[str, Any]]) -> None:
        """Tells of a training.

        Args:
            best: what validation found in its best epoch.
            path: the checkpoint of that epoch.
            log: entries of `log.jsonl`.

        Raises:
            RunFolderError: the folder cannot be written.
            VideoError, CacheError: the frames of a mistake cannot be read any more.
        """
        if not is_main():
            return
        names = ("seconds", "data_seconds", "val_seconds", "val_data_seconds")
        train, train_data, val, val_data = (sum(entry.get(name, 0.0) for entry in log) for name in names)
        stages = {
            "Preparing": self.preparing_seconds,
            "Training steps": train - train_data,
            "Waiting for training data": train_data,
            "Validation steps": val - val_data,
            "Waiting for validation data": val_data,
        }
        temperature = fit_temperature(best.scores, best.targets) if self.calibrate else self.temperature
        self._write(best, path, temperature, log, stages)

    def _write(self, results: VideoResults, checkpoint, temperature: float, log, stages: dict[str, float]) -> None:
        """The figures first, since the page needs more that may fail."""
        clips = self.clips
        dataset = clips.loader.dataset
        evaluation = Evaluation(
            results,
            [dataset.folder.names.string(video) for video in results.videos.tolist()],
            self.classes,
            clips.options.rule,
            clips.pixels,
            clips.skipped,
            Path(checkpoint) if checkpoint else None,
            temperature,
            clips.turned,
        )
        try:
            metrics = write_result_files(self.folder, evaluation)
            mistakes = worst_mistakes(evaluation, dataset, WORST_MISTAKES)
            settings = {**self.settings, "Software": software()}
            subtitle = f"{checkpoint or 'no checkpoint'}, {datetime.datetime.now():%Y-%m-%d %H:%M}"
            report = Report(self.title, subtitle, evaluation, metrics, log, mistakes, stages, settings)
            path = write_report(self.folder, report)
        except OSError as error:
            raise RunFolderError(f"the report cannot be written to {self.folder}: {error}") from error
        if self._events is not None:
            self._events.add_evaluation(evaluation, mistakes, log[-1]["epoch"] if log else 0)
            self._events.close()
        print_main(calibration_line(metrics))
        print_main(f"Report: {path}")


def software() -> dict[str, str]:
    """What the run ran on."""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "system": platform.platform(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
    }


def calibration_line(metrics: dict[str, Any]) -> str:
    """What `metrics.json` says of calibration, in words."""
    error, temperature = metrics["expected_calibration_error"], metrics["temperature"]
    if error is None:
        return "Expected calibration error: not a number, since no output of the network is one"
    if temperature == 1:
        return f"Expected calibration error {error:.4f}"
    before = metrics["expected_calibration_error_uncalibrated"]
    limit = " (a limit: these videos do not determine it)" if is_at_limit(temperature) else ""
    return f"Expected calibration error {error:.4f} at temperature {temperature:.4f}{limit}, {before:.4f} without"
