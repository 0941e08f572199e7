"""Teachers that are shown the very clips that the student is trained on, after augmentation and mixing."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from clips.preprocessing import Preprocessing
from network.checkpoint import Checkpoint
from network.precision import Precision
from network.trained_model import TrainedModel, trained_model
from runtime.distributed import print_main
from runtime.errors import UserError


class TeacherError(UserError):
    """A checkpoint that cannot teach this student; the message says why, and what to do."""


def read_teachers(paths: Sequence[Path], classes: Sequence[str], shown: Preprocessing) -> list[TrainedModel]:
    """The networks of the teachers' checkpoints, on the CPU. Draws nothing from torch's generator.

    The teachers must know the student's classes, and be trained for clips that go through what it is `shown`.

    Raises:
        TeacherError: a teacher knows other classes, or was trained for other clips.
        CheckpointError, ModelError: a file that is not a checkpoint, or contradicts itself.
    """
    with torch.random.fork_rng(devices=[]):  # new networks are initialized before their weights are loaded
        teachers = [_read_teacher(path, classes, shown) for path in paths]
    names = ", ".join(f"{teacher.path} ({teacher.name})" for teacher in teachers)
    print_main(f"Taught by {names}, on the clips that the student sees")
    return teachers


def _read_teacher(path: Path, classes: Sequence[str], shown: Preprocessing) -> TrainedModel:
    checkpoint = Checkpoint.read(path)
    if checkpoint.is_legacy:
        raise TeacherError(f"--teacher {path} has no class names: take a checkpoint of train.py, which has them")
    teacher = trained_model(checkpoint, path)
    if differences := teacher.preprocessing.differences(shown):
        raise TeacherError(
            f"--teacher {path} was trained for other clips than this student: {', '.join(differences)}. Choose the "
            "same for the student, or write the teacher's logits by --test-only --eval-split train --save-logits FILE, "
            "with the teacher's own settings, and give that file as --teacher-logits"
        )
    lacking, further = sorted(set(classes) - set(teacher.classes)), sorted(set(teacher.classes) - set(classes))
    if lacking or further:
        raise TeacherError(
            f"--teacher {path} knows other classes than the data: it lacks {', '.join(lacking) or 'none'}; it also has "
            f"{', '.join(further) or 'none'}"
        )
    return teacher


class Teachers:
    """The mean of several networks' probabilities.

    Args:
        models: the teachers; they are moved to the device.
        classes: in the order of the result's columns.
        temperature: divides the logits before the softmax.
        precision: of the student.
    """

    def __init__(
        self, models: Sequence[TrainedModel], classes: Sequence[str], temperature: float, precision: Precision
    ) -> None:
        self._temperature, self._precision = temperature, precision
        self._networks = [
            model.network.eval().to(precision.device).to(memory_format=precision.memory_format) for model in models
        ]
        self._columns = [
            torch.tensor([model.classes.index(name) for name in classes], device=precision.device) for model in models
        ]

    def __call__(self, clips: Tensor) -> Tensor:
        """Normalized clips (B, C, T, H, W) on the device to probabilities, float32 (B, num_classes)."""
        # A tensor that was made in inference mode cannot take part in the student's gradient; a copy of it can.
        return self._probabilities(clips).clone()

    @torch.inference_mode()
    def _probabilities(self, clips: Tensor) -> Tensor:
        clips = clips.contiguous(memory_format=self._precision.memory_format)
        parts = []
        for network, columns in zip(self._networks, self._columns, strict=True):
            with self._precision.autocast():
                logits = network(clips)
            parts.append((logits.float()[:, columns] / self._temperature).softmax(1))
        return torch.stack(parts).mean(0)
