"""Refuses arguments that do not go together, before any work, and fills in what depends on other arguments.

`check_args` imports no torch, so that wrong usage shows at once; `check_with_torch` does what needs it. Both end in
`parser.error`, which is exit code 2.
"""

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runtime.arguments import check_folders, check_inputs, check_outputs
from training.options import add_arguments, default_milestones, fill_in_preprocessing, is_file_name

if TYPE_CHECKING:
    import torch

OFFICIAL = "official"


def check_args(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Checks train.py's arguments as far as that takes no torch, and fills in what others decide."""
    check_sizes(parser, args)
    check_selection(parser, args)
    fill_in(args)
    if args.plan and (args.test_only or args.cache_only or args.sanity_overfit):
        parser.error("--plan is of a training: leave out --test-only, --cache-only and --sanity-overfit")
    if args.plan and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        parser.error("--plan tries things in one process: run it by python, without torchrun")
    if args.calibrate and args.test_only and not (args.resume or (args.weights and is_file_name(args.weights))):
        parser.error("--calibrate --test-only puts the temperature into a checkpoint: give it by --resume")
    if args.resume == "auto" and args.overwrite:
        parser.error("--resume auto continues the run in --output-dir, and --overwrite removes it: choose one")
    if args.opt == "adamw" and args.momentum == 1:
        parser.error("--momentum is adamw's first beta: it must be below 1")
    check_recipe(parser, args)
    check_inputs(parser, [("--teacher-logits", args.teacher_logits), ("--flip-map", args.flip_map)])
    check_inputs(parser, [("--class-map", args.class_map), *(("--teacher", Path(path)) for path in args.teacher or [])])
    folders = [("--data-path", args.data_path), ("--cache-dir", args.cache_dir), ("--output-dir", args.output_dir)]
    check_folders(parser, folders)
    checkpoints = [args.resume, args.weights if args.weights and is_file_name(args.weights) else None]
    read = [*checkpoints, args.teacher_logits, args.flip_map, args.class_map, args.data_path]
    check_outputs(parser, [("--save-logits", args.save_logits)], read)


def fill_in(args: argparse.Namespace) -> None:
    """Fills in what follows from other arguments."""
    if args.cache_dir is None:
        args.cache_dir = args.data_path / ".clip_cache"
    if args.lr_milestones is None:
        args.lr_milestones = default_milestones(args.epochs)


def default_settings(data_path: Path, epochs: int, model: str) -> dict[str, Any]:
    """What each argument is where its flag is not given, as `check_args` and `check_with_torch` leave it.

    Other defaults follow from the `data_path`, `epochs` and `model` of the run.
    """
    from network.precision import resolve_device

    parser = argparse.ArgumentParser(add_help=False)
    add_arguments(parser)
    given = {"data_path": data_path, "epochs": epochs, "model": model}
    args = argparse.Namespace(**{action.dest: action.default for action in parser._actions} | given)
    fill_in_preprocessing(args)
    fill_in(args)
    args.device = str(resolve_device(None))
    return {**vars(args), **{name: parser.get_default(name) for name in given}}


def check_sizes(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Fills in what the model expects; refuses crops larger than the frames, and a shorter side where it cannot be."""
    fill_in_preprocessing(args)
    for split in ("train", "val"):
        crop, resize = getattr(args, f"{split}_crop_size"), getattr(args, f"{split}_resize_size")
        if len(resize) > 2:
            parser.error(f"--{split}-resize-size takes height and width, or the shorter side, not {len(resize)} values")
        if crop[0] > resize[0] or crop[1] > resize[-1]:
            shown = " ".join(map(str, resize))
            parser.error(f"--{split}-crop-size {crop[0]} {crop[1]} does not fit into {shown}")
        needs_one_size = {
            "--cache-dataset": args.cache_dataset or args.cache_only,
            "--augment strong": args.augment == "strong" and split == "train" and not args.test_only,
        }
        for flag, is_used in needs_one_size.items():
            if is_used and len(resize) == 1:
                size = f"{resize[0]} {round(resize[0] * 171 / 128)}"
                parser.error(
                    f"--{split}-resize-size {resize[0]} is the shorter side, and the longer one depends on the video, "
                    f"while {flag} needs frames of one size: give both, such as --{split}-resize-size {size}"
                )


def check_selection(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Refuses frame selections that cannot be compared, or that the cache has no frames for."""
    if len(args.val_frame_selection) > 1 and not args.test_only:
        parser.error("several --val-frame-selection are compared with --test-only; training validates by one")
    if len(args.val_frame_selection) > 1 and OFFICIAL not in args.val_frame_selection:
        args.val_frame_selection.append(OFFICIAL)  # last: the report describes the first
    args.cache_dataset |= args.cache_only
    beyond_strip = sorted({args.frame_selection, *args.val_frame_selection} - {OFFICIAL})
    if args.cache_dataset and beyond_strip and args.cache_frame_rate is None:
        parser.error(
            f"--cache-dataset keeps only the official strip, and {' and '.join(beyond_strip)} frame selection looks "
            "beyond it: add --cache-frame-rate FPS, such as 8, to keep more frames to choose from"
        )


def check_recipe(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Refuses what cannot be combined; the message names the flags."""
    strong = ["--augment strong"] if args.augment == "strong" else []
    for flag in [*strong, *_given(args, "--flip-map", "--mixup-alpha", "--cutmix-alpha")]:
        if args.cache_features:
            parser.error(f"--cache-features keeps what the trunk computes from pixels, and {flag} changes those")
    train = ["--eval-split train"] if args.eval_split == "train" else []
    for flag in [*_given(args, "--save-logits"), *train]:
        if not args.test_only:
            parser.error(f"{flag} is for --test-only: training validates on val/ and writes no logits")
    if args.class_map and not args.test_only:
        parser.error("--class-map is for --test-only: it checks a checkpoint")
    if args.teacher and args.teacher_logits:
        parser.error("--teacher and --teacher-logits are two ways to be taught: choose one")
    if args.teacher and args.cache_features:
        parser.error(
            "--teacher is shown clips, and with --cache-features there are none: leave one out, or use --teacher-logits"
        )
    for flag in _given(args, "--teacher", "--teacher-logits", "--sanity-overfit"):
        if args.test_only:
            parser.error(f"{flag} trains, and --test-only does not: choose one")
    check_train_on_val(parser, args)
    if args.save_logits and len(args.val_frame_selection) > 1:
        parser.error("--save-logits writes the clips of one --val-frame-selection: give one")
    if args.flip_map is not None and args.augment == "none":
        parser.error("--flip-map flips clips, and --augment none flips none: use --augment basic or strong")
    if args.cache_features and args.cache_features > 1 and args.augment == "none" and not args.test_only:
        parser.error(
            f"--cache-features {args.cache_features}: with --augment none nothing is random, so all views of a clip "
            "would be the same: use --cache-features 1, or --augment basic"
        )


def _given(args: argparse.Namespace, *flags: str) -> list[str]:
    """Those of the flags that are used; none is by default."""
    return [flag for flag in flags if getattr(args, flag[2:].replace("-", "_"))]


def check_train_on_val(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """With --train-on-val, refuses what would choose or fit by videos that were trained on."""
    for flag in _given(args, "--early-stop", "--calibrate"):
        if args.train_on_val:
            parser.error(f"{flag} goes by the validation videos, and --train-on-val trains on them: leave one out")
    if args.train_on_val and args.test_only:
        parser.error("--train-on-val trains, and --test-only does not: choose one")
    if args.train_on_val and args.teacher_logits:
        parser.error("--teacher-logits holds outputs for train/ alone, and --train-on-val has val/ too: use --teacher")


def check_with_torch(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Checks train.py's arguments where that takes torch: device, precision, and the trunk to cache."""
    from network.precision import resolve_amp

    device = checked_device(parser, args.device)
    args.device, args.amp = str(device), resolve_amp(args.amp, device)
    _check_inputs(parser, args)
    if args.cache_features and not args.test_only:
        _check_trunk(parser, args)


def checked_device(parser: argparse.ArgumentParser, name: str | None) -> "torch.device":
    """The device of --device; wrong usage where it is not available."""
    from network.precision import resolve_device

    try:
        return resolve_device(name)
    except ValueError as error:
        parser.error(str(error))


def _check_inputs(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Refuses to read from a file that the run would replace or remove."""
    from reporting.run_folder import is_own

    if args.test_only or args.sanity_overfit or args.cache_only:
        return
    inputs = {
        "--resume": args.resume if args.overwrite else None,
        "--weights": args.weights if args.weights and is_file_name(args.weights) else None,
        "--teacher-logits": args.teacher_logits,
        "--flip-map": args.flip_map,
    }
    for flag, path in inputs.items():
        if path and is_own(Path(path), args.output_dir):
            parser.error(f"{flag} {path} is a file that a run in --output-dir replaces: choose another --output-dir")


def _check_trunk(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    import torch

    from network.models import ModelError, build_model
    from network.trunk_and_head import trunk_blocks

    try:
        with torch.device("meta"):
            trunk_blocks(build_model(args.model, num_classes=1), args.trainable)
    except ModelError as error:
        parser.error(f"--cache-features: {error}")
