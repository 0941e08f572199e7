"""The arguments of the training recipe, and which of them do not go together. A room of its own beside `options`, which
the scripts share: these are the training script's alone.
"""

import argparse
from pathlib import Path

from options import non_negative_float, positive_float, positive_int, share


def add_recipe_arguments(parser: argparse.ArgumentParser) -> None:
    """What training does beyond plain fine-tuning."""
    group = parser.add_argument_group("recipe")
    group.add_argument(
        *("--flip-map",),
        type=Path,
        metavar="FILE",
        help='JSON pairs {"left arm raise": "right arm raise"}: their clips are flipped too, into each other',
    )
    group.add_argument(
        *("--mixup-alpha",),
        default=0.0,
        type=non_negative_float,
        metavar="A",
        help="blend each clip with another, its share drawn from Beta(A, A) (0: not)",
    )
    group.add_argument(
        *("--cutmix-alpha",),
        default=0.0,
        type=non_negative_float,
        metavar="A",
        help="put a box of another clip into each, the same in all frames; with mixup, either by turns (0: not)",
    )
    group.add_argument(
        *("--teacher-logits",),
        type=Path,
        metavar="FILE",
        help="train towards a teacher's outputs too: a file of --save-logits, see the README",
    )
    group.add_argument(
        "--distill-alpha", default=0.5, type=share, metavar="A", help="the teacher's weight, the labels' is 1 - A (0.5)"
    )
    group.add_argument(
        *("--distill-temperature",),
        default=2.0,
        type=positive_float,
        metavar="T",
        help="softens teacher and student (2)",
    )
    group.add_argument(
        "--balanced-sampling", action="store_true", help="an epoch sees all classes equally often, and is as long"
    )
    group.add_argument(
        "--model-ema", action="store_true", help="average the weights too; what validates better is used"
    )
    group.add_argument(
        *("--model-ema-decay",),
        default=0.999,
        type=share,
        metavar="D",
        help="what an update keeps of the average; less in the first updates (0.999)",
    )
    group.add_argument(
        "--model-ema-steps", default=1, type=positive_int, metavar="N", help="steps between two updates (1)"
    )
    group.add_argument(
        *("--bn-recalibrate",),
        action="store_true",
        help="estimate the trained BatchNorms' statistics again before the last validation",
    )
    group.add_argument(
        "--early-stop", type=positive_int, metavar="N", help="stop after N epochs without a better one (never)"
    )
    group.add_argument(
        *("--save-logits",),
        type=Path,
        metavar="FILE",
        help="with --test-only: write the logits of every clip, as .npz",
    )
    group.add_argument(
        "--eval-split", default="val", choices=("train", "val"), help="with --test-only: which split (val)"
    )


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
    if args.bn_recalibrate and args.early_stop:
        parser.error("--bn-recalibrate acts in the last epoch, and --early-stop leaves open which that is: choose one")
    if args.flip_map is not None and args.augment == "none":
        parser.error("--flip-map flips clips, and --augment none flips none: use --augment basic or strong")
