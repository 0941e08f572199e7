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

import options
import presets
import torch
from acceleration import compile_network, lay_out, set_up_hardware
from checkpoint import BEST, load_checkpoint, plain, preprocessing_of, temperature_of, training_state
from clip_sources import ClipOptions, Clips, open_clips
from datasets import VideoFolder
from distributed import (
    end_process_group,
    init_process_group,
    is_peers_failure,
    print_main,
    rank,
    world_size,
    wrap_model,
)
from engine import Precision, evaluate, train_one_epoch
from errors import UserError
from extras import require
from feature_building import train_on_features
from interruption import Stopped, StopRequest, resume_command
from metrics import VideoResults
from models import check_fits, load_state
from optimization import OPTIMIZERS, build_schedule, default_milestones, parameter_groups
from reporting import RunLog, open_run_folder, print_plan, print_results
from run_report import RunReport, open_evaluation_folder
from saving import RunProgress, RunSaver
from selection_table import selection_table
from starting import (
    Start,
    checkpoint_to_resume,
    folder_classes,
    is_file_name,
    load_model,
    restore,
    start_from_checkpoint,
    start_from_weights,
)
from torch import nn
from training_loop import fit


def get_args_parser(add_help: bool = True) -> argparse.ArgumentParser:
    """The command line of this script."""
    parser = argparse.ArgumentParser(description=__doc__, add_help=add_help)
    options.add_data_arguments(parser)
    options.add_selection_arguments(parser)
    options.add_model_arguments(parser)
    options.add_acceleration_arguments(parser)
    options.add_optimization_arguments(parser)
    options.add_run_arguments(parser)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Runs the script: 0 when done, 1 when it could not be done, 2 on wrong usage, 128 + signal when stopped by one."""
    argv = sys.argv[1:] if argv is None else argv
    parser = get_args_parser()
    args = parser.parse_args(argv)
    check_args(parser, args)
    failed = True
    try:
        run(args)
        failed = False
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except Stopped as stopped:
        print_main(f"{stopped}, the run is saved. Continue with: {resume_command([sys.argv[0], *argv])}")
        failed = False
        return stopped.exit_code
    except KeyboardInterrupt:
        print(f"interrupted. Continue with: {resume_command([sys.argv[0], *argv])}", file=sys.stderr)
        return 130
    except RuntimeError as error:
        if not is_peers_failure(error):
            raise
        print(f"error: rank {rank()} ends since another process has ended: its message says why", file=sys.stderr)
        return 1
    finally:
        end_process_group(failed)
    return 0


def run(args: argparse.Namespace) -> None:
    """Data, model, optimiser, resume, test-only, loop."""
    begin = time.monotonic()
    device = set_up(args)
    if args.cache_only:
        load_clips(args, folder_classes(args.data_path, args.test_only))
        print_main(f"The clip cache is complete in {args.cache_dir}")
        return
    start = load_start(args)
    folder = open_evaluation_folder(args.output_dir, args.resume or args.weights) if args.test_only else args.output_dir
    train_clips, val_clips = load_clips(args, start.classes)
    for crop_size in {args.train_crop_size, args.val_crop_size}:
        check_fits(args.model, len(start.classes), args.clip_len, crop_size, args.trainable)
    model, frozen = load_model(args.model, start, args.trainable)
    model.to(device)
    precision = Precision.of(args.amp, device)
    prepare_network(args, model, start, precision)
    network, shown = model, val_clips[0]  # the report shows frames, which features have not
    if args.cache_features and train_clips is not None:
        network, frozen, train_clips, val_clips = train_on_features(
            *(model, frozen, args.trainable, train_clips, val_clips),
            precision=precision,
            dtype=args.feature_dtype,
            views=args.cache_features,
        )
    if args.compile:
        compile_network(network, device)
    validate = partial(run_validation, network, precision, args.print_freq)
    if train_clips is None:
        test(args, open_report(args, folder, start, val_clips[0], begin), start, val_clips, validate)
        return

    optimizer, scheduler = load_optimizer(args, model, train_clips)
    progress = restore(start.checkpoint, optimizer, precision.scaler) if start.checkpoint else RunProgress()
    if args.start_epoch is not None:
        progress = RunProgress(args.start_epoch, best_video_acc1=progress.best_video_acc1)
    if progress.epoch >= args.epochs:
        print_main(f"Nothing is left to train: the next epoch is {progress.epoch}, --epochs {args.epochs}")
        return
    log = open_log(args, start.classes, progress)
    shown = replace(shown, pixels=val_clips[0].pixels)
    report = open_report(args, folder, start, shown, begin, progress.epoch)
    print_plan(model, args.model, train_clips, len(start.classes), progress, args.epochs)
    train = partial(
        train_one_epoch,
        wrap_model(network, device, args.sync_bn),
        nn.CrossEntropyLoss(label_smoothing=args.label_smoothing, reduction="none"),
        optimizer,
        scheduler,
        to_inputs=train_clips.loader.dataset.to_inputs,
        num_steps=train_clips.steps_per_epoch(),
        precision=precision,
        frozen=frozen,
        seed=args.seed,
        print_freq=args.print_freq,
        batches_per_step=args.gradient_accumulation,
        max_grad_norm=args.clip_grad_norm,
    )
    with StopRequest() as stop:
        description = {**run_description(args, start.classes), "layout": precision.layout}
        saver = RunSaver(
            args.output_dir,
            progress,
            lambda: {**training_state(model, optimizer, scheduler, precision.scaler), **description},
            minutes=args.checkpoint_minutes,
            keep=args.keep_checkpoints,
            stop=stop,
        )
        validate_now = partial(validate, val_clips[0])
        best = fit(train, validate_now, train_clips, scheduler, saver, log, report, epochs=args.epochs, seed=args.seed)
    report_best(args, report, log, model, validate_now, best)


def check_args(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Refuses what cannot be right, before any work, and fills in what depends on other flags."""
    for split in ("train", "val"):
        crop, resize = getattr(args, f"{split}_crop_size"), getattr(args, f"{split}_resize_size")
        if any(inner > outer for inner, outer in zip(crop, resize, strict=True)):
            parser.error(f"--{split}-crop-size {crop[0]} {crop[1]} does not fit into {resize[0]} {resize[1]}")
        setattr(args, f"{split}_crop_size", tuple(crop))
        setattr(args, f"{split}_resize_size", tuple(resize))
    if args.cache_dir is None:
        args.cache_dir = args.data_path / ".clip_cache"
    if args.lr_milestones is None:
        args.lr_milestones = default_milestones(args.epochs)
    if len(args.val_frame_selection) > 1 and not args.test_only:
        parser.error("several --val-frame-selection are compared with --test-only; training validates by one")
    args.cache_dataset |= args.cache_only
    beyond_strip = sorted({args.frame_selection, *args.val_frame_selection} - {"official"})
    if args.cache_dataset and beyond_strip and args.cache_frame_rate is None:
        parser.error(
            f"--cache-dataset keeps the official strip alone, and {' and '.join(beyond_strip)} frame selection looks "
            "beyond it: add --cache-frame-rate FPS (8, say), at which more frames are kept to choose from"
        )
    if args.calibrate and args.test_only and not (args.resume or (args.weights and is_file_name(args.weights))):
        parser.error("--calibrate --test-only puts the temperature into a checkpoint: give it by --resume")
    if args.resume and args.overwrite:
        parser.error("--resume continues a run and --overwrite begins anew: choose one")
    try:
        args.device = str(options.resolve_device(args.device))
    except ValueError as error:
        parser.error(str(error))
    args.amp = options.resolve_amp(args.amp, torch.device(args.device))
    if args.cache_features and not args.test_only:
        options.check_cached_features(parser, args)


