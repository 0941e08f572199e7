"""Fine-tunes a video classification network on DIR/{train,val}/<class>/<video>, or validates one (--test-only)."""

import argparse
import os
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from caching.splits import ClipOptions, Clips, open_splits
from clips import presets
from clips.presets import read_flip_map
from evaluation.metrics import VideoResults
from evaluation.selection_table import selection_table
from network.acceleration import freed_memory_kept
from network.checkpoint import BEST, NEWEST, plain, preprocessing_of, temperature_of, training_state
from network.models import check_fits
from reporting.html_report import REPORT
from reporting.run_folder import RunLog, check_run_folder, open_run_folder
from reporting.run_report import RunReport, open_evaluation_folder
from runtime.distributed import (
    DistributedError,
    init_process_group,
    is_distributed,
    print_main,
    restart_count,
    world_size,
    wrap_model,
)
from runtime.errors import require
from runtime.script import exit_code_of
from runtime.signals import StopRequest
from training import options
from training.loop import fit
from training.option_checks import check_args
from training.options import add_recipe_arguments
from training.overfitting import check_overfits
from training.recipe import Work, load_average, load_network, load_optimizer, load_targets, load_trainer, recalibrate
from training.saving import RunProgress, RunSaver
from training.screen import print_plan, print_settings
from training.starting import (
    Start,
    check_same_start,
    checkpoint_to_resume,
    folder_classes,
    is_file_name,
    restore,
    start_from_checkpoint,
    start_from_weights,
)
from training.validation import report_best, run_validation, validate_selections
from training.weight_averaging import WeightAverage
from videos.folder import VideoFolder


def get_args_parser(add_help: bool = True) -> argparse.ArgumentParser:
    """The command line of this script."""
    parser = argparse.ArgumentParser(description=__doc__, add_help=add_help)
    options.add_data_arguments(parser)
    options.add_selection_arguments(parser)
    options.add_model_arguments(parser)
    options.add_acceleration_arguments(parser)
    options.add_optimization_arguments(parser)
    add_recipe_arguments(parser)
    options.add_run_arguments(parser)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Runs the script: 0 when done, 1 when it could not be done, 2 on wrong usage, 128 + signal when stopped by one."""
    argv = sys.argv[1:] if argv is None else argv
    parser = get_args_parser()
    args = parser.parse_args(argv)
    check_args(parser, args)
    with freed_memory_kept(torch.device(args.device).type):
        return exit_code_of(partial(run, args), [sys.argv[0], *argv])


def run(args: argparse.Namespace) -> None:
    """Data, model, test-only, optimiser, resume, loop."""
    begin = time.monotonic()
    device = set_up(args)
    if args.cache_only:
        load_clips(args, folder_classes(args.data_path, args.test_only))
        print_main(f"The clip cache is complete in {args.cache_dir}")
        return
    start = load_start(args)
    check_start(args, start)
    folder = args.output_dir
    if args.test_only:
        folder = open_evaluation_folder(folder, args.resume or args.weights, args.eval_split)
    train_clips, val_clips = load_clips(args, start.classes)
    targets = load_targets(args, train_clips) if train_clips else None
    work = load_network(args, start, device, train_clips, val_clips)
    validate = partial(run_validation, work.network, work.precision, args.print_freq)
    report = partial(open_report, args, folder, start, replace(val_clips[0], pixels=work.val[0].pixels), begin)
    if args.test_only:
        test(args, report(), start, work.val, validate)
        return
    optimizer, scheduler = load_optimizer(args, work.model, work.train)
    train = load_trainer(args, work, wrap_model(work.network, device, args.sync_bn), optimizer, scheduler, targets)
    average = load_average(args, work.model, start)
    progress = restore(start.checkpoint, optimizer, work.precision.scaler) if start.checkpoint else RunProgress()
    if args.start_epoch is not None:
        progress = RunProgress(args.start_epoch, best_video_acc1=progress.best_video_acc1)
    if progress.epoch < args.epochs:
        print_plan(work.model, args.model, work.train, len(start.classes), progress, args.epochs)
    else:
        print_main(f"Nothing is left to train: the next epoch is {progress.epoch}, --epochs {args.epochs}")
        if (folder / REPORT).is_file():
            return
    if args.sanity_overfit:
        check_overfits(train, work.train, args.seed)
        return
    log = open_log(args, start.classes, progress)
    report = report(progress.epoch)
    state = partial(run_state, args, work, start.classes, optimizer, scheduler, average)
    with StopRequest() as stop:
        saving = {"minutes": args.checkpoint_minutes, "keep": args.keep_checkpoints, "stop": stop}
        best = fit(
            *(train, partial(validate, work.val[0]), work.train, scheduler),
            *(RunSaver(args.output_dir, progress, state, **saving), log, report),
            epochs=args.epochs,
            seed=args.seed,
            early_stop=args.early_stop,
            average=average,
            before_last=partial(recalibrate, work, args.seed) if args.bn_recalibrate else None,
        )
    path = folder / BEST
    if not path.is_file():  # of before this run went on, where no epoch was better
        path = Path(args.resume).with_name(BEST)
        path = path if path.is_file() else args.resume
    report_best(report, log.entries, work.model, partial(validate, work.val[0]), best, path)


def set_up(args: argparse.Namespace) -> torch.device:
    """Joins the process group and seeds; returns this process's device."""
    device = init_process_group(torch.device(args.device))
    torch.manual_seed(args.seed)
    if args.use_deterministic_algorithms:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = not args.use_deterministic_algorithms
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{torch.get_num_threads()} threads"
    if args.sync_bn and device.type == "cpu" and is_distributed():
        raise DistributedError("--sync-bn needs GPUs: torch has no BatchNorm over several processes on the CPU")
    if args.tensorboard:
        require("torch.utils.tensorboard")  # before the work, not after it
    print_settings(plain(vars(args)))
    print_main(f"Device: {device} ({name}), precision: {args.amp}, processes: {world_size()}")
    return device


