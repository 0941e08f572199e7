"""What a run does around training: it is set up, finds what to begin with, opens its files, validates a checkpoint."""

import argparse
import os
import time
from dataclasses import replace
from itertools import repeat
from pathlib import Path

import torch
from torch.optim.lr_scheduler import LambdaLR

from caching.splits import Clips, open_splits
from clips.samplers import EVALUATION
from network.checkpoint import BEST, NEWEST, Checkpoint, CheckpointError, plain
from network.class_map import check_class_map
from network.models import check_deterministic, check_fits
from network.weights import read_weights
from reporting.html_report import REPORT
from reporting.run_folder import RunLog, check_run_folder, open_run_folder
from reporting.run_report import RunReport, open_evaluation_folder
from runtime import distributed
from runtime.distributed import is_main, print_main
from runtime.errors import UserError, require
from runtime.files import check_writable
from runtime.signals import ResumeCommand, StopRequest
from training import screen, starting
from training.engine import Trainer
from training.losses import TrainingLoss
from training.option_checks import default_settings
from training.options import is_file_name
from training.recipe import Network, load_network, train_split, val_preprocessing, val_splits
from training.saving import RunProgress, RunSaver
from training.starting import Start
from training.targets import TargetMaker
from training.validation import validate_selections

NEAR_ZERO = 0.01  # the loss of one batch that is learnt by heart
STEPS_AT_ONCE, MAX_STEPS = 10, 300


def set_up(args: argparse.Namespace) -> torch.device:
    """Joins the process group and seeds; returns this process's device."""
    device = distributed.init_process_group(torch.device(args.device))
    torch.manual_seed(args.seed)
    if args.use_deterministic_algorithms:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = not args.use_deterministic_algorithms
    if args.sync_bn and device.type == "cpu" and distributed.is_distributed():
        raise UserError("--sync-bn needs GPUs: torch has no BatchNorm over several processes on the CPU")
    if args.tensorboard:
        require("torch.utils.tensorboard")  # before the work, not after it
    return device


def build_cache(args: argparse.Namespace) -> None:
    """Completes the clip cache of the splits that a run reads."""
    classes = starting.folder_classes(args.data_path, args.test_only)
    train = [] if args.test_only else [train_split(args, classes)]
    open_splits([*train, *val_splits(args, classes)])
    print_main(f"The clip cache is complete in {args.cache_dir}")


def checked_start(args: argparse.Namespace, command: ResumeCommand) -> Start:
    """What `find_start` finds, and `check_start` does not refuse."""
    start = find_start(args, command)
    check_start(args, start)
    return start


def find_start(args: argparse.Namespace, command: ResumeCommand) -> Start:
    """Reads the checkpoint or weights to begin with, which decide on the classes; notes in `args` what it resumes."""
    folders = starting.folder_classes(args.data_path, args.test_only)
    trains = not (args.test_only or args.sanity_overfit)
    if distributed.restart_count() and trains and starting.is_of_this_launch(args.output_dir):
        args.resume, args.overwrite, args.start_epoch = "auto", False, None  # torchrun has started the run again
        command.has_saved = True
    if args.resume:
        found = starting.checkpoint_to_resume(args.resume, args.output_dir, trains=not args.test_only)
        args.resume = str(found[0]) if found else None
        if found is not None:
            return starting.start_from_checkpoint(*found, folders, trains=not args.test_only)
    if args.test_only and args.weights and is_file_name(args.weights):
        return starting.start_from_checkpoint(Path(args.weights), read_weights(args.weights, args.model), folders)
    if args.weights is None and "all" not in args.trainable:
        print_main(
            f"WARNING: all but {' '.join(args.trainable)} is frozen at random values, since there are no --weights: "
            "it will hardly learn. Use --weights KINETICS400_V1, a checkpoint, or --trainable all"
        )
    return starting.start_from_weights(args.model, args.weights, folders)


def check_start(args: argparse.Namespace, start: Start) -> None:
    """Refuses what cannot be completed, before the videos are scanned."""
    starting.check_same_start(start)
    if args.test_only:
        _print_differences(args, start)
        if args.class_map:
            check_class_map(args.class_map, start.classes, str(start.path or "the data"))
    _check_seen(args, start)
    trainable = ["all"] if args.test_only else args.trainable
    for crop_size in {args.train_crop_size, args.val_crop_size}:
        check_fits(args.model, len(start.classes), args.clip_len, crop_size, trainable)
    if args.use_deterministic_algorithms and args.device.startswith("cuda") and not args.test_only:
        check_deterministic(args.model, len(start.classes), args.clip_len, args.train_crop_size, args.trainable)
    if args.sanity_overfit:
        return
    if not args.test_only:
        check_run_folder(args.output_dir, start.continues(args.output_dir), args.overwrite)
    if is_main():
        check_writable("--output-dir", args.output_dir / NEWEST)
        if args.save_logits:
            check_writable("--save-logits", args.save_logits)


