"""What a batch is trained towards: its labels, mirrored and mixed as its clips are, and a teacher's outputs."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from clips.dataset import Batch
from network.precision import upload
from training.losses import Targets
from training.mixing import Mixing, partner


class TargetMaker:
    """Makes a batch's targets, on the device of its labels.

    Args:
        num_classes: outputs of the network.
        mirrors: int64 (num_classes,), the class of each class's mirror image; None: the same.
        mixing: mixes the clips of a batch, and their targets with them.
        teacher: float32 (num_videos, num_classes), a teacher's probabilities for each video.
        teachers: shows a batch's finished clips to teachers instead: `Teachers`.
    """

    def __init__(
        self,
        num_classes: int,
        mirrors: Tensor | None = None,
        mixing: Mixing | None = None,
        teacher: Tensor | None = None,
        teachers: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        self._num_classes, self._mixing, self._teacher, self._teachers = num_classes, mixing, teacher, teachers
        self._mirrors = torch.arange(num_classes) if mirrors is None else mirrors

    @property
    def counted_by(self) -> str:
        """Which labels accuracy is against, in words."""
        return "labels" if self._mixing is None else "the dominant label of mixed clips"

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
        shares = (labels[:, None] == torch.arange(self._num_classes, device=labels.device)).to(torch.float32)
        teacher = None
        if self._teacher is not None:
            (teacher,) = upload(labels.device, self._teacher[batch.videos])
            teacher = torch.where(flips[:, None], teacher[:, mirrors], teacher)
        if self._mixing is not None:
            clips, own = self._mixing(clips, rng)
            shares = own * shares + (1 - own) * partner(shares)
            if teacher is not None:
                teacher = own * teacher + (1 - own) * partner(teacher)
            labels = labels if own >= 0.5 else partner(labels)
        if self._teachers is not None:
            teacher = self._teachers(clips)
        return clips, Targets(shares, teacher), labels
