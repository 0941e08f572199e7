"""Fine-tunes a video classification network on DIR/{train,val}/<class>/<video>, or validates one (--test-only)."""

import argparse
import datetime
import os
import sys
import time
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import options
import presets
import torch
from acceleration import compile_network, lay_out, set_up_hardware
from checkpoint import NEWEST, CheckpointError, plain, preprocessing_of, rng_state, save_checkpoint
from clip_cache import CacheError
from clip_sources import ClipOptions, Clips, open_clips
from datasets import DatasetError, VideoFolder, training_samples
from decoding import VideoError
from distributed import end_process_group, init_process_group, is_main, print_main, rank, world_size, wrap_model
from engine import Precision, TrainingError, evaluate, train_one_epoch
from feature_building import train_on_features
from metrics import VideoResults
from models import ModelError, check_fits, parameter_counts, trunk_blocks
from optimization import OPTIMIZERS, build_schedule, default_milestones, jump_to_step, parameter_groups
from reporting import RunFolderError, RunLog, epoch_entry, open_run_folder, print_results
from selection_table import selection_table
from starting import (
    RunProgress,
    Start,
    folder_classes,
    is_file_name,
    load_model,
    restore,
    start_from_checkpoint,
    start_from_weights,
)
from torch import nn

USER_ERRORS = (CacheError, CheckpointError, DatasetError, ModelError, RunFolderError, TrainingError, VideoError)


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
    """Runs the script: 0 when done, 1 when it could not be done, 2 on wrong usage."""
    parser = get_args_parser()
    args = parser.parse_args(argv)
    check_args(parser, args)
    try:
        run(args)
    except USER_ERRORS as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"interrupted: continue with --resume {args.output_dir / NEWEST}", file=sys.stderr)
        return 130
    finally:
        end_process_group()
    return 0


def run(args: argparse.Namespace) -> None:
    """Data, model, optimiser, resume, test-only, loop."""
    device = set_up(args)
    if args.cache_only:
        load_data(args, folder_classes(args.data_path, args.test_only))
        print_main(f"The clip cache is complete in {args.cache_dir}")
        return
    start = load_start(args)
    data = load_data(args, start.classes)
    for crop_size in {args.train_crop_size, args.val_crop_size}:
        check_fits(args.model, len(start.classes), args.clip_len, crop_size, args.trainable)
    model, frozen = load_model(args.model, start, args.trainable)
    model.to(device)
    precision = Precision.of(args.amp, device)
    set_up_hardware(precision)
    batch_shape = (args.batch_size, 3, args.clip_len, *args.train_crop_size)
    lay_out(model, args.channels_last, batch_shape, precision, (start.checkpoint or {}).get("layout"))
    network, frozen, data = replace_trunk(args, model, frozen, data, precision)
    if args.compile:
        compile_network(network, device)
    validate = partial(run_validation, network, precision=precision, print_freq=args.print_freq)
    if args.test_only:
        results = {clips.options.selection: validate(clips) for clips in data.val}
        if len(results) > 1:
            print_main(selection_table(results))
        return

    optimizer, scheduler = load_optimizer(args, model, steps_per_epoch(args, data))
    progress = restore(start.checkpoint, optimizer, precision.scaler) if start.checkpoint else RunProgress()
    if args.start_epoch is not None:
        progress.epoch = args.start_epoch
    if progress.epoch >= args.epochs:
        print_main(f"Nothing is left to train: the next epoch is {progress.epoch}, --epochs {args.epochs}")
        return
    jump_to_step(scheduler, progress.epoch * steps_per_epoch(args, data))
    log = open_log(args, data, progress)
    print_plan(args, data, model, progress)
    begin = time.monotonic()
    train = partial(
        train_one_epoch,
        wrap_model(network, device, args.sync_bn),
        nn.CrossEntropyLoss(label_smoothing=args.label_smoothing, reduction="none"),
        optimizer,
        scheduler,
        to_inputs=data.train.loader.dataset.to_inputs,
        num_steps=steps_per_epoch(args, data),
        precision=precision,
        frozen=frozen,
        seed=args.seed,
        print_freq=args.print_freq,
        batches_per_step=args.gradient_accumulation,
        max_grad_norm=args.clip_grad_norm,
    )
    for epoch in range(progress.epoch, args.epochs):
        samples = training_samples(
            data.train.videos, args.clips_per_video, args.seed, epoch, rank=rank(), world_size=world_size()
        )
        summary = train(data.train.loader.batches(samples), epoch=epoch)
        results = validate(data.val[0])
        is_best = results.video.top1 > progress.best_video_acc1
        progress = RunProgress(epoch + 1, max(results.video.top1, progress.best_video_acc1))
        log.add(epoch_entry(epoch, summary, results, scheduler.get_last_lr()[0]))
        if is_main():
            state = run_state(model, optimizer, scheduler, precision, progress)
            save_checkpoint(args.output_dir, {**state, **run_description(args, data)}, is_best)
        print_main(f"{summary.line()}, best video Acc@1 {progress.best_video_acc1:.3f}")
    print_main(f"Training time {datetime.timedelta(seconds=int(time.monotonic() - begin))}")


