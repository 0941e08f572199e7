"""When a run is saved: after each epoch, every few minutes, and before it is stopped. A room of its own between
`checkpoint`, which knows the format, and the training script, which knows the state.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from network.checkpoint import NEWEST, save_checkpoint, write_checkpoint
from runtime.distributed import gather_objects, is_main, maximum_over_processes, rank, world_size
from runtime.signals import Stopped, StopRequest


@dataclass
class RunProgress:
    """Where a run stands.

    epoch: the one that runs, or the next. clips_seen: of it, by all processes together. totals: of the steps taken in
    it, a list for each process, see `engine.train_one_epoch`. best_video_acc1: so far, percent. epochs_since_best:
    that were no better.
    """

    epoch: int = 0
    clips_seen: int = 0
    totals: list[list[float]] = field(default_factory=list)
    best_video_acc1: float = -1.0
    epochs_since_best: int = 0

    def own_totals(self) -> list[float] | None:
        """What this process had summed up: exact at the same world size; else rank 0 goes on with the sum of all."""
        if len(self.totals) == world_size():
            return self.totals[rank()]
        return [sum(column) for column in zip(*self.totals, strict=True)] if self.totals and is_main() else None

    def entry(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {
            "epoch": self.epoch - 1,
            "clips_seen": self.clips_seen,
            "epoch_totals": self.totals,
            "best_video_acc1": self.best_video_acc1,
            "epochs_since_best": self.epochs_since_best,
            "world_size": world_size(),
        }

    @classmethod
    def of(cls, checkpoint: dict[str, Any]) -> "RunProgress":
        """What `entry` wrote; a legacy checkpoint has the epoch alone."""
        return cls(
            checkpoint.get("epoch", -1) + 1,
            checkpoint.get("clips_seen", 0),
            checkpoint.get("epoch_totals", []),
            checkpoint.get("best_video_acc1", -1.0),
            checkpoint.get("epochs_since_best", 0),
        )


class RunSaver:
    """Writes a run's checkpoints and keeps its progress.

    Args:
        folder: the run's.
        progress: where it stands; kept up to date here.
        state: gives the checkpoint's content but for the progress.
        minutes: between two checkpoints within an epoch; 0 writes none.
        keep: how many epochs' checkpoints stay, besides the best and the newest; None keeps all.
        stop: the signals that have come.
    """

    def __init__(
        self,
        folder: Path,
        progress: RunProgress,
        state: Callable[[], dict[str, Any]],
        *,
        minutes: float,
        keep: int | None,
        stop: StopRequest,
    ) -> None:
        self.folder, self._state, self._seconds, self._keep = folder, state, 60 * minutes, keep
        self.progress, self._stop = progress, stop
        self._last = time.monotonic()

    def after_step(self, clips: int, totals: list[float]) -> None:
        """Notes a step of `clips` clips; saves if it is time to, or if any process was asked to stop.

        Raises:
            Stopped: it was.
            CheckpointError: the checkpoint cannot be written; the last one is whole.
        """
        self.progress.clips_seen += clips * world_size()
        is_due = bool(self._seconds) and time.monotonic() - self._last >= self._seconds
        signal_number, is_due = maximum_over_processes([self._stop.signal_number, int(is_due)])
        if signal_number or is_due:
            self.progress.totals = gather_objects(totals)
            if is_main():
                write_checkpoint(self.folder / NEWEST, {**self._state(), **self.progress.entry()})
            self._last = time.monotonic()
        if signal_number:
            raise Stopped(signal_number)

    def after_epoch(self, video_acc1: float, further: dict[str, Any]) -> None:
        """Saves the epoch that has ended with this accuracy, in percent, with `further` values; errors as there."""
        is_best = video_acc1 > self.progress.best_video_acc1
        self.progress = RunProgress(
            self.progress.epoch + 1,
            best_video_acc1=max(video_acc1, self.progress.best_video_acc1),
            epochs_since_best=0 if is_best else self.progress.epochs_since_best + 1,
        )
        if is_main():
            save_checkpoint(self.folder, {**self._state(), **self.progress.entry(), **further}, is_best, self._keep)
        self._last = time.monotonic()
        if signal_number := maximum_over_processes([self._stop.signal_number])[0]:
            raise Stopped(signal_number)
