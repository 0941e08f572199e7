"""The arguments of the training recipe. A room of its own beside `options`, which the scripts share: these are the
training script's alone.
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
