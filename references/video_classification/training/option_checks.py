"""Which of the training script's arguments do not go together, and what those left open resolve to. A room of its own:
all of it is checked once, before any work is done.
"""

import argparse

import torch

from evaluation.selection_table import BASELINE
from network.models import ModelError, build_model
from network.trunk_and_head import trunk_blocks
from training.optimization import default_milestones
from training.options import resolve_amp, resolve_device
from training.starting import is_file_name


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
    if len(args.val_frame_selection) > 1 and BASELINE not in args.val_frame_selection:
        args.val_frame_selection.append(BASELINE)  # last: the report tells of the first
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
        args.device = str(resolve_device(args.device))
    except ValueError as error:
        parser.error(str(error))
    if args.opt == "adamw" and args.momentum == 1:
        parser.error("--momentum is adamw's first beta: it must be below 1")
    args.amp = resolve_amp(args.amp, torch.device(args.device))
    check_recipe(parser, args)
    if args.cache_features and not args.test_only:
        check_cached_features(parser, args)


def check_recipe(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Refuses what cannot be combined; the message names the flags."""
    in_pixels = {
        "--augment strong": args.augment == "strong",
        "--flip-map": args.flip_map is not None,
        "--mixup-alpha": args.mixup_alpha > 0,
        "--cutmix-alpha": args.cutmix_alpha > 0,
    }
    for flag, is_used in in_pixels.items():
        if is_used and args.cache_features:
            parser.error(f"--cache-features keeps what the trunk makes of pixels, and {flag} changes those: choose one")
    for flag, is_used in (("--save-logits", args.save_logits), ("--eval-split train", args.eval_split == "train")):
        if is_used and not args.test_only:
            parser.error(f"{flag} is for --test-only: training validates on val/ and writes no logits")
    for flag, is_used in (("--teacher-logits", args.teacher_logits), ("--sanity-overfit", args.sanity_overfit)):
        if is_used and args.test_only:
            parser.error(f"{flag} trains, and --test-only does not: choose one")
    if args.save_logits and len(args.val_frame_selection) > 1:
        parser.error("--save-logits writes the clips of one --val-frame-selection: give one")
    if args.flip_map is not None and args.augment == "none":
        parser.error("--flip-map flips clips, and --augment none flips none: use --augment basic or strong")


def check_cached_features(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Refuses what features that are computed once cannot give."""
    try:
        with torch.device("meta"):
            trunk_blocks(build_model(args.model, num_classes=1), args.trainable)
    except ModelError as error:
        parser.error(f"--cache-features: {error}")
    if args.cache_features > 1 and args.augment == "none":
        parser.error(
            f"--cache-features {args.cache_features}: with --augment none nothing is drawn, and all views of a clip "
            "would be the same: use --cache-features 1, or --augment basic"
        )
