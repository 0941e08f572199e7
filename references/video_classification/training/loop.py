"""The loop over epochs: an epoch of training, a validation, a line in the log, a checkpoint; at the end the report."""

import datetime
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from caching.splits import Clips
from clips.samplers import EVALUATION
from evaluation.calibration import fit_temperature
from evaluation.metrics import VideoResults
from network.checkpoint import Checkpoint
from network.models import load_state, set_train_mode
from network.precision import Precision, to_device
from reporting.run_folder import NON_FINITE, RunLog
from reporting.run_report import RunReport
from runtime.distributed import print_main, rank, sum_over_processes, world_size
from runtime.errors import UserError
from runtime.files import write_json
from runtime.progress import remaining_time
from training.engine import EpochSummary, NonFiniteLoss, Trainer
from training.optimization import jump_to_step
from training.saving import RunSaver
from training.screen import epoch_line
from training.validation import run_validation
from videos.folder import VideoFolder

# To estimate BatchNorm's statistics from: some thousand clips do (Wu and Johnson, arXiv 2105.07576).
MAX_BATCHES = 200


@dataclass(frozen=True)
class FitOptions:
    """How long a run is, and how it ends."""

    epochs: int
    early_stop: int | None = None  # epochs without a better one, after which the run ends
    bn_recalibrate: bool = False  # estimate BatchNorm's statistics again before what may be the last validation
    chooses: bool = True  # the best epoch; otherwise the last one is the result


def fit(
    trainer: Trainer,
    train: Clips,
    val: Clips,
    saver: RunSaver,
    log: RunLog,
    report: RunReport,
    options: FitOptions,
) -> VideoResults | None:
    """Trains until `options.epochs`, from where `saver.progress` stands.

    Args:
        trainer: of the network; its schedule is set to the step at which each epoch begins.
        train, val: the splits.
        saver, log, report: write the results.
        options: how long the run is.

    Returns:
        The results of the best epoch, or of the last one; None where that is from before the run was resumed.

    Raises:
        UserError: the loss is not finite any more; the videos of that step are in a file that it names.
        Stopped: the run was asked to stop, and has saved.
    """
    begin, first_epoch, best = time.monotonic(), saver.progress.epoch, None
    for epoch in range(first_epoch, options.epochs):
        patience = None if options.early_stop is None else options.early_stop - saver.progress.epochs_since_best
        if patience is not None and patience <= 0:
            print_main(f"Stopping early: {options.early_stop} epochs without a better one")
            break
        summary = _train_epoch(trainer, train, saver)
        with saver.validating():
            if options.bn_recalibrate and (epoch == options.epochs - 1 or patience == 1):
                _recalibrate(trainer, train)
            results, further = trainer.validate(val)
        seen = {"val_seen_in_training": True} if val.seen else {}
        log.add({**epoch_entry(summary, results, trainer.learning_rate), **further, **seen})
        report.add_epoch(log.entries[-1])
        temperature = fit_temperature(results.scores, results.targets) if report.calibrate else None
        best = results if not options.chooses or results.video.top1 > saver.progress.best_video_acc1 else best
        saver.after_epoch(results.video.top1 if options.chooses else None, temperature)
        eta = remaining_time(begin, epoch + 1 - first_epoch, options.epochs - first_epoch)
        best_so_far = saver.progress.best_video_acc1 if options.chooses else None
        print_main(epoch_line(log.entries[-1], best_so_far, eta))
    print_main(f"Training time {datetime.timedelta(seconds=int(time.monotonic() - begin))}")
    return best


def report_best(
    report: RunReport, log: RunLog, trainer: Trainer, val: Clips, best: VideoResults | None, path: Path
) -> None:
    """Reports on the best epoch; validates it again where it is from before the run was resumed.

    Args:
        report: to write.
        log: of the run.
        trainer: takes the weights of the best epoch where it must be validated again.
        val: the validation split.
        best: what validation found in that epoch, None where it is from before.
        path: the checkpoint of that epoch.
    """
    if best is None:
        print_main(f"Validating {path}, the {'newest' if val.seen else 'best so far'}, for the report")
        checkpoint = Checkpoint.read(path)
        if report.calibrate and checkpoint.temperature is None:
            print_main(f"{path} is from before --calibrate: calibrate it by --test-only --calibrate --resume {path}")
        report.calibrate, report.temperature = False, float(checkpoint.temperature or 1.0)
        load_state(trainer.model, checkpoint.model, keep_head=True)
        best = run_validation(trainer.network, trainer.precision, val, trainer.options.print_freq)
    report.write_training(best, path, log.entries)


