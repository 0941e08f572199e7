"""The flags of `train.py`, in groups that other scripts share."""

import argparse
import warnings
from pathlib import Path

import torch

from caching.clip_cache import CACHE_FORMATS
from caching.feature_cache import FEATURE_TYPES
from clips.presets import AUGMENTATIONS
from network.acceleration import CHANNELS_LAST
from network.models import DEFAULT_TRAINABLE, MODELS
from network.precision import AMP_TYPES
from runtime.arguments import non_negative_float, non_negative_int, positive_float, positive_int, seed, share
from runtime.worker_pool import default_workers
from training.optimization import DECAYS, OPTIMIZERS, WARMUPS
from videos.frame_selection import FRAME_SELECTORS


def add_data_arguments(parser: argparse.ArgumentParser) -> None:
    """Where the videos are, what clips are made of them, and how they are read."""
    group = parser.add_argument_group("data")
    group.add_argument(
        "--data-path", required=True, type=Path, metavar="DIR", help="holds train/<class>/ and val/<class>/"
    )
    group.add_argument("--clip-len", default=16, type=positive_int, metavar="N", help="frames a clip (16)")
    group.add_argument(
        "--frame-rate", default=4, type=positive_float, metavar="FPS", help="frames a second of a clip (4)"
    )
    group.add_argument("--clips-per-video", default=1, type=positive_int, metavar="N", help="clips a video (1)")
    group.add_argument(
        "--augment",
        default="basic",
        choices=AUGMENTATIONS,
        help="of training clips; strong: crops of many sizes, RandAugment, colours, erased boxes (basic)",
    )
    group.add_argument(
        *("--official-start-prob",),
        default=0.5,
        type=share,
        metavar="P",
        help="how often a training clip starts where the official one does (0.5)",
    )
    for name, default, what in (
        ("--train-resize-size", (128, 171), "frames are resized to this before the crop, in training"),
        ("--train-crop-size", (112, 112), "clips are cropped to this, in training"),
        ("--val-resize-size", (128, 171), "the same, in validation"),
        ("--val-crop-size", (112, 112), "the same, in validation"),
    ):
        shown = " ".join(map(str, default))
        group.add_argument(
            name, default=default, nargs=2, type=positive_int, metavar=("H", "W"), help=f"{what} ({shown})"
        )
    group.add_argument(
        *("--workers", "-j"),
        default=default_workers(),
        type=non_negative_int,
        metavar="N",
        help="processes that decode, or threads that read a cache (the cores, at most 16)",
    )
    group.add_argument(
        "--cache-dataset", action="store_true", help="decode each video once and keep its frames on disk"
    )
    group.add_argument("--cache-only", action="store_true", help="build the cache of both splits, and stop")
    group.add_argument(
        *("--cache-format",),
        default="raw",
        choices=CACHE_FORMATS,
        help="raw: exact, 1.3 to 2.2 MB a video of 5 to 8 s; jpeg: quality 95, about a seventh of that (raw)",
    )
    group.add_argument(
        *("--cache-frame-rate",),
        type=positive_float,
        metavar="FPS",
        help="frames a second that selectors other than official choose from, with a cache and without",
    )
    group.add_argument(
        "--cache-dir", type=Path, metavar="DIR", help="where index and cache are kept (<data-path>/.clip_cache)"
    )
    group.add_argument("--skip-unreadable", action="store_true", help="go on without files that cannot be read")


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """Which network, from which weights, on which device."""
    group = parser.add_argument_group("model")
    group.add_argument(
        "--model", default="r2plus1d_18", metavar="NAME", help=f"{', '.join(MODELS)} or another of torchvision's"
    )
    group.add_argument(
        "--weights",
        metavar="NAME|FILE",
        help="torchvision's weights, such as KINETICS400_V1, or a checkpoint to start from",
    )
    group.add_argument(
        *("--trainable",),
        nargs="+",
        default=list(DEFAULT_TRAINABLE),
        metavar="BLOCK",
        help="blocks to train, or all; the others are frozen (layer4 fc)",
    )
    group.add_argument("--device", metavar="DEVICE", help="cuda or cpu (cuda where there is one)")
    group.add_argument(
        *("--amp",),
        nargs="?",
        default="off",
        const="auto",
        choices=(*AMP_TYPES, "auto"),
        help="mixed precision (off; --amp alone: bf16 where the device has it, else fp16)",
    )
    group.add_argument("--sync-bn", action="store_true", help="BatchNorm statistics over all processes")
    group.add_argument("--use-deterministic-algorithms", action="store_true", help="slower, the same on every run")
    group.add_argument("--seed", default=0, type=seed, metavar="N", help="of everything random (0)")


def add_acceleration_arguments(parser: argparse.ArgumentParser) -> None:
    """What makes a run faster."""
    group = parser.add_argument_group("speed")
    group.add_argument(
        *("--cache-features",),
        nargs="?",
        const=1,
        type=positive_int,
        metavar="K",
        help="compute the frozen trunk once, for K views of each training clip, and train the head on its features: "
        "the official clip, and K - 1 that are drawn as --augment says, one of them an epoch (K = 1)",
    )
    group.add_argument(
        "--feature-dtype", default="fp16", choices=FEATURE_TYPES, help="in which features are kept (fp16)"
    )
    group.add_argument(
        *("--channels-last",),
        default="auto",
        choices=CHANNELS_LAST,
        help="memory layout; auto tries both on a GPU and keeps the faster (auto)",
    )
    group.add_argument("--compile", action="store_true", help="torch.compile the network: minutes first, faster after")