def test(args: argparse.Namespace, start: Start, device: torch.device, begin: float) -> None:
    """Validates by every frame selection asked for; the report is on the first."""
    folder = open_evaluation_folder(args.output_dir, args.resume or args.weights, args.eval_split)
    seen = start.checkpoint is not None and start.checkpoint.seen_data == args.data_path.resolve()
    clips = [replace(part, seen=seen) for part in open_splits(val_splits(args, start.classes))]
    network = load_network(args, start, device)
    report = open_report(args, folder, start, clips[0], begin)
    print_start(args, start, network, clips[0])
    results = validate_selections(network.inner, network.precision, clips, args.print_freq, args.save_logits)
    report.write_evaluation(results[args.val_frame_selection[0]], start.path, start.checkpoint)
    if len(results) > 1:
        print_main(screen.selection_table(results))


def print_start(
    args: argparse.Namespace,
    start: Start,
    network: Network,
    val: Clips,
    train: Clips | None = None,
    epochs: range = range(0),
    counted_by: str = "labels",
) -> None:
    """The lines that a run begins with: what matters of it, then the settings that are not the defaults.

    Args:
        args, start: the options, and what the run begins with.
        network: on its device.
        val, train: the splits; without the second nothing is trained.
        epochs: those that are left.
        counted_by: which labels training accuracy is against, in words.
    """
    val_name = "validation" if args.eval_split == "val" else args.eval_split
    origin = str(start.path or args.weights or "random weights")
    trainable = None if train is None else " ".join(args.trainable)
    entries = {
        "Data": screen.data_words(args.data_path, len(start.classes), train, val, val_name),
        "Clips": screen.clips_words(train, val, args.augment),
        "Model": screen.model_words(args.model, network.model, origin, trainable),
        "Device": screen.device_words(network.precision, args.workers),
    }
    if train is not None:
        rate = f"{args.opt}, {args.lr_scheduler} from a rate of {args.lr:g}"
        rate += "" if counted_by == "labels" else f"; training accuracy is against {counted_by}"
        entries["Schedule"] = screen.schedule_words(train, epochs, rate)
        entries["Output"] = str(args.output_dir)
    defaults = plain(default_settings(args.data_path, args.epochs, args.model))
    entries["Settings"] = screen.settings_words(plain(vars(args)), defaults)
    screen.print_entries(entries)


def nothing_is_left(args: argparse.Namespace, start: Start, progress: RunProgress) -> bool:
    """Says that no epoch is left to train; returns whether no report is left to write either."""
    print_main(f"Nothing is left to train: the next epoch is {progress.epoch}, --epochs {args.epochs}")
    report = args.output_dir / REPORT
    return not start.continues(args.output_dir) or distributed.broadcast_object(report.is_file())


