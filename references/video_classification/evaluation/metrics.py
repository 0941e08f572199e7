"""Accuracies of clips and videos. A video's score is the mean softmax output of its clips; each video counts once."""

from dataclasses import dataclass

import torch
from torch import Tensor

from runtime.distributed import sum_over_processes


@dataclass(frozen=True)
class Accuracies:
    """Top-1 and top-5 accuracy."""

    top1: float  # percent
    top5: float  # percent
    count: int  # predictions


def truth_ranks(scores: Tensor, targets: Tensor) -> Tensor:
    """How many classes score higher than the true one, or equal with a lower index.

    Rank 0 is the prediction of `argmax`, so a network whose outputs are all equal is right for one class only. A row
    with NaN is never right, not even among the top 5: its rank is the number of classes, and at least 5.

    Args:
        scores: (N, num_classes).
        targets: int64 (N,).

    Returns:
        int64 (N,).
    """
    own = scores.gather(1, targets[:, None])
    classes = torch.arange(scores.shape[1], device=scores.device)
    above = (scores > own) | ((scores == own) & (classes < targets[:, None]))
    return torch.where(scores.isnan().any(1), max(scores.shape[1], 5), above.sum(1))


def accuracies(ranks: Tensor) -> Accuracies:
    """Top-1 and top-5 from `truth_ranks`; with fewer than five classes top-5 is 100."""
    return _accuracies((ranks < 1).sum().item(), (ranks < 5).sum().item(), len(ranks))


def _accuracies(right: float, in_five: float, count: int) -> Accuracies:
    return Accuracies(100 * right / max(count, 1), 100 * in_five / max(count, 1), count)


class VideoScores:
    """Gathers clip scores into video scores, over all processes.

    Args:
        targets: int64 (num_videos,), the class of each video.
        num_classes: number of classes.
        clips_per_video: number of clips that each video must be scored by.
    """

    def __init__(self, targets: Tensor, num_classes: int, clips_per_video: int) -> None:
        self.targets = targets
        self.clips_per_video = clips_per_video
        self._sums = torch.zeros(len(targets), num_classes, dtype=torch.float64)
        self._clips = torch.zeros(len(targets), dtype=torch.int64)
        self._clip_totals = torch.zeros(4, dtype=torch.float64)  # right, among the top 5, clips, sum of losses

    def update(self, videos: Tensor, logits: Tensor, losses: Tensor) -> None:
        """Adds a batch of clips.

        Args:
            videos: int64 (B,), rows of `targets`.
            logits: (B, num_classes).
            losses: (B,).
        """
        videos, logits = videos.cpu(), logits.detach().float().cpu()
        # float64 keeps the order of logits up to 700 apart; in float32 all those 100 below the largest become 0.
        self._sums.index_add_(0, videos, logits.double().softmax(1))
        self._clips.index_add_(0, videos, torch.ones_like(videos))
        ranks = truth_ranks(logits, self.targets[videos])
        right, in_five = (int((ranks < k).sum()) for k in (1, 5))
        loss = losses.detach().double().cpu().sum().item()
        self._clip_totals += torch.tensor([right, in_five, len(videos), loss], dtype=torch.float64)

    def reduce(self, expected: Tensor) -> "VideoResults":
        """Sums the scores of all processes.

        Args:
            expected: int64 (V,), the rows that must have been scored.

        Raises:
            RuntimeError: a video was not scored exactly `clips_per_video` times, or was not expected.
        """
        sums, clips = sum_over_processes(self._sums), sum_over_processes(self._clips)
        due = torch.zeros_like(clips)
        due[expected] = self.clips_per_video
        if not torch.equal(due, clips):
            wrong = int((due != clips).sum())
            raise RuntimeError(
                f"{wrong} videos were not scored {self.clips_per_video} times: the accuracy would be wrong"
            )
        right, in_five, count, loss = sum_over_processes(self._clip_totals).tolist()
        clip_accuracies = _accuracies(right, in_five, int(count))
        scores = sums[expected] / self.clips_per_video
        return VideoResults(
            expected, scores, self.targets[expected], clip_accuracies, loss / max(count, 1), self.clips_per_video
        )


@dataclass(frozen=True)
class VideoResults:
    """The result of a validation."""

    videos: Tensor  # int64 (V,), rows of the folder
    scores: Tensor  # float64 (V, num_classes), mean softmax output over the clips
    targets: Tensor  # int64 (V,)
    clip: Accuracies  # of single clips
    loss: float  # mean over clips
    clips_per_video: int
    seconds: float = 0.0  # taken by the validation
    data_seconds: float = 0.0  # of these, spent waiting for data

    @property
    def ranks(self) -> Tensor:
        """`truth_ranks` of the videos, int64 (V,)."""
        return truth_ranks(self.scores, self.targets)

    @property
    def video(self) -> Accuracies:
        """Accuracies of whole videos."""
        return accuracies(self.ranks)

    @property
    def predictions(self) -> Tensor:
        """The class with the highest score, int64 (V,); -1 where the outputs are NaN."""
        return torch.where(self.scores.isnan().any(1), -1, self.scores.argmax(1))


def confusion_matrix(targets: Tensor, predictions: Tensor, num_classes: int) -> Tensor:
    """Counts of videos by true class (row) and predicted class (column), int64 (num_classes, num_classes).

    Args:
        targets: int64 (V,).
        predictions: int64 (V,); videos with -1 are left out.
        num_classes: number of classes.
    """
    made = predictions >= 0
    cells = targets[made] * num_classes + predictions[made]
    return cells.bincount(minlength=num_classes**2).reshape(num_classes, num_classes)