@dataclass(frozen=True)
class Data:
    """Both splits; `train` is None with --test-only, and `val` may then have several frame selections."""

    classes: list[str]
    train: Clips | None
    val: list[Clips]


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
    print_main(f"Device: {device} ({name}), precision: {args.amp}, processes: {world_size()}")
    return device


def load_start(args: argparse.Namespace) -> Start:
    """Reads checkpoint or weights, which decide on the classes."""
    folders = folder_classes(args.data_path, args.test_only)
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


def load_data(args: argparse.Namespace, classes: list[str]) -> Data:
    """Finds the videos of both splits, scans or caches them."""
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
    return Data(classes, train, val)


def run_validation(model: nn.Module, clips: Clips, precision: Precision, print_freq: int) -> VideoResults:
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


def replace_trunk(
    args: argparse.Namespace, model: nn.Module, frozen: list[str], data: Data, precision: Precision
) -> tuple[nn.Module, list[str], Data]:
    """What is trained and validated, and on what: the network, or with --cache-features its head on features."""
    if not args.cache_features or args.test_only:
        return model, frozen, data
    training = train_on_features(
        model,
        trunk_blocks(args.model, args.trainable),
        frozen,
        data.train,
        data.val,
        precision=precision,
        dtype=args.feature_dtype,
        views=args.cache_features,
    )
    return training.head, training.frozen, replace(data, train=training.train, val=training.val)


def steps_per_epoch(args: argparse.Namespace, data: Data) -> int:
    """Steps of the optimiser in an epoch."""
    return -(-data.train.steps_per_epoch() // args.gradient_accumulation)


def load_optimizer(args: argparse.Namespace, model: nn.Module, num_steps: int):
    """The optimiser over what is trained, and its schedule."""
    optimizer = OPTIMIZERS[args.opt](parameter_groups(model, args.weight_decay), args.lr, args.momentum)
    scheduler = build_schedule(
        optimizer,
        epochs=args.epochs,
        steps_per_epoch=num_steps,
        decay=args.lr_scheduler,
        milestones=args.lr_milestones,
        gamma=args.lr_gamma,
        warmup_epochs=args.lr_warmup_epochs,
        warmup_method=args.lr_warmup_method,
        warmup_decay=args.lr_warmup_decay,
    )
    return optimizer, scheduler


def open_log(args: argparse.Namespace, data: Data, progress: RunProgress) -> RunLog:
    """Prepares --output-dir for writing."""
    open_run_folder(args.output_dir, plain({**vars(args), "classes": data.classes}), bool(args.resume), args.overwrite)
    log = RunLog(args.output_dir)
    if args.resume:
        log.resume(progress.epoch)
    return log


def print_plan(args: argparse.Namespace, data: Data, model: nn.Module, progress: RunProgress) -> None:
    """What is about to be done, with the numbers that follow from the flags."""
    trained, total = parameter_counts(model)
    print_main(
        f"{args.model}: {trained:,} of {total:,} parameters trained ({' '.join(args.trainable)}); "
        f"{len(data.classes)} classes, {len(data.train.videos)} training videos; epochs {progress.epoch} to "
        f"{args.epochs - 1}, {steps_per_epoch(args, data)} steps each, "
        f"{args.batch_size * args.gradient_accumulation * world_size()} clips a step"
    )


def run_state(model: nn.Module, optimizer, scheduler, precision: Precision, progress: RunProgress) -> dict[str, Any]:
    """The part of a checkpoint that changes as the run goes on, see checkpoint.py."""
    return {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "lr_scheduler": scheduler.state_dict(),
        "scaler": precision.scaler.state_dict() if precision.scaler else None,
        "epoch": progress.epoch - 1,
        "best_video_acc1": progress.best_video_acc1,
        "layout": precision.layout,
        "rng": rng_state(),
    }


def run_description(args: argparse.Namespace, data: Data) -> dict[str, Any]:
    """The part of a checkpoint that does not change."""
    preprocessing = preprocessing_of(
        clip_len=args.clip_len,
        frame_rate=args.frame_rate,
        frame_selection=args.val_frame_selection[0],
        resize_size=args.val_resize_size,
        crop_size=args.val_crop_size,
        mean=presets.MEAN,
        std=presets.STD,
    )
    return {"classes": data.classes, "preprocessing": preprocessing, "args": plain(vars(args))}


if __name__ == "__main__":
    sys.exit(main())