def load_start(args: argparse.Namespace) -> Start:
    """Reads checkpoint or weights, which decide on the classes."""
    folders = folder_classes(args.data_path, args.test_only)
    trains = not (args.test_only or args.sanity_overfit)
    if restart_count() and trains and (args.output_dir / NEWEST).exists():
        args.resume, args.overwrite, args.start_epoch = "auto", False, None  # torchrun has started the run again
    args.resume = checkpoint_to_resume(args.resume, args.output_dir, trains=not args.test_only)
    if args.resume:
        return start_from_checkpoint(args.resume, folders, trains=not args.test_only)
    if args.test_only and args.weights and is_file_name(args.weights):
        return start_from_checkpoint(args.weights, folders)
    if args.weights is None and "all" not in args.trainable:
        print_main(
            f"WARNING: all but {' '.join(args.trainable)} is frozen at random values, since there are no --weights: "
            "it will hardly learn. Use --weights KINETICS400_V1, a checkpoint, or --trainable all"
        )
    return start_from_weights(args.model, args.weights, folders)


def check_start(args: argparse.Namespace, start: Start) -> None:
    """Refuses what cannot come to an end, before the videos are scanned."""
    check_same_start(start)
    if args.test_only:
        tell_differences(args, start)
    for crop_size in {args.train_crop_size, args.val_crop_size}:
        check_fits(args.model, len(start.classes), args.clip_len, crop_size, args.trainable)
    if not (args.test_only or args.sanity_overfit):
        check_run_folder(args.output_dir, bool(args.resume), args.overwrite)


def tell_differences(args: argparse.Namespace, start: Start) -> None:
    """Says how validation will differ from what the network was trained for."""
    if start.state is None:
        print_main("WARNING: these are random weights: validate a checkpoint with --resume FILE")
    trained, here = (start.checkpoint or {}).get("preprocessing"), val_preprocessing(args)
    names = ("clip_len", "frame_rate", "frame_selection", "resize_size", "crop_size")
    if differing := [name for name in names if trained and trained.get(name) != here[name]]:
        told = ", ".join(f"{name} {here[name]} instead of {trained.get(name)}" for name in differing)
        print_main(f"NOTE: validating otherwise than the training did: {told}")


