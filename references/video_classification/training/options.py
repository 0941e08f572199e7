"""The flags of `train.py`, some of which other scripts share. Imports no torch, so that `--help` is quick.

The tuples of choices are the keys of the dictionaries that the choices are looked up in; a test holds them equal.
"""

import argparse
import os
from pathlib import Path
from typing import Any

from clips.preprocessing import FRAME_SELECTIONS, Preprocessing
from runtime.arguments import non_negative_float, non_negative_int, positive_float, positive_int, seed, share
from runtime.worker_pool import default_workers

AUGMENTATIONS = ("none", "basic", "strong")
CACHE_FORMATS = ("raw", "jpeg")
FEATURE_TYPES = ("fp16", "bf16", "fp32")
MODELS = ("r2plus1d_18", "r2plus1d_34", "r3d_18", "mc3_18")  # torchvision's others train where their sizes fit
DEFAULT_TRAINABLE = ("layer4", "fc")
AMP_TYPES = ("off", "bf16", "fp16")
CHANNELS_LAST = ("auto", "on", "off")
OPTIMIZERS = ("sgd", "adamw")
DECAYS = ("cosine", "multistep")
WARMUPS = ("linear", "constant")
SPLITS = ("train", "val")
WEIGHTS_ENDINGS = (".pth", ".pt", ".ckpt", ".tar", ".bin", ".pyth", ".safetensors")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """All flags of train.py."""
    add_data_arguments(parser)
    add_selection_arguments(parser)
    add_model_arguments(parser)
    add_acceleration_arguments(parser)
    add_optimization_arguments(parser)
    add_recipe_arguments(parser)
    add_run_arguments(parser)


def default_values(model: str) -> dict[str, Any]:
    """The default of each flag of train.py for a model, by its name in the namespace of arguments."""
    parser = argparse.ArgumentParser(add_help=False)
    add_arguments(parser)
    values = argparse.Namespace(**{action.dest: action.default for action in parser._actions})
    usual, values.model = values.model, model
    fill_in_preprocessing(values)
    return {**vars(values), "model": usual}


def add_data_arguments(parser: argparse.ArgumentParser) -> None:
    """Where the videos are, which clips are made of them, and how they are read."""
    group = parser.add_argument_group("data")
    group.add_argument(
        "--data-path", required=True, type=Path, metavar="DIR", help="holds train/<class>/ and val/<class>/"
    )
    group.add_argument("--clip-len", default=16, type=positive_int, metavar="N", help="frames per clip (16)")
    group.add_argument(
        "--frame-rate", default=4, type=positive_float, metavar="FPS", help="frames per second of a clip (4)"
    )
    group.add_argument("--clips-per-video", default=1, type=positive_int, metavar="N", help="clips per video (1)")
    group.add_argument(
        "--augment",
        default="basic",
        choices=AUGMENTATIONS,
        help="augmentation of training clips; strong: random resized crops, RandAugment, color jitter, erasing (basic)",
    )
    group.add_argument(
        "--official-start-prob",
        default=0.5,
        type=share,
        metavar="P",
        help="probability that a training clip starts where the official one does (0.5)",
    )
    add_pixel_arguments(group)
    add_workers_argument(group, "processes that decode, or threads that read a cache (the cores, at most 16)")
    group.add_argument(
        "--cache-dataset", action="store_true", help="decode each video once and keep its frames on disk"
    )
    group.add_argument("--cache-only", action="store_true", help="build the cache of both splits, then stop")
    group.add_argument(
        "--cache-format",
        default="raw",
        choices=CACHE_FORMATS,
        help="raw: exact, 1.3 to 2.2 MB per video of 5 to 8 s; jpeg: quality 95, about a seventh of that (raw)",
    )
    group.add_argument(
        "--cache-frame-rate",
        type=positive_float,
        metavar="FPS",
        help="rate of the frames that selections other than official choose from, with and without a cache",
    )
    group.add_argument(
        "--cache-dir", type=Path, metavar="DIR", help="folder of the index and the cache (<data-path>/.clip_cache)"
    )
    add_skip_unreadable_argument(group)


