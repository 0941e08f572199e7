"""The flags of `train.py`, some of which other scripts share. Imports no torch, so that `--help` is quick.

The tuples of choices are the keys of the dictionaries that the choices are looked up in; a test holds them equal.
"""

import argparse
import os
from pathlib import Path

from clips.preprocessing import FRAME_SELECTIONS, Preprocessing
from runtime.arguments import (
    Parser,
    add_choice,
    add_switch,
    add_value,
    non_negative_float,
    non_negative_int,
    positive_float,
    positive_int,
    seed,
    share,
)
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


def add_data_arguments(parser: argparse.ArgumentParser) -> None:
    """Where the videos are, which clips are made of them, and how they are read."""
    group = parser.add_argument_group("data")
    add_value(group, "--data-path", Path, "DIR", "holds train/<class>/ and val/<class>/", required=True)
    add_value(group, "--clip-len", positive_int, "N", "frames per clip", 16)
    add_value(group, "--frame-rate", positive_float, "FPS", "frames per second of a clip", 4)
    add_value(group, "--clips-per-video", positive_int, "N", "clips per video", 1)
    text = "augmentation of training clips; strong: random resized crops, RandAugment, color jitter, erasing"
    add_choice(group, "--augment", AUGMENTATIONS, "basic", text)
    text = "probability that a training clip starts where the official one does"
    add_value(group, "--official-start-prob", share, "P", text, 0.5)
    add_pixel_arguments(group)
    add_workers_argument(group, "processes that decode, or threads that read a cache (the cores, at most 16)")
    add_switch(group, "--cache-dataset", "decode each video once and keep its frames on disk")
    add_switch(group, "--cache-only", "build the cache of both splits, then stop")
    text = "raw: exact, 1.3 to 2.2 MB per video of 5 to 8 s; jpeg: quality 95, about a seventh of that"
    add_choice(group, "--cache-format", CACHE_FORMATS, "raw", text)
    text = "rate of the frames that selections other than official choose from, with and without a cache"
    add_value(group, "--cache-frame-rate", positive_float, "FPS", text)
    add_cache_dir_argument(group, "folder of the index and the cache")
    add_skip_unreadable_argument(group)


def add_pixel_arguments(group: Parser) -> None:
    """How frames are resized, cropped and normalized; `fill_in_preprocessing` gives what the model's weights expect."""
    expected = "what the model's weights expect"
    for split, what in (("train", "training"), ("val", "validation")):
        text = f"size that {what} frames are resized to before the crop: height and width, or the shorter side"
        add_value(
            group, f"--{split}-resize-size", positive_int, "N", f"{text} ({expected}, 128 171 for most)", nargs="+"
        )
        text = f"size of the crop in {what} ({expected}, 112 112 for most)"
        add_value(group, f"--{split}-crop-size", positive_int, ("H", "W"), text, nargs=2)
    for name, what, kind in (("mean", "mean", share), ("std", "standard deviation", positive_float)):
        text = f"{what} of the channels of RGB in [0, 1], to normalize by ({expected})"
        add_value(group, f"--{name}", kind, ("R", "G", "B"), text, nargs=3)


def fill_in_preprocessing(args: argparse.Namespace) -> None:
    """Sets the sizes, mean and std that were not given to what the published weights of --model expect."""
    usual = Preprocessing.of_model(args.model)
    sizes = [(f"{split}_{name}", name) for split in ("train", "val") for name in ("resize_size", "crop_size")]
    for name, field in [*sizes, ("mean", "mean"), ("std", "std")]:
        given = getattr(args, name)
        setattr(args, name, getattr(usual, field) if given is None else tuple(given))


def add_selection_arguments(parser: argparse.ArgumentParser) -> None:
    """Which frames make a clip."""
    group = parser.add_argument_group("frame selection")
    add_choice(group, "--frame-selection", FRAME_SELECTIONS, "official", "in training")
    text = "in validation; with --test-only several are compared, with official among them"
    add_choice(group, "--val-frame-selection", FRAME_SELECTIONS, ["official"], text, nargs="+")


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """Which network, from which weights, on which device."""
    group = parser.add_argument_group("model")
    text = f"{', '.join(MODELS)}; torchvision's others train and predict, but cannot be exported"
    group.add_argument("--model", default=MODELS[0], metavar="NAME", help=text)
    text = "torchvision's weights, such as KINETICS400_V1, or a file of weights or checkpoint to start from"
    add_value(group, "--weights", str, "NAME|FILE", text)
    text = "blocks to train, or all; the others are frozen"
    add_value(group, "--trainable", str, "BLOCK", text, list(DEFAULT_TRAINABLE), nargs="+")
    add_device_argument(group)
    add_amp_argument(group)
    add_switch(group, "--sync-bn", "compute BatchNorm statistics over all processes")
    add_switch(group, "--use-deterministic-algorithms", "slower, but every run gives the same result")
    add_value(group, "--seed", seed, "N", "seed of everything random", 0)


