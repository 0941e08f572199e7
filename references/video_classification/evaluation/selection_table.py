"""Compares the frame selections that a checkpoint was validated with."""

from torch import Tensor

from evaluation.intervals import wilson_interval
from evaluation.metrics import VideoResults

BASELINE = "official"


def selection_table(results: dict[str, VideoResults]) -> str:
    """A table with a row for each selection: accuracies in percent with their 95 % Wilson intervals, gains and losses.

    *Gained* counts the videos that this selection predicts right and BASELINE wrong, *lost* the reverse.

    Args:
        results: by name of the selection, BASELINE among them, all over the same videos.
    """
    header = ["frames", "Clip Acc@1", "Clip Acc@5", "Video Acc@1", "Video Acc@5", "gained", "lost"]
    baseline = _right(results[BASELINE])
    rows = [header]
    for name, result in results.items():
        right = _right(result)
        changes = [str(int((right & ~baseline).sum())), str(int((baseline & ~right).sum()))]
        scored = (result.clip, result.video)
        shares = [_with_interval(share, part.count) for part in scored for share in (part.top1, part.top5)]
        rows.append([name, *shares, *changes])
    widths = [max(len(row[column]) for row in rows) for column in range(len(header))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def _right(results: VideoResults) -> Tensor:
    return results.ranks < 1


def _with_interval(share: float, count: int) -> str:
    _, low, high = wilson_interval(round(share * count / 100), count).percent
    return f"{share:.3f} [{low:.1f}, {high:.1f}]"