def epoch_entry(summary: EpochSummary, results: VideoResults, lr: float) -> dict[str, Any]:
    """An epoch's line in the log; accuracies in percent, `lr` after the last step."""
    return {
        "epoch": summary.epoch,
        "train_loss": summary.loss,
        "train_clip_acc1": summary.clip_acc1,
        "val_loss": results.loss,
        "val_clip_acc1": results.clip.top1,
        "val_clip_acc5": results.clip.top5,
        "val_video_acc1": results.video.top1,
        "val_video_acc5": results.video.top5,
        "lr": lr,
        "seconds": summary.seconds,
        "data_seconds": summary.data_seconds,
        "val_seconds": results.seconds,
        "val_data_seconds": results.data_seconds,
    }


def _train_epoch(trainer: Trainer, clips: Clips, saver: RunSaver) -> EpochSummary:
    """An epoch, or the rest of it; errors as `fit`."""
    progress = saver.progress
    first_step = min(-(-progress.clips_seen // clips.clips_per_step()), clips.steps_per_epoch())
    taken = first_step - trainer.skipped_steps if first_step else 0
    jump_to_step(trainer.scheduler, progress.epoch * clips.steps_per_epoch() + taken)
    samples = clips.epoch_samples(trainer.options.seed, progress.epoch, progress.clips_seen)
    try:
        return trainer.train_epoch(
            clips.loader.batches(samples),
            clips.loader.dataset.to_inputs,
            epoch=progress.epoch,
            num_steps=clips.steps_per_epoch(),
            first_step=first_step,
            totals=progress.own_totals(),
            after_step=saver.after_step,
        )
    except NonFiniteLoss as error:
        where = _write_failed_batch(saver.folder, clips.loader.dataset.folder, error)
        advice = "lower --lr, or use --amp bf16 or off in place of fp16"
        raise UserError(f"{error}; its videos are listed in {where}: {advice}") from error


def _recalibrate(trainer: Trainer, clips: Clips) -> None:
    """Estimates the statistics of the trained BatchNorms again, and those of the averaged weights."""

    def recalibrate() -> None:
        recalibrate_batch_norm(trainer.network, trainer.frozen, clips, trainer.precision, trainer.options.seed)

    recalibrate()
    if trainer.average is not None:
        with trainer.average.in_place():
            recalibrate()


def _write_failed_batch(folder: Path, videos: VideoFolder, error: NonFiniteLoss) -> Path:
    """Writes the place and the videos of a step whose loss was not finite; returns the file."""
    where = folder / NON_FINITE.format(rank())
    names = [videos.path(video) for video in error.videos]
    place = {"epoch": error.epoch, "step": error.step, "lr": error.lr, "loss": str(error.loss)}
    write_json(where, {**place, "videos": names})
    return where


@torch.no_grad()
def recalibrate_batch_norm(
    network: nn.Module, frozen: Sequence[str], clips: Clips, precision: Precision, seed: int
) -> None:
    """Replaces the running statistics of the trained BatchNorms by their mean over batches of training clips.

    They are estimated once the weights are final: while these move, the running averages lag.

    Args:
        network: left in evaluation mode.
        frozen: modules whose statistics stay.
        clips: the training split; its videos are seen as validation sees them.
        precision: to compute in.
        seed: of the choice of videos.
    """
    set_train_mode(network, frozen)
    norms = [m for m in network.modules() if isinstance(m, _BatchNorm) and m.training and m.track_running_stats]
    if not norms:
        network.eval()
        print_main("No BatchNorm is trained: there are no statistics to estimate again")
        return
    batch_size = clips.options.batch_size
    samples = clips.epoch_samples(seed, epoch=0)[: MAX_BATCHES * batch_size]
    # The mean counts every batch alike, and the statistics of a small one would be poor.
    samples = samples[: max(len(samples) // batch_size, 1) * batch_size]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # torch's word for the plain mean over all batches
    dataset = clips.loader.dataset
    for batch in clips.loader.batches([sample._replace(epoch=EVALUATION) for sample in samples]):
        inputs, _ = to_device(batch, dataset.to_inputs, precision)
        with precision.autocast():
            network(inputs)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
        for statistic in (norm.running_mean, norm.running_var):
            assert statistic is not None  # of a norm that tracks them
            statistic.copy_(sum_over_processes(statistic) / world_size())
    network.eval()
    print_main(f"Statistics of {len(norms)} BatchNorms estimated again, from {len(samples) * world_size()} clips")
