"""What training minimises: cross entropy with soft targets, and a teacher's outputs (distillation)."""

from typing import NamedTuple

from torch import Tensor, nn
from torch.nn import functional as F


class Targets(NamedTuple):
    """What a batch is trained towards."""

    shares: Tensor  # of each class, float (B, num_classes), rows sum to 1
    teacher: Tensor | None = None  # its softmax at the distillation's temperature, (B, num_classes), None without one


class TrainingLoss(nn.Module):
    """Cross entropy, and with a teacher `(1 - alpha)` of it and `alpha` of the distillation loss at a temperature.

    `label_smoothing` of each target is spread evenly over all classes.
    """

    def __init__(self, label_smoothing: float = 0.0, alpha: float = 0.0, temperature: float = 1.0) -> None:
        super().__init__()
        self._label_smoothing, self._alpha, self._temperature = label_smoothing, alpha, temperature

    def forward(self, logits: Tensor, targets: Targets) -> Tensor:
        """Logits (B, num_classes) to losses (B,), in float32 whatever the logits are."""
        logits = logits.float()
        loss = F.cross_entropy(logits, targets.shares, reduction="none", label_smoothing=self._label_smoothing)
        if targets.teacher is None:
            return loss
        distilled = distillation_loss(logits, targets.teacher, self._temperature)
        return (1 - self._alpha) * loss + self._alpha * distilled


def distillation_loss(logits: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """The Kullback-Leibler divergence of the teacher's outputs from the softmax of `logits` at `temperature`, (B,).

    Both are (B, num_classes), the teacher's at the same temperature. Times the squared temperature, which keeps the
    gradients as large as those of the labels (Hinton et al., arXiv 1503.02531, section 2).
    """
    student = F.log_softmax(logits / temperature, 1)
    return temperature**2 * F.kl_div(student, teacher, reduction="none").sum(1)