def set_up(args: argparse.Namespace) -> torch.device:
    """Joins the process group and seeds; returns this process's device."""
    device = init_process_group(torch.device(args.device))
    torch.manual_seed(args.seed)
    if args.use_deterministic_algorithms:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = not args.use_deterministic_algorithms
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{torch.get_num_threads()} threads"
    if args.tensorboard:
        require("torch.utils.tensorboard")  # before the work, not after it
    print_main(f"Device: {device} ({name}), precision: {args.amp}, processes: {world_size()}")
    return device


def load_start(args: argparse.Namespace) -> Start:
    """Reads checkpoint or weights, which decide on the classes."""
    folders = folder_classes(args.data_path, args.test_only)
    args.resume = checkpoint_to_resume(args.resume, args.output_dir)
    if args.resume:
        return start_from_checkpoint(args.resume, folders)
    if args.test_only and args.weights and is_file_name(args.weights):
        return start_from_checkpoint(args.weights, folders)
    if args.weights is None and "all" not in args.trainable:
        print_main(
            f"WARNING: all but {' '.join(args.trainable)} is frozen at random values, since there are no --weights: "
            "it will hardly learn. Use --weights KINETICS400_V1, a checkpoint, or --trainable all"
        )
    return start_from_weights(args.model, args.weights, folders)


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
    val_folder = VideoFolder(args.data_path / "val", classes)
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
        **shared,
    )
    train = open_clips(train_folder, for_train) if train_folder else None
    val = [open_clips(val_folder, replace(for_val, selection=name)) for name in args.val_frame_selection]
    return train, val


