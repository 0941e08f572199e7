"""What a batch is trained towards: its labels, mirrored and mixed as its clips are, and the outputs of teachers."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from clips.dataset import Batch
from clips.preprocessing import Preprocessing
from network.checkpoint import Checkpoint
from network.precision import Precision, upload
from network.trained_model import TrainedModel, trained_model
from runtime.distributed import print_main
from runtime.errors import UserError
from training.losses import Targets
from training.mixing import Mixing, partner


@dataclass
class TargetMaker:
    """Makes a batch's targets, on the device of its labels."""

    num_classes: int  # outputs of the network
    mirrors: Tensor | None = None  # int64 (num_classes,), the class of each class's mirror image; None: the same
    mixing: Mixing | None = None  # of the clips of a batch, and their targets with them
    teacher: Tensor | None = None  # float32 (num_videos, num_classes), a teacher's probabilities for each video
    teachers: Callable[[Tensor], Tensor] | None = None  # shows them a batch's finished clips instead: `Teachers`

    def __post_init__(self) -> None:
        self._mirrors = torch.arange(self.num_classes) if self.mirrors is None else self.mirrors

    @property
    def counted_by(self) -> str:
        """Which labels accuracy is against, in words."""
        return "labels" if self.mixing is None else "the dominant label of mixed clips"

    def __call__(
        self, clips: Tensor, labels: Tensor, batch: Batch, rng: np.random.Generator
    ) -> tuple[Tensor, Targets, Tensor]:
        """Finishes a batch for a step of training.

        Args:
            clips: float32 (B, C, T, H, W), on the device.
            labels: int64 (B,), on the device, of the clips before any was flipped.
            batch: what they were made of.
            rng: of this step.

        Returns:
            The clips; what they are trained towards; int64 (B,), the labels that accuracy is counted against.
        """
        mirrors = self._mirrors = self._mirrors.to(labels.device)
        (flips,) = upload(labels.device, batch.flips)
        labels = torch.where(flips, mirrors[labels], labels)
        shares = (labels[:, None] == torch.arange(self.num_classes, device=labels.device)).to(torch.float32)
        teacher = None
        if self.teacher is not None:
            (teacher,) = upload(labels.device, self.teacher[batch.videos])
            teacher = torch.where(flips[:, None], teacher[:, mirrors], teacher)
        if self.mixing is not None:
            clips, own = self.mixing(clips, rng)
            shares = own * shares + (1 - own) * partner(shares)
            if teacher is not None:
                teacher = own * teacher + (1 - own) * partner(teacher)
            labels = labels if own >= 0.5 else partner(labels)
        if self.teachers is not None:
            teacher = self.teachers(clips)
        return clips, Targets(shares, teacher), labels


def read_teachers(paths: Sequence[Path], classes: Sequence[str], shown: Preprocessing) -> list[TrainedModel]:
    """The networks of the teachers' checkpoints, on the CPU. Draws nothing from torch's generator.

    The teachers must know the student's classes, and be trained for clips that go through what it is `shown`: otherwise
    raises UserError, as for a file that is not a checkpoint.
    """
    with torch.random.fork_rng(devices=[]):  # new networks are initialized before their weights are loaded
        teachers = [_read_teacher(path, classes, shown) for path in paths]
    names = ", ".join(f"{teacher.path} ({teacher.name})" for teacher in teachers)
    print_main(f"Taught by {names}, on the clips that the student sees")
    return teachers


def _read_teacher(path: Path, classes: Sequence[str], shown: Preprocessing) -> TrainedModel:
    checkpoint = Checkpoint.read(path)
    if checkpoint.is_legacy:
        raise UserError(f"--teacher {path} has no class names: take a checkpoint of train.py, which has them")
    teacher = trained_model(checkpoint, path)
    if differences := teacher.preprocessing.differences(shown):
        raise UserError(
            f"--teacher {path} was trained for other clips than this student: {', '.join(differences)}. Choose the "
            "same for the student, or write the teacher's logits by --test-only --eval-split train --save-logits FILE, "
            "with the teacher's own settings, and give that file as --teacher-logits"
        )
    lacking, further = sorted(set(classes) - set(teacher.classes)), sorted(set(teacher.classes) - set(classes))
    if lacking or further:
        raise UserError(
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
