"""One checkpoint under several frame selections, side by side: what each rule gains and loses against the official one.
A room of its own: a comparison of selections is neither validation nor a report on a run.
"""

from evaluation.intervals import wilson_interval
from evaluation.metrics import Accuracies, VideoResults, truth_ranks

BASELINE = "official"


def selection_table(results: dict[str, VideoResults]) -> str:
    """A line a selection: accuracies in percent with their 95 % Wilson intervals, and the paired change.

    *Gained* are videos that the official rule gets wrong and this one right, *lost* the reverse.

    Args:
        results: by name of the selection, BASELINE among them, all over the same videos.
    """
    header = ["frames", "Clip Acc@1", "Clip Acc@5", "Video Acc@1", "Video Acc@5", "gained", "lost"]
    baseline = _right(results[BASELINE])
    rows = [header]
    for name, result in results.items():
        right = _right(result)
        changes = [str(int((right & ~baseline).sum())), str(int((baseline & ~right).sum()))]
        shares = [_with_interval(accuracy, top) for accuracy in (result.clip, result.video) for top in ("top1", "top5")]
        rows.append([name, *shares, *changes])
    widths = [max(len(row[column]) for row in rows) for column in range(len(header))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def _right(results: VideoResults):
    return truth_ranks(results.scores, results.targets) < 1


def _with_interval(accuracy: Accuracies, top: str) -> str:
    share = getattr(accuracy, top)
    interval = wilson_interval(round(share * accuracy.count / 100), accuracy.count)
    return f"{share:.3f} [{100 * interval.low:.1f}, {100 * interval.high:.1f}]"