def add_pixel_arguments(group: argparse._ArgumentGroup) -> None:
    """How frames are resized, cropped and normalized; `fill_in_preprocessing` gives what the model's weights expect."""
    for split, what in (("train", "training"), ("val", "validation")):
        group.add_argument(
            f"--{split}-resize-size",
            nargs="+",
            type=positive_int,
            metavar="N",
            help=f"size that {what} frames are resized to before the crop: height and width, or the shorter side (what "
            "the model's weights expect, 128 171 for most)",
        )
        group.add_argument(
            f"--{split}-crop-size",
            nargs=2,
            type=positive_int,
            metavar=("H", "W"),
            help=f"size of the crop in {what} (what the model's weights expect, 112 112 for most)",
        )
    for name, what, kind in (("mean", "mean", share), ("std", "standard deviation", positive_float)):
        group.add_argument(
            f"--{name}",
            nargs=3,
            type=kind,
            metavar=("R", "G", "B"),
            help=f"{what} of the channels of RGB in [0, 1], to normalize by (what the model's weights expect)",
        )


def fill_in_preprocessing(args: argparse.Namespace) -> None:
    """Sets the sizes, mean and std that were not given to what the published weights of --model expect."""
    usual = Preprocessing.of_model(args.model)
    for split in ("train", "val"):
        for name in ("resize_size", "crop_size"):
            given = getattr(args, f"{split}_{name}")
            setattr(args, f"{split}_{name}", getattr(usual, name) if given is None else tuple(given))
    args.mean = usual.mean if args.mean is None else tuple(args.mean)
    args.std = usual.std if args.std is None else tuple(args.std)


def add_selection_arguments(parser: argparse.ArgumentParser) -> None:
    """Which frames make a clip."""
    group = parser.add_argument_group("frame selection")
    group.add_argument("--frame-selection", default="official", choices=FRAME_SELECTIONS, help="in training (official)")
    group.add_argument(
        "--val-frame-selection",
        nargs="+",
        default=["official"],
        choices=FRAME_SELECTIONS,
        help="in validation; with --test-only several are compared, with official among them (official)",
    )


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """Which network, from which weights, on which device."""
    group = parser.add_argument_group("model")
    group.add_argument(
        "--model",
        default=MODELS[0],
        metavar="NAME",
        help=f"{', '.join(MODELS)}; torchvision's others train and predict, but cannot be exported",
    )
    group.add_argument(
        "--weights",
        metavar="NAME|FILE",
        help="torchvision's weights, such as KINETICS400_V1, or a file of weights or checkpoint to start from",
    )
    group.add_argument(
        "--trainable",
        nargs="+",
        default=list(DEFAULT_TRAINABLE),
        metavar="BLOCK",
        help="blocks to train, or all; the others are frozen (layer4 fc)",
    )
    add_device_argument(group)
    add_amp_argument(group)
    group.add_argument("--sync-bn", action="store_true", help="compute BatchNorm statistics over all processes")
    group.add_argument(
        "--use-deterministic-algorithms", action="store_true", help="slower, but every run gives the same result"
    )
    group.add_argument("--seed", default=0, type=seed, metavar="N", help="seed of everything random (0)")


def add_acceleration_arguments(parser: argparse.ArgumentParser) -> None:
    """What makes a run faster."""
    group = parser.add_argument_group("speed")
    group.add_argument(
        "--cache-features",
        nargs="?",
        const=1,
        type=positive_int,
        metavar="K",
        help="compute the frozen trunk once for K views of each training clip, then train the head on its features; "
        "view 1 is the official clip, the others are drawn as --augment says, and each epoch uses one (K = 1)",
    )
    group.add_argument("--feature-dtype", default="fp16", choices=FEATURE_TYPES, help="type of cached features (fp16)")
    group.add_argument(
        "--channels-last",
        default="auto",
        choices=CHANNELS_LAST,
        help="memory layout; auto times both on a GPU and keeps the faster (auto)",
    )
    group.add_argument(
        "--compile", action="store_true", help="torch.compile the network: takes minutes, then steps are faster"
    )


def add_optimization_arguments(parser: argparse.ArgumentParser) -> None:
    """How the network is trained."""
    group = parser.add_argument_group("optimization")
    add_batch_size_argument(group, 24, "clips per step and process (24)")
    group.add_argument(
        "--epochs", default=15, type=positive_int, metavar="N", help="passes over the training videos (15)"
    )
    group.add_argument(
        "--gradient-accumulation",
        default=1,
        type=positive_int,
        metavar="N",
        help="batches per step; like a batch of N times the size, except that BatchNorm sees each batch alone (1)",
    )
    group.add_argument(
        "--clip-grad-norm", type=positive_float, metavar="X", help="clip the norm of the gradients to this (never)"
    )
    group.add_argument("--opt", default="sgd", choices=OPTIMIZERS, help="optimizer (sgd)")
    group.add_argument("--lr", default=0.01, type=positive_float, metavar="RATE", help="peak learning rate (0.01)")
    group.add_argument(
        "--lr-head-mult",
        default=1.0,
        type=positive_float,
        metavar="X",
        help="the last layer's learning rate is this many times --lr (1)",
    )
    group.add_argument(
        "--momentum", default=0.9, type=share, metavar="M", help="momentum of sgd, first beta of adamw (0.9)"
    )
    group.add_argument(
        "--weight-decay",
        default=1e-4,
        type=non_negative_float,
        metavar="W",
        help="weight decay, of all but norms and biases (1e-4)",
    )
    group.add_argument("--label-smoothing", default=0.0, type=share, metavar="S", help="label smoothing (0)")
    add_schedule_arguments(group)