def add_optimization_arguments(parser: argparse.ArgumentParser) -> None:
    """How the network is trained."""
    group = parser.add_argument_group("optimisation")
    group.add_argument(
        "--batch-size", "-b", default=24, type=positive_int, metavar="N", help="clips a step and process (24)"
    )
    group.add_argument(
        "--epochs", default=15, type=positive_int, metavar="N", help="passes over the training videos (15)"
    )
    group.add_argument(
        *("--gradient-accumulation",),
        default=1,
        type=positive_int,
        metavar="N",
        help="batches a step; as one of N times the size but for BatchNorm, which sees each alone (1)",
    )
    group.add_argument(
        "--clip-grad-norm", type=positive_float, metavar="X", help="shorten longer gradients to this norm (never)"
    )
    group.add_argument("--opt", default="sgd", choices=OPTIMIZERS, help="optimiser (sgd)")
    group.add_argument("--lr", default=0.01, type=positive_float, metavar="RATE", help="highest learning rate (0.01)")
    group.add_argument(
        *("--lr-head-mult",),
        default=1.0,
        type=positive_float,
        metavar="X",
        help="the last layer's rate is this many times --lr (1)",
    )
    group.add_argument("--momentum", default=0.9, type=share, metavar="M", help="of sgd; adamw's first beta (0.9)")
    group.add_argument(
        "--weight-decay", default=1e-4, type=non_negative_float, metavar="W", help="not on norms, biases (1e-4)"
    )
    group.add_argument("--label-smoothing", default=0.0, type=share, metavar="S", help="(0)")
    group.add_argument("--lr-scheduler", default="cosine", choices=DECAYS, help="how the rate falls (cosine)")
    group.add_argument(
        "--lr-milestones",
        nargs="+",
        type=non_negative_float,
        metavar="EPOCH",
        help="of multistep (60 %% and 85 %% of --epochs)",
    )
    group.add_argument(
        "--lr-gamma", default=0.1, type=positive_float, metavar="G", help="factor at each milestone (0.1)"
    )
    group.add_argument(
        "--lr-warmup-epochs", default=1.0, type=non_negative_float, metavar="N", help="cut to a third of the run (1)"
    )
    group.add_argument("--lr-warmup-method", default="linear", choices=WARMUPS, help="(linear)")
    group.add_argument(
        "--lr-warmup-decay", default=0.001, type=share, metavar="F", help="factor that it starts at (0.001)"
    )


def add_run_arguments(parser: argparse.ArgumentParser) -> None:
    """Where a run writes, what it continues, what it shows."""
    group = parser.add_argument_group("run")
    group.add_argument(
        "--output-dir", default=Path("."), type=Path, metavar="DIR", help="checkpoints, log and args (.)"
    )
    group.add_argument(
        *("--resume",),
        metavar="FILE|auto",
        help="checkpoint to continue, or to validate with --test-only; auto: the newest valid one of --output-dir",
    )
    group.add_argument(
        "--start-epoch", type=non_negative_int, metavar="N", help="begin here, whatever the checkpoint says"
    )
    group.add_argument("--overwrite", action="store_true", help="start anew in a folder that holds a run's checkpoints")
    group.add_argument(
        *("--checkpoint-minutes",),
        default=5.0,
        type=non_negative_float,
        metavar="M",
        help="save this often within an epoch; 0: at its end only (5)",
    )
    group.add_argument(
        "--keep-checkpoints", type=positive_int, metavar="K", help="epochs kept, besides the best and the newest (all)"
    )
    group.add_argument("--test-only", action="store_true", help="validate only; writes nothing over a run's files")
    group.add_argument(
        "--sanity-overfit", action="store_true", help="only learn one batch by heart; exit code 1 where that fails"
    )
    group.add_argument(
        "--calibrate", action="store_true", help="fit a temperature on the validation videos, kept in the checkpoint"
    )
    group.add_argument("--tensorboard", action="store_true", help="write events to <output-dir>/tensorboard too")
    group.add_argument(
        "--print-freq", default=10, type=positive_int, metavar="STEPS", help="steps between two lines (10)"
    )


def add_selection_arguments(parser: argparse.ArgumentParser) -> None:
    """Which frames make a clip."""
    group = parser.add_argument_group("frame selection")
    group.add_argument("--frame-selection", default="official", choices=FRAME_SELECTORS, help="in training (official)")
    group.add_argument(
        *("--val-frame-selection",),
        nargs="+",
        default=["official"],
        choices=FRAME_SELECTORS,
        help="in validation; several are compared with --test-only, official too (official)",
    )


def resolve_device(name: str | None) -> torch.device:
    """The device asked for, or the best there is. Raises ValueError where it is not to be had."""
    if name is None:
        name = "cuda" if _cuda_is_available() else "cpu"
    try:
        device = torch.device(name)
        if device.type != "cuda":  # a GPU is not touched here, where a process does not know yet which is its own
            torch.zeros(1, device=device).item()
    except Exception as error:  # each kind of device has its own way of not being there
        raise ValueError(f"--device {name}: torch has no such device here; use cuda or cpu") from error
    if device.type == "cuda" and not _cuda_is_available():
        raise ValueError(
            f"--device {name}: torch sees no GPU; check nvidia-smi and the torch build, or use --device cpu"
        )
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"--device {name}: torch sees {torch.cuda.device_count()} GPUs, numbered from 0")
    return device


def resolve_amp(name: str, device: torch.device) -> str:
    """`auto` becomes bf16 where the device has it, else fp16."""
    if name != "auto":
        return name
    has_bf16 = device.type != "cuda" or torch.cuda.is_bf16_supported(including_emulation=False)
    return "bf16" if has_bf16 else "fp16"


def _cuda_is_available() -> bool:
    with warnings.catch_warnings():  # a CUDA build without a driver warns; the answer is all we want
        warnings.simplefilter("ignore")
        return torch.cuda.is_available()


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