def check_overfits(trainer: Trainer, clips: Clips) -> None:
    """Trains on one batch, the same clips at every step, until their mean loss over ten steps is near zero.

    The clips are the first batch of the training split, seen as validation would see them. The trainer's schedule,
    loss, targets and average are set aside, since none of them lets the loss come near zero. Raises UserError where
    the loss stays above that; the message says where it ended.
    """
    dataset = clips.loader.dataset
    samples = clips.epoch_samples(trainer.options.seed, epoch=0)[: clips.options.batch_size]
    (batch,) = clips.loader.batches([sample._replace(epoch=EVALUATION) for sample in samples])
    trainer = replace(
        trainer,
        criterion=TrainingLoss(),
        scheduler=LambdaLR(trainer.optimizer, lambda step: 1.0),
        targets=TargetMaker(len(dataset.folder.classes)),
        options=replace(trainer.options, batches_per_step=1),
        average=None,
    )
    print_main(f"Overfitting {len(samples) * distributed.world_size()} clips: their loss must fall below {NEAR_ZERO}")
    for number in range(MAX_STEPS // STEPS_AT_ONCE):
        batches = repeat(batch, STEPS_AT_ONCE)
        summary = trainer.train_epoch(batches, dataset.to_inputs, epoch=number, num_steps=STEPS_AT_ONCE)
        if summary.loss < NEAR_ZERO:
            steps = (number + 1) * STEPS_AT_ONCE
            print_main(f"One batch is learnt by heart: loss {summary.loss:.4f} after {steps} steps")
            return
    raise UserError(
        f"one batch is not learnt by heart: its loss is {summary.loss:.4f} after {MAX_STEPS} steps, and should fall "
        f"below {NEAR_ZERO}; try another --lr, start from --weights, train more blocks (--trainable), look at the data"
    )


def open_report(
    args: argparse.Namespace, folder: Path, start: Start, clips: Clips, begin: float, start_epoch: int = 0
) -> RunReport:
    """Prepares what the run will leave to be looked at.

    Args:
        args, start: the options, and what the run begins with.
        folder: to write to.
        clips: the validation split.
        begin: of the run, by `time.monotonic`.
        start_epoch: the first that will be trained.
    """
    settings = {"This run": plain(vars(args))}
    defaults = {"This run": plain(default_settings(args.data_path, args.epochs, args.model))}
    temperature = 1.0
    if args.test_only and start.checkpoint is not None:
        settings["The training"] = then = plain(start.checkpoint.args or {})
        epochs = then.get("epochs") if isinstance(then.get("epochs"), int) else args.epochs
        path, model = Path(str(then.get("data_path"))), str(then.get("model", args.model))
        defaults["The training"] = plain(default_settings(path, epochs, model))
        temperature = float(start.checkpoint.temperature or 1.0)
    return RunReport(
        folder,
        f"{args.model} on {args.data_path.resolve().name}",
        start.classes,
        clips,
        settings,
        calibrate=args.calibrate,
        temperature=temperature,
        preparing_seconds=time.monotonic() - begin,
        tensorboard=args.tensorboard,
        start_epoch=start_epoch,
        defaults=defaults,
    )


def open_log(args: argparse.Namespace, start: Start, progress: RunProgress) -> RunLog:
    """Prepares --output-dir for writing; `progress` forgets a best epoch that is not there."""
    continues = start.continues(args.output_dir)
    open_run_folder(args.output_dir, plain({**vars(args), "classes": start.classes}), continues, args.overwrite)
    starting.count_best(start, args.output_dir, progress)
    log = RunLog(args.output_dir)
    if continues:
        log.resume(progress.epoch)
    return log


def open_saver(
    args: argparse.Namespace,
    start: Start,
    trainer: Trainer,
    progress: RunProgress,
    stop: StopRequest,
    command: ResumeCommand,
) -> RunSaver:
    """What saves the trainer's state, with what the run is.

    Args:
        args, start: the options, and what the run begins with.
        trainer, progress: whose state it is, and how far the run has come.
        stop: the signals that have come.
        command: is told when the run has saved.
    """

    launch = distributed.launch_ids() or None  # asked of all processes, where rank 0 alone writes

    def state() -> Checkpoint:
        told = replace(trainer.state(), classes=start.classes, preprocessing=val_preprocessing(args), launch=launch)
        return replace(told, args=plain(vars(args)))

    minutes, keep = args.checkpoint_minutes, args.keep_checkpoints
    return RunSaver(args.output_dir, progress, state, stop, command, minutes=minutes, keep=keep)


def best_checkpoint(folder: Path, resumed: Path | None, name: str = BEST) -> Path:
    """The checkpoint `name` of the run in `folder`; what it `resumed` where it has trained none."""
    path = folder / name
    return path if resumed is None or path.is_file() else resumed


def _check_seen(args: argparse.Namespace, start: Start) -> None:
    """Refuses to choose or fit by videos that were trained on, and to continue a run as one of the other kind."""
    if start.checkpoint is None:
        return
    seen = start.checkpoint.seen_data
    if args.calibrate and seen == args.data_path.resolve():
        raise CheckpointError(
            f"{start.path} was trained on the validation videos too (--train-on-val): no temperature can be fitted on "
            "them; calibrate a run without it, or on other data"
        )
    if args.test_only and seen not in (None, args.data_path.resolve()):
        print_main(f"NOTE: {start.path} was trained on {seen}/val too: if these videos are of it, it has seen them")
    if not args.test_only and args.train_on_val != (seen is not None):
        raise CheckpointError(
            f"{start.path} is of a run {'with' if seen else 'without'} --train-on-val, which this run is not: begin a "
            f"new run from it by --weights {start.path}"
        )


def _print_differences(args: argparse.Namespace, start: Start) -> None:
    """Says how validation will differ from what the network was trained for."""
    if start.state is None:
        print_main("WARNING: these are random weights: validate a checkpoint with --resume FILE")
    trained, here = start.checkpoint and start.checkpoint.preprocessing, val_preprocessing(args)
    if not trained:
        return
    if differences := here.differences(trained):
        print_main(f"NOTE: validation differs from that of the training: {', '.join(differences)}")