def add_schedule_arguments(group: argparse._ArgumentGroup) -> None:
    """How the learning rate changes."""
    group.add_argument("--lr-scheduler", default="cosine", choices=DECAYS, help="decay of the learning rate (cosine)")
    group.add_argument(
        "--lr-milestones",
        nargs="+",
        type=non_negative_float,
        metavar="EPOCH",
        help="epochs at which multistep decays (60 %% and 85 %% of --epochs)",
    )
    group.add_argument(
        "--lr-gamma", default=0.1, type=positive_float, metavar="G", help="factor at each milestone (0.1)"
    )
    group.add_argument(
        "--lr-warmup-epochs",
        default=1.0,
        type=non_negative_float,
        metavar="N",
        help="epochs of warmup, at most a third of the run (1)",
    )
    group.add_argument("--lr-warmup-method", default="linear", choices=WARMUPS, help="warmup method (linear)")
    group.add_argument(
        "--lr-warmup-decay", default=0.001, type=share, metavar="F", help="factor that warmup starts at (0.001)"
    )


def add_recipe_arguments(parser: argparse.ArgumentParser) -> None:
    """What training does beyond plain fine-tuning."""
    group = parser.add_argument_group("recipe")
    group.add_argument(
        "--flip-map",
        type=Path,
        metavar="FILE",
        help='JSON pairs {"left arm raise": "right arm raise"}: their clips are flipped too, and change class',
    )
    group.add_argument(
        "--mixup-alpha",
        default=0.0,
        type=non_negative_float,
        metavar="A",
        help="mixup: blend each clip with another, weighted by a draw from Beta(A, A) (0: never)",
    )
    group.add_argument(
        "--cutmix-alpha",
        default=0.0,
        type=non_negative_float,
        metavar="A",
        help="CutMix: paste a box of another clip, the same in all frames; with mixup, one of the two (0: never)",
    )
    group.add_argument(
        "--balanced-sampling", action="store_true", help="draw all classes equally often; an epoch is as long as before"
    )
    add_distillation_arguments(group)
    add_averaging_arguments(group)
    group.add_argument(
        "--train-on-val",
        action="store_true",
        help="a last run on everything: train on val/ too; the result is the last epoch, and nothing is chosen",
    )
    group.add_argument(
        "--early-stop", type=positive_int, metavar="N", help="stop after N epochs without improvement (never)"
    )
    group.add_argument(
        "--save-logits", type=Path, metavar="FILE", help="with --test-only: write the logits of every clip to a .npz"
    )
    group.add_argument(
        "--eval-split", default="val", choices=SPLITS, help="with --test-only: the split to validate on (val)"
    )
    add_class_map_argument(group, "with --test-only: ")


def add_distillation_arguments(group: argparse._ArgumentGroup) -> None:
    """How a teacher is imitated."""
    group.add_argument(
        "--teacher",
        nargs="+",
        type=Path,
        metavar="CHECKPOINT",
        help="distill teachers that see every clip as the student does, augmented and mixed; of several, their mean",
    )
    group.add_argument(
        "--teacher-logits",
        type=Path,
        metavar="FILE",
        help="distill a teacher: the file that its --save-logits wrote for the training videos",
    )
    group.add_argument(
        "--distill-alpha",
        default=0.5,
        type=share,
        metavar="A",
        help="weight of the teacher; the labels get 1 - A (0.5)",
    )
    group.add_argument(
        "--distill-temperature",
        default=2.0,
        type=positive_float,
        metavar="T",
        help="temperature that softens teacher and student (2)",
    )