def load_clips(args: argparse.Namespace, classes: list[str]) -> tuple[Clips | None, list[Clips]]:
    """Training clips, None with --test-only, and validation clips by each frame selection; scans or caches them."""
    shared = {
        "clip_len": args.clip_len,
        "frame_rate": args.frame_rate,
        "clips_per_video": args.clips_per_video,
        "start_prob": args.official_start_prob,
        "seed": args.seed,
        "cache_dir": args.cache_dir,
        "cached": args.cache_dataset,
        "cache_format": args.cache_format,
        "candidate_rate": args.cache_frame_rate,
        "skip_unreadable": args.skip_unreadable,
        "batch_size": args.batch_size,
        "batches_per_step": args.gradient_accumulation,
        "num_workers": args.workers,
        "pin_memory": args.device.startswith("cuda"),
    }
    val_folder = VideoFolder(args.data_path / args.eval_split, classes)
    train_folder = None if args.test_only else VideoFolder(args.data_path / "train", classes)
    for_val = ClipOptions(
        resize_size=args.val_resize_size,
        crop_size=args.val_crop_size,
        selection=args.val_frame_selection[0],
        random=False,
        **shared,
    )
    for_train = ClipOptions(
        resize_size=args.train_resize_size,
        crop_size=args.train_crop_size,
        selection=args.frame_selection,
        random=args.augment != "none",
        balanced=args.balanced_sampling,
        strong=args.augment == "strong",
        mirrors=read_flip_map(args.flip_map, classes) if args.flip_map and train_folder else None,
        **shared,
    )
    splits = [(val_folder, replace(for_val, selection=name)) for name in args.val_frame_selection]
    if train_folder is None:
        return None, open_splits(splits)
    train, *val = open_splits([(train_folder, for_train), *splits])
    return train, val


def open_report(
    args: argparse.Namespace, folder: Path, start: Start, clips: Clips, begin: float, start_epoch: int = 0
) -> RunReport:
    """Prepares what the run will leave to be looked at."""
    settings = {"This run": plain(vars(args))}
    if args.test_only and start.checkpoint:
        settings["The training"] = plain(start.checkpoint.get("args") or {})
    return RunReport(
        folder,
        f"{args.model} on {args.data_path.resolve().name}",
        start.classes,
        clips,
        settings,
        calibrate=args.calibrate,
        temperature=temperature_of(start.checkpoint, args.resume or args.weights) if args.test_only else 1.0,
        preparing_seconds=time.monotonic() - begin,
        tensorboard=args.tensorboard,
        start_epoch=start_epoch,
        defaults=plain({name: get_args_parser().get_default(name) for name in vars(args)}),
    )


def test(
    args: argparse.Namespace,
    report: RunReport,
    start: Start,
    val_clips: list[Clips],
    validate: Callable[..., VideoResults],
) -> None:
    """Validates by every frame selection asked for; the report tells of the first."""
    results = validate_selections(validate, val_clips, args.save_logits)
    path = (args.resume or args.weights) if start.checkpoint else None
    report.write_evaluation(results[args.val_frame_selection[0]], path, start.checkpoint)
    if len(results) > 1:
        print_main(selection_table(results))


def open_log(args: argparse.Namespace, classes: list[str], progress: RunProgress) -> RunLog:
    """Prepares --output-dir for writing."""
    open_run_folder(args.output_dir, plain({**vars(args), "classes": classes}), bool(args.resume), args.overwrite)
    log = RunLog(args.output_dir)
    if args.resume:
        log.resume(progress.epoch)
    return log


def val_preprocessing(args: argparse.Namespace) -> dict[str, Any]:
    """What a clip goes through in validation, as a checkpoint has it."""
    return preprocessing_of(
        clip_len=args.clip_len,
        frame_rate=args.frame_rate,
        frame_selection=args.val_frame_selection[0],
        candidate_rate=args.cache_frame_rate,
        resize_size=args.val_resize_size,
        crop_size=args.val_crop_size,
        mean=presets.MEAN,
        std=presets.STD,
    )


def run_state(
    args: argparse.Namespace,
    work: Work,
    classes: list[str],
    optimizer: torch.optim.Optimizer,
    scheduler: torch.optim.lr_scheduler.LRScheduler,
    average: WeightAverage | None,
) -> dict[str, Any]:
    """A checkpoint but for the run's progress, see checkpoint.py."""
    return {
        **training_state(work.model, optimizer, scheduler, work.precision.scaler),
        **(average.state() if average is not None else {}),
        "classes": classes,
        "preprocessing": val_preprocessing(args),
        "args": plain(vars(args)),
        "layout": work.precision.layout,
    }


if __name__ == "__main__":
    sys.exit(main())
