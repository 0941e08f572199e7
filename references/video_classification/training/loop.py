"""The loop over epochs, from wherever a run stands: an epoch of training, validation, a line in the log, a checkpoint.
A room of its own between `engine`, which knows one epoch, and the script, which knows the flags.
"""

import datetime
import time
from collections.abc import Callable

from torch.optim.lr_scheduler import LambdaLR

from caching.splits import Clips
from evaluation.calibration import fit_temperature
from evaluation.metrics import VideoResults
from reporting.run_folder import RunLog
from reporting.run_report import RunReport
from runtime.distributed import print_main
from runtime.errors import UserError
from runtime.progress import remaining_time
from training.engine import EpochSummary, NonFiniteLoss
from training.optimization import jump_to_step
from training.saving import RunSaver
from training.screen import epoch_entry, write_failed_batch
from training.weight_averaging import WeightAverage


def fit(
    train: Callable[..., EpochSummary],
    validate: Callable[[], VideoResults],
    clips: Clips,
    scheduler: LambdaLR,
    saver: RunSaver,
    log: RunLog,
    report: RunReport,
    *,
    epochs: int,
    seed: int,
    early_stop: int | None = None,
    average: WeightAverage | None = None,
    before_last: Callable[[], None] | None = None,
) -> VideoResults | None:
    """Trains until `epochs`, from where `saver.progress` stands.

    Args:
        train: `engine.train_one_epoch` but for what changes from epoch to epoch.
        validate: scores the model as it is.
        clips: the training split.
        scheduler: of the optimiser's rate; set to the step at which each epoch begins.
        saver, log, report: write what came of it.
        epochs: where to stop.
        seed: of the order of the clips.
        early_stop: epochs without a better one after which to stop before that.
        average: of the weights, validated and kept beside them.
        before_last: called before the last validation, and what may be it; again with the averaged weights in place.

    Returns:
        The results of the best epoch, None where that is from before the run was resumed.

    Raises:
        UserError: the loss is no number any more; the videos of that step are in a file that it names.
        Stopped: the run was asked to stop, and has saved.
    """
    begin, first_epoch, best = time.monotonic(), saver.progress.epoch, None

    def after_step(count: int, totals: list[float]) -> None:
        if average is not None:
            average.after_step(scheduler.last_epoch)
        saver.after_step(count, totals)

    for epoch in range(saver.progress.epoch, epochs):
        if early_stop is not None and saver.progress.epochs_since_best >= early_stop:
            print_main(f"Stopping early: {early_stop} epochs without a better one")
            break
        summary = _train_epoch(train, clips, scheduler, saver, after_step, epoch, seed)
        may_stop = early_stop is not None and saver.progress.epochs_since_best + 1 >= early_stop
        if before_last is not None and (epoch == epochs - 1 or may_stop):
            before_last()
            if average is not None:
                with average.in_place():
                    before_last()
        results, further = average.validate(validate) if average is not None else (validate(), {})
        log.add({**epoch_entry(epoch, summary, results, scheduler.get_last_lr()[0]), **further})
        report.add_epoch(log.entries[-1])
        temperature = {"temperature": fit_temperature(results.scores, results.targets)} if report.calibrate else {}
        best = results if results.video.top1 > saver.progress.best_video_acc1 else best
        saver.after_epoch(results.video.top1, temperature)
        eta = remaining_time(begin, epoch + 1 - first_epoch, epochs - first_epoch)
        print_main(f"{summary.line()}, best video Acc@1 {saver.progress.best_video_acc1:.3f}, eta {eta}")
    print_main(f"Training time {datetime.timedelta(seconds=int(time.monotonic() - begin))}")
    return best


def _train_epoch(
    train: Callable[..., EpochSummary],
    clips: Clips,
    scheduler: LambdaLR,
    saver: RunSaver,
    after_step: Callable[[int, list[float]], None],
    epoch: int,
    seed: int,
) -> EpochSummary:
    """An epoch, or the rest of it; errors as `fit`."""
    progress = saver.progress
    first_step = -(-progress.clips_seen // clips.clips_per_step())
    jump_to_step(scheduler, epoch * clips.steps_per_epoch() + first_step)
    try:
        return train(
            batches=clips.loader.batches(clips.epoch_samples(seed, epoch, progress.clips_seen)),
            epoch=epoch,
            first_step=first_step,
            totals=progress.own_totals(),
            after_step=after_step,
        )
    except NonFiniteLoss as error:
        where = write_failed_batch(saver.folder, clips.loader.dataset.folder, error)
        advice = "lower --lr, or use --amp bf16 or off in place of fp16"
        raise UserError(f"{error}; its videos are listed in {where}: {advice}") from error