def add_acceleration_arguments(parser: argparse.ArgumentParser) -> None:
    """What makes a run faster."""
    group = parser.add_argument_group("speed")
    text = (
        "compute the frozen trunk once for K views of each training clip, then train the head on its features; "
        "view 1 is the official clip, the others are drawn as --augment says, and each epoch uses one (K = 1)"
    )
    add_value(group, "--cache-features", positive_int, "K", text, nargs="?", const=1)
    add_choice(group, "--feature-dtype", FEATURE_TYPES, "fp16", "type of cached features")
    text = "memory layout; auto times both on a GPU and keeps the faster (not with --use-deterministic-algorithms)"
    add_choice(group, "--channels-last", CHANNELS_LAST, "auto", text)
    add_switch(group, "--compile", "torch.compile the network: takes minutes, then steps are faster")


def add_optimization_arguments(parser: argparse.ArgumentParser) -> None:
    """How the network is trained."""
    group = parser.add_argument_group("optimization")
    add_batch_size_argument(group, 24, "clips per step and process")
    add_value(group, "--epochs", positive_int, "N", "passes over the training videos", 15)
    text = "batches per step; like a batch of N times the size, except that BatchNorm sees each batch alone"
    add_value(group, "--gradient-accumulation", positive_int, "N", text, 1)
    add_value(group, "--clip-grad-norm", positive_float, "X", "clip the norm of the gradients to this (never)")
    add_choice(group, "--opt", OPTIMIZERS, "sgd", "optimizer")
    add_value(group, "--lr", positive_float, "RATE", "peak learning rate", 0.01)
    add_value(
        group, "--lr-head-mult", positive_float, "X", "the last layer's learning rate is this many times --lr", 1.0
    )
    add_value(group, "--momentum", share, "M", "momentum of sgd, first beta of adamw", 0.9)
    add_value(group, "--weight-decay", non_negative_float, "W", "weight decay, of all but norms and biases", 1e-4)
    add_value(group, "--label-smoothing", share, "S", "label smoothing", 0.0)
    add_choice(group, "--lr-scheduler", DECAYS, "cosine", "decay of the learning rate")
    text = "epochs at which multistep decays (60 %% and 85 %% of --epochs)"
    add_value(group, "--lr-milestones", non_negative_float, "EPOCH", text, nargs="+")
    add_value(group, "--lr-gamma", positive_float, "G", "factor at each milestone", 0.1)
    add_value(group, "--lr-warmup-epochs", non_negative_float, "N", "epochs of warmup, at most a third of the run", 1.0)
    add_choice(group, "--lr-warmup-method", WARMUPS, "linear", "warmup method")
    add_value(group, "--lr-warmup-decay", share, "F", "factor that warmup starts at", 0.001)


def add_recipe_arguments(parser: argparse.ArgumentParser) -> None:
    """What training does beyond plain fine-tuning."""
    group = parser.add_argument_group("recipe")
    text = 'JSON pairs {"left arm raise": "right arm raise"}: their clips are flipped too, and change class'
    add_value(group, "--flip-map", Path, "FILE", text)
    text = "mixup: blend each clip with another, weighted by a draw from Beta(A, A) (0: never)"
    group.add_argument("--mixup-alpha", default=0.0, type=non_negative_float, metavar="A", help=text)
    text = "CutMix: paste a box of another clip, the same in all frames; with mixup, one of the two (0: never)"
    group.add_argument("--cutmix-alpha", default=0.0, type=non_negative_float, metavar="A", help=text)
    add_switch(group, "--balanced-sampling", "draw all classes equally often; an epoch is as long as before")
    add_distillation_arguments(group)
    add_averaging_arguments(group)
    text = "a last run on everything: train on val/ too; the result is the last epoch, and nothing is chosen"
    add_switch(group, "--train-on-val", text)
    add_value(group, "--early-stop", positive_int, "N", "stop after N epochs without improvement (never)")
    add_value(group, "--save-logits", Path, "FILE", "with --test-only: write the logits of every clip to a .npz")
    add_choice(group, "--eval-split", SPLITS, "val", "with --test-only: the split to validate on")
    add_class_map_argument(group, "with --test-only: ")


def add_distillation_arguments(group: Parser) -> None:
    """How a teacher is imitated."""
    text = "distill teachers that see every clip as the student does, augmented and mixed; of several, their mean"
    add_value(group, "--teacher", Path, "CHECKPOINT", text, nargs="+")
    text = "distill a teacher: the file that its --save-logits wrote for the training videos"
    add_value(group, "--teacher-logits", Path, "FILE", text)
    add_value(group, "--distill-alpha", share, "A", "weight of the teacher; the labels get 1 - A", 0.5)
    text = "temperature that softens teacher and student"
    add_value(group, "--distill-temperature", positive_float, "T", text, 2.0)


