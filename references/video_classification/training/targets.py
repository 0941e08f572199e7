"""What a batch is trained towards: its labels, mirrored and mixed as its clips are, and a teacher's outputs."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from clips.dataset import Batch
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
        mirrors = torch.arange(self.num_classes) if self.mirrors is None else self.mirrors
        mirrors, flips = mirrors.to(labels.device), batch.flips.to(labels.device)
        labels = torch.where(flips, mirrors[labels], labels)
        shares = F.one_hot(labels, self.num_classes).to(torch.float32)
        teacher = None
        if self.teacher is not None:
            teacher = self.teacher[batch.videos].to(labels.device)
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