def add_averaging_arguments(group: argparse._ArgumentGroup) -> None:
    """Which averages of weights and statistics are used."""
    group.add_argument(
        "--model-ema", action="store_true", help="keep an average of the weights, and use it where it validates better"
    )
    group.add_argument(
        "--model-ema-decay",
        default=0.999,
        type=share,
        metavar="D",
        help="decay of the average, lower in the first updates (0.999)",
    )
    group.add_argument(
        "--model-ema-steps", default=1, type=positive_int, metavar="N", help="steps between two updates (1)"
    )
    group.add_argument(
        "--bn-recalibrate",
        action="store_true",
        help="estimate the statistics of trained BatchNorms again before the last validation",
    )


def add_run_arguments(parser: argparse.ArgumentParser) -> None:
    """Where a run writes, what it continues, what it prints."""
    group = parser.add_argument_group("run")
    group.add_argument(
        "--output-dir", default=Path("."), type=Path, metavar="DIR", help="folder of checkpoints, log and report (.)"
    )
    group.add_argument(
        "--resume",
        metavar="FILE|auto",
        help="checkpoint to continue, or to validate with --test-only; auto: the newest valid one in --output-dir; "
        "that of another run begins a branch, in a folder of its own",
    )
    group.add_argument(
        "--start-epoch", type=non_negative_int, metavar="N", help="start at this epoch, whatever the checkpoint says"
    )
    group.add_argument(
        "--overwrite", action="store_true", help="start over in a folder that holds a run, whose files are removed"
    )
    group.add_argument(
        "--checkpoint-minutes",
        default=5.0,
        type=non_negative_float,
        metavar="M",
        help="minutes between checkpoints within an epoch; 0: only at its end (5)",
    )
    group.add_argument(
        "--keep-checkpoints",
        type=positive_int,
        metavar="K",
        help="epochs whose checkpoints are kept, besides the best and the newest (all)",
    )
    group.add_argument(
        "--plan",
        action="store_true",
        help="only say what the training will take: videos, space, time, and what would stop it; exit code 1 then",
    )
    group.add_argument("--test-only", action="store_true", help="only validate; overwrites nothing of a run")
    group.add_argument(
        "--sanity-overfit", action="store_true", help="only overfit one batch; exit code 1 if that fails"
    )
    group.add_argument(
        "--calibrate", action="store_true", help="fit a temperature on the validation videos; the checkpoint keeps it"
    )
    group.add_argument("--tensorboard", action="store_true", help="also write events to <output-dir>/tensorboard")
    group.add_argument(
        "--print-freq",
        type=positive_int,
        metavar="STEPS",
        help="where there is no terminal, print a line every so many steps (every half minute)",
    )


# What several scripts take.

Parser = argparse.ArgumentParser | argparse._ArgumentGroup


def add_device_argument(parser: Parser) -> None:
    """`--device`; `option_checks.checked_device` resolves it."""
    parser.add_argument("--device", metavar="DEVICE", help="cuda or cpu (cuda if available)")


def add_amp_argument(parser: Parser) -> None:
    """`--amp`; `precision.resolve_amp` resolves it."""
    parser.add_argument(
        "--amp",
        nargs="?",
        default="off",
        const="auto",
        choices=(*AMP_TYPES, "auto"),
        help="mixed precision (off; --amp alone: bf16 where the device has it, else fp16)",
    )


def add_batch_size_argument(parser: Parser, default: int, what: str) -> None:
    """`--batch-size`."""
    parser.add_argument("--batch-size", "-b", default=default, type=positive_int, metavar="N", help=what)


def add_workers_argument(parser: Parser, what: str = "processes that decode (the cores, at most 16)") -> None:
    """`--workers`."""
    parser.add_argument("--workers", "-j", default=default_workers(), type=non_negative_int, metavar="N", help=what)


def add_skip_unreadable_argument(parser: Parser) -> None:
    """`--skip-unreadable`."""
    parser.add_argument("--skip-unreadable", action="store_true", help="go on without files that cannot be read")


def add_class_map_argument(parser: Parser, when: str = "") -> None:
    """`--class-map`."""
    parser.add_argument(
        "--class-map",
        type=Path,
        metavar="FILE",
        help=f"{when}refuse a checkpoint whose order of classes is not that of this JSON file, index -> name or the "
        "reverse, such as the challenge's class_map.json",
    )


def is_file_name(weights: str) -> bool:
    """Whether --weights means a file rather than a name of torchvision's."""
    return Path(weights).exists() or os.sep in weights or weights.endswith(WEIGHTS_ENDINGS)


def default_milestones(epochs: int) -> list[float]:
    """The default of --lr-milestones, in epochs: 60 % and 85 % of the run."""
    return [0.6 * epochs, 0.85 * epochs]
