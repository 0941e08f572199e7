"""TensorBoard events: the numbers of each epoch, and at the end the worst mistakes and the confusion matrix."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from reporting.mistakes import Mistake
from reporting.result_files import Evaluation
from runtime.errors import require
from runtime.files import printable

FOLDER = "tensorboard"
IMAGE_SIDE = 512  # pixels of the confusion matrix, at least
WHITE, BLUE = np.array([255.0, 255.0, 255.0]), np.array([8.0, 48.0, 107.0])
SEEN = "seen_in_training/"  # in front of tags of videos that the network was trained on
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


def event_files(folder: Path) -> list[Path]:
    """The files that TensorBoardLog wrote in a run's folder."""
    return list((folder / FOLDER).glob("events.out.tfevents.*"))


class TensorBoardLog:
    """Event files under `folder`/tensorboard; those of an earlier run are hidden from `start_epoch` on.

    Raises MissingExtra where tensorboard is not installed.
    """

    def __init__(self, folder: Path, start_epoch: int) -> None:
        require("tensorboard")
        writer = require("torch.utils.tensorboard").SummaryWriter
        self._writer = writer(str(folder / FOLDER), purge_step=start_epoch)

    def add_epoch(self, entry: dict[str, Any]) -> None:
        """Writes the numbers of an entry of `log.jsonl`."""
        for name, tag in TAGS.items():
            if entry.get(name) is not None:
                is_seen = name.startswith("val_") and entry.get("val_seen_in_training")
                self._writer.add_scalar(f"{SEEN if is_seen else ''}{tag}", entry[name], entry["epoch"])
        self._writer.flush()

    def add_evaluation(self, evaluation: Evaluation, mistakes: Sequence[Mistake], step: int) -> None:
        """Writes the accuracies, strips of the worst mistakes, and the confusion matrix."""
        for name, share in evaluation.accuracies.items():
            prefix = SEEN if evaluation.seen else ""
            self._writer.add_scalar(f"{prefix}evaluation/{name}", 100 * share.value, step)
        for place, mistake in enumerate(mistakes, 1):
            strip = np.concatenate(list(mistake.frames), axis=1)
            self._writer.add_image(f"worst_mistakes/{place}", strip, step, dataformats="HWC")
            predicted = f"{mistake.path}: {mistake.prediction} ({100 * mistake.probability:.1f} %)"
            self._writer.add_text(f"worst_mistakes/{place}", printable(f"{predicted}, but it is {mistake.label}"), step)
        image = confusion_image(evaluation.confusion.numpy())
        self._writer.add_image("confusion_matrix", image, step, dataformats="HWC")

    def close(self) -> None:
        """Writes what is still buffered."""
        self._writer.close()


def confusion_image(matrix: np.ndarray) -> np.ndarray:
    """Counts (num_classes, num_classes) as a picture: shares of each row from white to blue, uint8 RGB (H, W, 3)."""
    shares = matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    pixels = np.rint(WHITE + (BLUE - WHITE) * shares[..., None]).astype(np.uint8)
    cell = -(-IMAGE_SIDE // len(matrix))
    return pixels.repeat(cell, 0).repeat(cell, 1)