def add_averaging_arguments(group: Parser) -> None:
    """Which averages of weights and statistics are used."""
    add_switch(group, "--model-ema", "keep an average of the weights, and use it where it validates better")
    add_value(group, "--model-ema-decay", share, "D", "decay of the average, lower in the first updates", 0.999)
    add_value(group, "--model-ema-steps", positive_int, "N", "steps between two updates", 1)
    text = "estimate the statistics of trained BatchNorms again before the last validation"
    add_switch(group, "--bn-recalibrate", text)


def add_run_arguments(parser: argparse.ArgumentParser) -> None:
    """Where a run writes, what it continues, what it prints."""
    group = parser.add_argument_group("run")
    add_value(group, "--output-dir", Path, "DIR", "folder of checkpoints, log and report", Path("."))
    text = (
        "checkpoint to continue, or to validate with --test-only; auto: the newest valid one in --output-dir; "
        "that of another run begins a branch, in a folder of its own"
    )
    add_value(group, "--resume", str, "FILE|auto", text)
    add_value(group, "--start-epoch", non_negative_int, "N", "start at this epoch, whatever the checkpoint says")
    add_switch(group, "--overwrite", "start over in a folder that holds a run, whose files are removed")
    text = "minutes between checkpoints within an epoch; 0: only at its end"
    add_value(group, "--checkpoint-minutes", non_negative_float, "M", text, 5.0)
    text = "epochs whose checkpoints are kept, besides the best and the newest (all)"
    add_value(group, "--keep-checkpoints", positive_int, "K", text)
    text = "only say what the training will take: videos, space, time, and what would stop it; exit code 1 then"
    add_switch(group, "--plan", text)
    add_switch(group, "--test-only", "only validate; overwrites nothing of a run")
    add_switch(group, "--sanity-overfit", "only overfit one batch; exit code 1 if that fails")
    add_switch(group, "--calibrate", "fit a temperature on the validation videos; the checkpoint keeps it")
    add_switch(group, "--tensorboard", "also write events to <output-dir>/tensorboard")
    text = "where there is no terminal, print a line every so many steps (every half minute)"
    add_value(group, "--print-freq", positive_int, "STEPS", text)


# What several scripts take.


def add_checkpoint_arguments(parser: Parser) -> None:
    """CHECKPOINT and `--classes-file`, for `load_trained_model`."""
    parser.add_argument(
        "checkpoint", metavar="CHECKPOINT", help="written by train.py, or by the public sample solution"
    )
    add_value(parser, "--classes-file", Path, "FILE", "class names, one a line, for a checkpoint without them")


def add_cache_dir_argument(parser: Parser, what: str = "folder of the index") -> None:
    """`--cache-dir`."""
    add_value(parser, "--cache-dir", Path, "DIR", f"{what} (<data-path>/.clip_cache)")


def add_device_argument(parser: Parser) -> None:
    """`--device`; `option_checks.checked_device` resolves it."""
    parser.add_argument("--device", metavar="DEVICE", help="cuda or cpu (cuda if available)")


def add_amp_argument(parser: Parser) -> None:
    """`--amp`; `precision.resolve_amp` resolves it."""
    text = "mixed precision (off; --amp alone: bf16 where the device has it, else fp16)"
    parser.add_argument("--amp", nargs="?", default="off", const="auto", choices=(*AMP_TYPES, "auto"), help=text)


def add_batch_size_argument(parser: Parser, default: int, what: str) -> None:
    """`--batch-size`."""
    text = f"{what} ({default})"
    parser.add_argument("--batch-size", "-b", default=default, type=positive_int, metavar="N", help=text)


def add_workers_argument(parser: Parser, what: str = "processes that decode (the cores, at most 16)") -> None:
    """`--workers`."""
    parser.add_argument("--workers", "-j", default=default_workers(), type=non_negative_int, metavar="N", help=what)


def add_skip_unreadable_argument(parser: Parser) -> None:
    """`--skip-unreadable`."""
    add_switch(parser, "--skip-unreadable", "go on without files that cannot be read")


def add_class_map_argument(parser: Parser, when: str = "") -> None:
    """`--class-map`."""
    text = (
        f"{when}refuse a checkpoint whose order of classes is not that of this JSON file, index -> name or the "
        "reverse, such as the challenge's class_map.json"
    )
    add_value(parser, "--class-map", Path, "FILE", text)


def is_file_name(weights: str) -> bool:
    """Whether --weights means a file rather than a name of torchvision's."""
    return os.path.exists(weights) or os.sep in weights or weights.endswith(WEIGHTS_ENDINGS)


def default_milestones(epochs: int) -> list[float]:
    """The default of --lr-milestones, in epochs: 60 % and 85 % of the run."""
    return [0.6 * epochs, 0.85 * epochs]
