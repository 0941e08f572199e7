"""When a run is saved: before and after each validation, every few minutes, and before it stops."""

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from network.checkpoint import NEWEST, Checkpoint, CheckpointError, save_checkpoint
from runtime.distributed import barrier, gather_objects, is_main, maximum_over_processes, rank, world_size
from runtime.errors import CutShort
from runtime.signals import ResumeCommand, Stopped, StopRequest

# Of a RunProgress, under the same names in a checkpoint.
KEPT = ("clips_seen", "best_video_acc1", "epochs_since_best", "epoch_order", "best_videos")


@dataclass
class RunProgress:
    """How far a run has come."""

    epoch: int = 0  # the one that runs, or the next
    clips_seen: int = 0  # of that epoch, by all processes together
    totals: list[list[float]] = field(default_factory=list)  # of its steps, a list for each process, see `train_epoch`
    best_video_acc1: float = -1.0  # so far, percent
    epochs_since_best: int = 0
    epoch_order: str | None = None  # `Clips.order_digest` of the training, as the epoch is seen
    val_videos: str | None = None  # `Clips.videos_digest` of the validation
    best_videos: str | None = None  # the same, when the best epoch was chosen

    def own_totals(self) -> list[float] | None:
        """This process's sums: exact at the same world size; otherwise rank 0 continues with the sum of all."""
        if len(self.totals) == world_size():
            return self.totals[rank()]
        return [sum(column) for column in zip(*self.totals, strict=True)] if self.totals and is_main() else None

    def added_to(self, checkpoint: Checkpoint) -> Checkpoint:
        """`checkpoint` with this progress."""
        kept = {name: getattr(self, name) for name in KEPT}
        return replace(checkpoint, epoch=self.epoch - 1, epoch_totals=self.totals, world_size=world_size(), **kept)

    @classmethod
    def of(cls, checkpoint: Checkpoint) -> "RunProgress":
        """What `added_to` wrote; a legacy checkpoint has the epoch alone."""
        kept = {name: value for name in KEPT if (value := getattr(checkpoint, name)) is not None}
        epoch = 0 if checkpoint.epoch is None else checkpoint.epoch + 1
        return cls(epoch=epoch, totals=checkpoint.epoch_totals or [], **kept)


@dataclass
class RunSaver:
    """Writes a run's checkpoints and keeps its progress."""

    folder: Path  # the run's
    progress: RunProgress  # how far it has come; kept up to date here
    state: Callable[[], Checkpoint]  # gives the checkpoint without the progress
    stop: StopRequest  # the signals that have come
    command: ResumeCommand  # is told when the run has saved
    minutes: float  # between two checkpoints within an epoch; 0 writes none
    keep: int | None  # how many epochs' checkpoints stay, besides the best and the newest; None keeps all
    # Gives those of this process, once it has taken a step of the epoch.
    _totals: Callable[[], list[float]] | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        self._last = time.monotonic()

    def after_step(self, clips: int, totals: Callable[[], list[float]]) -> None:
        """Counts a step of `clips` clips; saves if it is time to, or if any process was asked to stop.

        `totals` gives the epoch's sums up to this step, and is called only to save them. Raises Stopped where a process
        was, CutShort where the checkpoint cannot be written; the last one, if there is one, is whole.
        """
        self.progress.clips_seen += clips * world_size()
        self._totals = totals
        own_is_due = self.minutes > 0 and time.monotonic() - self._last >= 60 * self.minutes
        signal_number, is_due = maximum_over_processes([self.stop.signal_number, int(own_is_due)])
        if signal_number or is_due:
            self._save_within_epoch()
        if signal_number:
            barrier()  # torchrun ends all processes soon after the first has gone: not before it is saved
            raise Stopped(signal_number)

    @contextlib.contextmanager
    def validating(self) -> Iterator[None]:
        """Saves the epoch that was trained. Inside, a stop signal ends the run at once: only validation is repeated.

        Raises: as `after_step`.
        """
        self._save_within_epoch()
        if signal_number := maximum_over_processes([self.stop.signal_number])[0]:
            raise Stopped(signal_number)
        with self.stop.stopping_at_once():
            yield

    def after_epoch(self, video_acc1: float | None, temperature: float | None = None) -> None:
        """Saves the epoch that has ended with this accuracy, in percent; None where no epoch is to be the best.

        Raises: as `after_step`.
        """
        self._totals = None
        best = self.progress.best_video_acc1
        is_best = video_acc1 is not None and video_acc1 > best
        self.progress = replace(
            self.progress,
            epoch=self.progress.epoch + 1,
            clips_seen=0,
            totals=[],
            best_videos=self.progress.val_videos if is_best else self.progress.best_videos,
            best_video_acc1=best if video_acc1 is None else max(video_acc1, best),
            epochs_since_best=0 if is_best or video_acc1 is None else self.progress.epochs_since_best + 1,
        )
        if is_main():
            checkpoint = replace(self.progress.added_to(self.state()), temperature=temperature)
            with _cut_short_by_full_disks():
                save_checkpoint(self.folder, checkpoint, is_best, self.keep)
        self._saved()
        if signal_number := maximum_over_processes([self.stop.signal_number])[0]:
            raise Stopped(signal_number)

    def _save_within_epoch(self) -> None:
        if self._totals is not None:
            self.progress.totals = gather_objects(self._totals())
        if is_main():
            with _cut_short_by_full_disks():
                self.progress.added_to(self.state()).write(self.folder / NEWEST)
        self._saved()

    def _saved(self) -> None:
        self._last = time.monotonic()
        self.command.has_saved = True


@contextlib.contextmanager
def _cut_short_by_full_disks() -> Iterator[None]:
    try:
        yield
    except CheckpointError as error:
        raise CutShort(f"{error}. Make room") from error
