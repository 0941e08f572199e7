"""Scores: the softmax outputs of a video's clips become its prediction; every video is counted once, or it raises."""

from dataclasses import dataclass

import torch
from torch import Tensor

from runtime.distributed import sum_over_processes


@dataclass(frozen=True)
class Accuracies:
    """Shares in percent, of `count` predictions."""

    top1: float
    top5: float
    count: int


def truth_ranks(scores: Tensor, targets: Tensor) -> Tensor:
    """How many classes score above the true one, or the same with a lower index: int64 (N,).

    Rank 0 is a right prediction, and the one that `argmax` makes; a network whose outputs are all equal is right for
    one class only, and outputs that are not numbers are never right.

    Args:
        scores: (N, num_classes).
        targets: int64 (N,).
    """
    own = scores.gather(1, targets[:, None])
    classes = torch.arange(scores.shape[1], device=scores.device)
    above = (scores > own) | ((scores == own) & (classes < targets[:, None]))
    return torch.where(scores.isnan().any(1), max(scores.shape[1], 5), above.sum(1))


def accuracies(ranks: Tensor) -> Accuracies:
    """Top-1 and top-5 from `truth_ranks`; with fewer than five classes top-5 is 100."""
    count = len(ranks)
    share = 100.0 / max(count, 1)
    return Accuracies((ranks < 1).sum().item() * share, (ranks < 5).sum().item() * share, count)


class VideoScores:
    """Gathers clip scores into video scores, over all processes.

    Args:
        targets: int64 (num_videos,), the class of each video.
        num_classes: classes.
        clips_per_video: clips that each scored video must have.
    """

    def __init__(self, targets: Tensor, num_classes: int, clips_per_video: int) -> None:
        self.targets = targets
        self.clips_per_video = clips_per_video
        self._sums = torch.zeros(len(targets), num_classes, dtype=torch.float64)
        self._clips = torch.zeros(len(targets), dtype=torch.int64)
        self._clip_totals = torch.zeros(4, dtype=torch.float64)  # right, in the first five, clips, loss

    def update(self, videos: Tensor, logits: Tensor, losses: Tensor) -> None:
        """Adds a batch of clips.

        Args:
            videos: int64 (B,), row in `targets`.
            logits: (B, num_classes).
            losses: (B,).
        """
        videos, logits = videos.cpu(), logits.detach().float().cpu()
        # In float64 even outputs 700 apart keep their order; in float32 those 100 apart all become 0.
        self._sums.index_add_(0, videos, logits.double().softmax(1))
        self._clips.index_add_(0, videos, torch.ones_like(videos))
        ranks = truth_ranks(logits, self.targets[videos])
        totals = [(ranks < 1).sum(), (ranks < 5).sum(), len(videos), losses.detach().double().cpu().sum()]
        self._clip_totals += torch.tensor([float(total) for total in totals], dtype=torch.float64)

    def reduce(self, expected: Tensor) -> "VideoResults":
        """Adds up all processes' scores.

        Args:
            expected: int64, the rows that must have been scored.

        Raises:
            RuntimeError: a video was scored too often, too seldom, or should not have been.
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
        share = 100.0 / max(count, 1)
        clip_accuracies = Accuracies(right * share, in_five * share, int(count))
        scores = sums[expected] / self.clips_per_video
        return VideoResults(
            expected, scores, self.targets[expected], clip_accuracies, loss / max(count, 1), self.clips_per_video
        )


@dataclass(frozen=True)
class VideoResults:
    """What validation found.

    videos: int64 (V,), rows of the folder. scores: float64 (V, num_classes), mean softmax. targets: int64 (V,).
    clip: accuracies of single clips. loss: mean over clips. clips_per_video: that each score is the mean of.
    seconds, data_seconds: what validation took, and how much of it was spent waiting for data.
    """

    videos: Tensor
    scores: Tensor
    targets: Tensor
    clip: Accuracies
    loss: float
    clips_per_video: int = 1
    seconds: float = 0.0
    data_seconds: float = 0.0

    @property
    def ranks(self) -> Tensor:
        """`truth_ranks` of the videos, int64 (V,)."""
        return truth_ranks(self.scores, self.targets)

    @property
    def video(self) -> Accuracies:
        """Accuracies of videos."""
        return accuracies(self.ranks)

    @property
    def predictions(self) -> Tensor:
        """The class that scores highest, int64 (V,); -1 where the outputs are not numbers."""
        return torch.where(self.scores.isnan().any(1), -1, self.scores.argmax(1))


def confusion_matrix(targets: Tensor, predictions: Tensor, num_classes: int) -> Tensor:
    """int64 (num_classes, num_classes): how many videos of the row's class were taken for the column's.

    Args:
        targets, predictions: int64 (V,). A prediction of -1 is counted nowhere.
    """
    made = predictions >= 0
    cells = targets[made] * num_classes + predictions[made]
    return cells.bincount(minlength=num_classes**2).reshape(num_classes, num_classes)
