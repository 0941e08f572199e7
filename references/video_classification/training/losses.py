"""What training minimises: cross entropy with soft targets, and a teacher's outputs (distillation)."""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Targets(NamedTuple):
    """What a batch is trained towards.

    shares: of each class, float (B, num_classes), rows sum to 1. teacher: a teacher's softmax at the distillation's
    temperature, the same shape, None without one.
    """

    shares: Tensor
    teacher: Tensor | None = None


class TrainingLoss(nn.Module):
    """Cross entropy, and with a teacher `(1 - alpha)` of it and `alpha` of the distillation loss.

    Args:
        label_smoothing: this much of each target is spread evenly over all classes.
        alpha: the teacher's weight, from 0 to 1.
        temperature: of teacher and student in the distillation loss.
    """

    def __init__(self, label_smoothing: float = 0.0, alpha: float = 0.0, temperature: float = 1.0) -> None:
        super().__init__()
        self._label_smoothing, self._alpha, self._temperature = label_smoothing, alpha, temperature

    def forward(self, logits: Tensor, targets: Targets) -> Tensor:
        """Logits (B, num_classes) to losses (B,), in float32 whatever the logits are."""
        logits = logits.float()
        loss = soft_cross_entropy(logits, smooth(targets.shares, self._label_smoothing))
        if targets.teacher is None:
            return loss
        distilled = distillation_loss(logits, targets.teacher, self._temperature)
        return (1 - self._alpha) * loss + self._alpha * distilled


def smooth(shares: Tensor, amount: float) -> Tensor:
    """Takes `amount` of each row of `shares`, (B, num_classes), and spreads it evenly over all classes."""
    return (1 - amount) * shares + amount / shares.shape[1]


def soft_cross_entropy(logits: Tensor, shares: Tensor) -> Tensor:
    """Cross entropy of each row, (B,), for targets that are shares of the classes: both (B, num_classes)."""
    return -(shares * F.log_softmax(logits, 1)).sum(1)


def distillation_loss(logits: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """How far the softmax of `logits` at `temperature` is from the teacher's: Kullback-Leibler divergence, (B,).

    Times the squared temperature, which keeps the gradients as large as those of the labels (Hinton et al.,
    arXiv 1503.02531, section 2).

    Args:
        logits: (B, num_classes).
        teacher: probabilities at the same temperature, (B, num_classes).
        temperature: above 0.
    """
    student = F.log_softmax(logits / temperature, 1)
    return temperature**2 * F.kl_div(student, teacher, reduction="none").sum(1)


def one_hot(labels: Tensor, num_classes: int) -> Tensor:
    """Targets that are wholly one class: int64 (B,) to float32 (B, num_classes)."""
    return F.one_hot(labels, num_classes).to(torch.float32)
