"""When a run is saved: after each epoch, every few minutes, and before it stops."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from network.checkpoint import NEWEST, Checkpoint, save_checkpoint, save_newest
from runtime.distributed import gather_objects, is_main, maximum_over_processes, rank, world_size
from runtime.signals import ResumeCommand, Stopped, StopRequest


@dataclass
class RunProgress:
    """How far a run has come."""

    epoch: int = 0  # the one that runs, or the next
    clips_seen: int = 0  # of that epoch, by all processes together
    totals: list[list[float]] = field(default_factory=list)  # of its steps, a list for each process, see `train_epoch`
    best_video_acc1: float = -1.0  # so far, percent
    epochs_since_best: int = 0

    def own_totals(self) -> list[float] | None:
        """This process's sums: exact at the same world size; otherwise rank 0 continues with the sum of all."""
        if len(self.totals) == world_size():
            return self.totals[rank()]
        return [sum(column) for column in zip(*self.totals, strict=True)] if self.totals and is_main() else None

    def added_to(self, checkpoint: Checkpoint) -> Checkpoint:
        """`checkpoint` with this progress."""
        return replace(
            checkpoint,
            epoch=self.epoch - 1,
            clips_seen=self.clips_seen,
            epoch_totals=self.totals,
            best_video_acc1=self.best_video_acc1,
            epochs_since_best=self.epochs_since_best,
            world_size=world_size(),
        )

    @classmethod
    def of(cls, checkpoint: Checkpoint) -> "RunProgress":
        """What `added_to` wrote; a legacy checkpoint has the epoch alone."""
        return cls(
            0 if checkpoint.epoch is None else checkpoint.epoch + 1,
            checkpoint.clips_seen or 0,
            checkpoint.epoch_totals or [],
            -1.0 if checkpoint.best_video_acc1 is None else checkpoint.best_video_acc1,
            checkpoint.epochs_since_best or 0,
        )


class RunSaver:
    """Writes a run's checkpoints and keeps its progress.

    Args:
        folder: the run's.
        progress: how far it has come; kept up to date here.
        state: gives the checkpoint without the progress.
        stop: the signals that have come.
        command: is told when the run has saved.
        minutes: between two checkpoints within an epoch; 0 writes none.
        keep: how many epochs' checkpoints stay, besides the best and the newest; None keeps all.
    """

    def __init__(
        self,
        folder: Path,
        progress: RunProgress,
        state: Callable[[], Checkpoint],
        stop: StopRequest,
        command: ResumeCommand,
        *,
        minutes: float,
        keep: int | None,
    ) -> None:
        self.folder, self.progress, self._state, self._seconds, self._keep = folder, progress, state, 60 * minutes, keep
        self._stop, self._command = stop, command
        self._last = time.monotonic()

    def after_step(self, clips: int, totals: list[float]) -> None:
        """Counts a step of `clips` clips; saves if it is time to, or if any process was asked to stop.

        Raises:
            Stopped: it was.
            CheckpointError: the checkpoint cannot be written; the last one is whole.
        """
        self.progress.clips_seen += clips * world_size()
        own_is_due = bool(self._seconds) and time.monotonic() - self._last >= self._seconds
        signal_number, is_due = maximum_over_processes([self._stop.signal_number, int(own_is_due)])
        if signal_number or is_due:
            self.progress.totals = gather_objects(totals)
            if is_main():
                save_newest(self.folder / NEWEST, self.progress.added_to(self._state()))
            self._saved()
        if signal_number:
            raise Stopped(signal_number)

    def after_epoch(self, video_acc1: float | None, temperature: float | None = None) -> None:
        """Saves the epoch that has ended with this accuracy, in percent; None where no epoch is to be the best.

        Raises: as `after_step`.
        """
        best = self.progress.best_video_acc1
        is_best = video_acc1 is not None and video_acc1 > best
        self.progress = RunProgress(
            self.progress.epoch + 1,
            best_video_acc1=best if video_acc1 is None else max(video_acc1, best),
            epochs_since_best=0 if is_best or video_acc1 is None else self.progress.epochs_since_best + 1,
        )
        if is_main():
            checkpoint = replace(self.progress.added_to(self._state()), temperature=temperature)
            save_checkpoint(self.folder, checkpoint, is_best, self._keep)
        self._saved()
        if signal_number := maximum_over_processes([self._stop.signal_number])[0]:
            raise Stopped(signal_number)

    def _saved(self) -> None:
        self._last = time.monotonic()
        self._command.has_saved = True