def prepare_network(args: argparse.Namespace, model: nn.Module, start: Start, precision: Precision) -> None:
    """Chooses how the device computes; lays `model` out accordingly."""
    set_up_hardware(precision)
    batch_shape = (args.batch_size, 3, args.clip_len, *args.train_crop_size)
    remembered = start.checkpoint.get("layout") if start.checkpoint else None
    lay_out(model, args.channels_last, batch_shape, precision, remembered)


def run_validation(model: nn.Module, precision: Precision, print_freq: int, clips: Clips) -> VideoResults:
    """Scores the validation videos and prints what came out, and how."""
    results = evaluate(
        model,
        nn.CrossEntropyLoss(reduction="none"),
        clips.loader,
        clips.videos,
        num_classes=len(clips.loader.dataset.folder.classes),
        precision=precision,
        print_freq=print_freq,
    )
    print_results(results, clips.options.rule, clips.pixels, clips.skipped)
    return results


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
    )


def test(
    args: argparse.Namespace,
    report: RunReport,
    start: Start,
    val_clips: list[Clips],
    validate: Callable[[Clips], VideoResults],
) -> None:
    """Validates by every frame selection asked for; the report tells of the first."""
    results = {clips.options.selection: validate(clips) for clips in val_clips}
    path = (args.resume or args.weights) if start.checkpoint else None
    report.write_evaluation(next(iter(results.values())), path, start.checkpoint)
    if len(results) > 1:
        print_main(selection_table(results))


def report_best(
    args: argparse.Namespace,
    report: RunReport,
    log: RunLog,
    model: nn.Module,
    validate: Callable[[], VideoResults],
    best: VideoResults | None,
) -> None:
    """Tells of the best epoch; validates it again where it (`best` is None) is from before the run was resumed."""
    path = args.output_dir / BEST
    if best is None:
        path = path if path.is_file() else args.resume
        print_main(f"Validating {path}, the best so far, for the report")
        checkpoint = load_checkpoint(path)
        if args.calibrate and "temperature" not in checkpoint:
            print_main(f"{path} is from before --calibrate: calibrate it by --test-only --calibrate --resume {path}")
        report.calibrate, report.temperature = False, temperature_of(checkpoint, path)
        load_state(model, checkpoint["model"], keep_head=True)
        best = validate()
    report.write_training(best, path, log.entries)


def load_optimizer(args: argparse.Namespace, model: nn.Module, train: Clips):
    """The optimiser over what is trained, and its schedule."""
    optimizer = OPTIMIZERS[args.opt](parameter_groups(model, args.weight_decay), args.lr, args.momentum)
    scheduler = build_schedule(
        optimizer,
        epochs=args.epochs,
        steps_per_epoch=train.steps_per_epoch(),
        decay=args.lr_scheduler,
        milestones=args.lr_milestones,
        gamma=args.lr_gamma,
        warmup_epochs=args.lr_warmup_epochs,
        warmup_method=args.lr_warmup_method,
        warmup_decay=args.lr_warmup_decay,
    )
    return optimizer, scheduler


def open_log(args: argparse.Namespace, classes: list[str], progress: RunProgress) -> RunLog:
    """Prepares --output-dir for writing."""
    open_run_folder(args.output_dir, plain({**vars(args), "classes": classes}), bool(args.resume), args.overwrite)
    log = RunLog(args.output_dir)
    if args.resume:
        log.resume(progress.epoch)
    return log


def run_description(args: argparse.Namespace, classes: list[str]) -> dict[str, Any]:
    """The part of a checkpoint that stays the same, see checkpoint.py."""
    preprocessing = preprocessing_of(
        clip_len=args.clip_len,
        frame_rate=args.frame_rate,
        frame_selection=args.val_frame_selection[0],
        resize_size=args.val_resize_size,
        crop_size=args.val_crop_size,
        mean=presets.MEAN,
        std=presets.STD,
    )
    return {"classes": classes, "preprocessing": preprocessing, "args": plain(vars(args))}


if __name__ == "__main__":
    sys.exit(main())
