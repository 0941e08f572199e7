"""What a batch is trained towards, made on the device of its labels. A room of its own between the datasets, which know
labels alone, and the losses, which take shares of classes.
"""

import numpy as np
from datasets import Batch
from losses import Targets, one_hot
from torch import Tensor


class TargetMaker:
    """Makes a batch's targets.

    Args:
        num_classes: outputs of the network.
    """

    def __init__(self, num_classes: int) -> None:
        self._num_classes = num_classes

    def __call__(
        self, clips: Tensor, labels: Tensor, batch: Batch, rng: np.random.Generator
    ) -> tuple[Tensor, Targets, Tensor]:
        """Finishes a batch for a step of training.

        Args:
            clips: float32 (B, C, T, H, W), on the device.
            labels: int64 (B,), on the device.
            batch: what they were made of.
            rng: of this step.

        Returns:
            The clips; what they are trained towards; int64 (B,), the labels that accuracy is counted against.
        """
        return clips, Targets(one_hot(labels, self._num_classes)), labels
