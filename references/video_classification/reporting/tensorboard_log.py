"""What --tensorboard shows: an epoch's numbers as they come, and at the end the worst mistakes and the confusions."""

from pathlib import Path
from typing import Any

import numpy as np

from reporting import charts
from reporting.mistakes import Mistake
from reporting.result_files import Evaluation
from runtime.errors import require
from runtime.files import printable

FOLDER = "tensorboard"
TAGS = {
    "train_loss": "loss/train",
    "val_loss": "loss/validation",
    "train_clip_acc1": "accuracy/train_clip_acc1",
    "val_clip_acc1": "accuracy/validation_clip_acc1",
    "val_clip_acc5": "accuracy/validation_clip_acc5",
    "val_video_acc1": "accuracy/validation_video_acc1",
    "val_video_acc5": "accuracy/validation_video_acc5",
    "lr": "learning_rate",
    "seconds": "seconds/training",
    "data_seconds": "seconds/training_waiting_for_data",
    "val_seconds": "seconds/validation",
    "val_data_seconds": "seconds/validation_waiting_for_data",
}


class TensorBoardLog:
    """Event files under `folder`/tensorboard.

    Args:
        folder: of the run.
        start_epoch: that will be written first; later ones of an earlier run are hidden.

    Raises:
        MissingExtra: tensorboard is not installed.
    """

    def __init__(self, folder: Path, start_epoch: int) -> None:
        require("tensorboard")
        writer = require("torch.utils.tensorboard").SummaryWriter
        self._writer = writer(str(folder / FOLDER), purge_step=start_epoch)

    def add_epoch(self, entry: dict[str, Any]) -> None:
        """The numbers of an entry of `log.jsonl`."""
        for name, tag in TAGS.items():
            if entry.get(name) is not None:
                self._writer.add_scalar(tag, entry[name], entry["epoch"])
        self._writer.flush()

    def add_evaluation(self, evaluation: Evaluation, mistakes: list[Mistake], step: int) -> None:
        """The accuracies, strips of the worst mistakes, and the confusion matrix where matplotlib can draw it."""
        for name, share in evaluation.accuracies.items():
            self._writer.add_scalar(f"evaluation/{name}", 100 * share.value, step)
        for place, mistake in enumerate(mistakes, 1):
            strip = np.concatenate(list(mistake.frames), axis=1)
            self._writer.add_image(f"worst_mistakes/{place}", strip, step, dataformats="HWC")
            said = (
                f"{mistake.path}: {mistake.prediction} ({100 * mistake.probability:.1f} %), but it is {mistake.label}"
            )
            self._writer.add_text(f"worst_mistakes/{place}", printable(said), step)
        if charts.can_plot():
            image = charts.confusion_image(evaluation.confusion.numpy(), list(map(printable, evaluation.classes)))
            self._writer.add_image("confusion_matrix", image, step, dataformats="HWC")

    def close(self) -> None:
        """Writes what is left."""
        self._writer.close()
