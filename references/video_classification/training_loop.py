"""The loop over epochs, from wherever a run stands: an epoch of training, validation, a line in the log, a checkpoint.
A room of its own between `engine`, which knows one epoch, and the script, which knows the flags.
"""

import datetime
import time
from collections.abc import Callable

from calibration import fit_temperature
from clip_sources import Clips
from datasets import training_samples
from distributed import print_main, rank, world_size
from engine import EpochSummary, NonFiniteLoss
from errors import UserError
from metrics import VideoResults
from optimization import jump_to_step
from progress import remaining_time
from reporting import RunLog, epoch_entry, write_failed_batch
from run_report import RunReport
from saving import RunSaver
from torch.optim.lr_scheduler import LambdaLR


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

    Returns:
        The results of the best epoch, None where that is from before the run was resumed.

    Raises:
        UserError: the loss is no number any more; the videos of that step are in a file that it names.
        Stopped: the run was asked to stop, and has saved.
    """
    begin, first_epoch, best = time.monotonic(), saver.progress.epoch, None
    for epoch in range(saver.progress.epoch, epochs):
        progress = saver.progress
        first_step = -(-progress.clips_seen // (clips.options.batch_size * world_size()))
        jump_to_step(scheduler, epoch * clips.steps_per_epoch() + first_step)
        samples = training_samples(
            clips.videos, clips.options.clips_per_video, seed, epoch, rank(), world_size(), progress.clips_seen
        )
        try:
            summary = train(
                batches=clips.loader.batches(samples),
                epoch=epoch,
                first_step=first_step,
                totals=progress.own_totals(),
                after_step=saver.after_step,
            )
        except NonFiniteLoss as error:
            where = write_failed_batch(saver.folder, clips.loader.dataset.folder, error)
            advice = "lower --lr, or use --amp bf16 or off in place of fp16"
            raise UserError(f"{error}; its videos are listed in {where}: {advice}") from error
        results = validate()
        log.add(epoch_entry(epoch, summary, results, scheduler.get_last_lr()[0]))
        report.add_epoch(log.entries[-1])
        temperature = {"temperature": fit_temperature(results.scores, results.targets)} if report.calibrate else {}
        best = results if results.video.top1 > progress.best_video_acc1 else best
        saver.after_epoch(results.video.top1, temperature)
        eta = remaining_time(begin, epoch + 1 - first_epoch, epochs - first_epoch)
        print_main(f"{summary.line()}, best video Acc@1 {saver.progress.best_video_acc1:.3f}, eta {eta}")
    print_main(f"Training time {datetime.timedelta(seconds=int(time.monotonic() - begin))}")
    return best
