"""What each part of the recipe is worth, on generated exercises: run by hand, it prints a table.

    python tests/compare_recipes.py --output-dir recipes
    python tests/compare_recipes.py --output-dir recipes --baseline "strong augmentation" \\
        --settings "fixed logits" "online teacher" "full fine-tuning" "deeper"

Pretrained weights cannot be had everywhere. So the network first learns other movements than those it is tried on,
in place of Kinetics; then every setting starts from those same weights, with few clips, on people and rooms that
validation does not share. Two pairs of the exercises mirror each other. Frames are small and clips short: each of the
two commands takes about half an hour on two cores. It shows what a setting does, not what it would score on real
videos. The teacher is the network of --teacher-model, fine-tuned as "full fine-tuning" is, with a seed of its own.

With --data-path and --weights (and --deeper-weights) the same settings are tried at full size on real videos, for which
a GPU is needed.
"""

import argparse
import contextlib
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import numpy as np
import torch
from scipy import stats

TOP = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(TOP), str(TOP / "references" / "video_classification")]

import train  # noqa: E402
from clips import presets  # noqa: E402
from evaluation.predictions import read_predictions  # noqa: E402
from refactor_dataset import DatasetRefactorer  # noqa: E402
from runtime.files import write_json  # noqa: E402
from synthetic.videos import generate_release  # noqa: E402
from training import engine  # noqa: E402

PRETRAINING = (
    *("arm raises", "biceps curls", "overhead presses", "squat jumps", "high knees", "lunges", "punches", "kicks"),
    *("torso twists", "left side bend", "right side bend"),
)
EXERCISES = (
    *("left arm raise", "right arm raise", "left leg raise", "right leg raise"),
    *("jumping jacks", "side lunges", "squats", "toe touches"),
)
PRETRAINING_VIDEOS, VIDEOS = {"train": 60, "val": 5}, {"train": 12, "val": 25}  # of each exercise
SMALL = "--clip-len 8 --batch-size 16"
RESIZE_SIZE, CROP_SIZE = ("32", "32"), ("28", "28")
PRETRAIN = "--trainable all --opt adamw --lr 2e-3 --weight-decay 0.05 --label-smoothing 0.1 --epochs 12"
SEEDS = (0, 1, 2)

CONSTANT_RATE = "--lr-scheduler multistep --lr-milestones 1000 --lr-warmup-epochs 0"
WHOLE = "--trainable all --lr 0.002 --lr-head-mult 5"
AUGMENTED, DISTILL = f"{WHOLE} --augment strong", "--distill-alpha 0.7"
PLAIN, DEEPER = "r2plus1d_18", "r2plus1d_34"
TEACHER_SEED = 100  # of no student
STRONG = f"{WHOLE} --augment strong --mixup-alpha 0.2 --cutmix-alpha 1 --label-smoothing 0.1 --model-ema"


@contextlib.contextmanager
def drifting_batch_norm() -> Iterator[None]:
    """As in the public sample solution: frozen layers' BatchNorm uses, and forgets by, the statistics of each batch."""
    with mock.patch.object(engine, "set_train_mode", lambda model, frozen: model.train()):
        yield


@contextlib.contextmanager
def unguarded_flips() -> Iterator[None]:
    """As there: a left arm is mirrored into a right one, and keeps its label."""
    with mock.patch.object(presets, "flippable", lambda classes: torch.ones(len(classes), dtype=torch.bool)):
        yield


class Setting(NamedTuple):
    """What a setting adds to the script's defaults, and which mistakes it makes."""

    flags: str = ""
    mistakes: tuple[Callable[[], contextlib.AbstractContextManager], ...] = ()
    model: str = PLAIN
    teacher: str | None = None  # "online", or "logits" for what it says of the official clips


SETTINGS = {
    "sample solution": Setting(CONSTANT_RATE, (drifting_batch_norm, unguarded_flips)),
    "frozen BatchNorm alone": Setting(CONSTANT_RATE, (unguarded_flips,)),
    "guarded flips alone": Setting(CONSTANT_RATE, (drifting_batch_norm,)),
    "cosine rate alone": Setting("", (drifting_batch_norm, unguarded_flips)),
    "all three (the defaults)": Setting(),
    "full fine-tuning": Setting(WHOLE),
    "strong": Setting(STRONG),
    "strong augmentation": Setting(AUGMENTED),
    "fixed logits": Setting(f"{AUGMENTED} {DISTILL}", teacher="logits"),
    "online teacher": Setting(f"{AUGMENTED} {DISTILL}", teacher="online"),
    "deeper": Setting(WHOLE, model=DEEPER),
}
BASELINE, DEFAULT_SETTINGS = "sample solution", list(SETTINGS)[:7]


def get_args_parser(add_help: bool = True) -> argparse.ArgumentParser:
    """The command line of this script."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, add_help=add_help
    )
    parser.add_argument("--output-dir", required=True, type=Path, metavar="DIR", help="keeps videos and runs")
    parser.add_argument("--epochs", default=12, type=int, metavar="N", help="of each setting (12)")
    parser.add_argument(
        "--settings",
        nargs="+",
        choices=SETTINGS,
        default=DEFAULT_SETTINGS,
        metavar="NAME",
        help=f"of {', '.join(SETTINGS)}",
    )
    parser.add_argument(
        "--baseline", choices=SETTINGS, default=BASELINE, metavar="NAME", help=f"what gains are over ({BASELINE})"
    )
    parser.add_argument("--teacher-model", default=PLAIN, choices=(PLAIN, DEEPER), help=f"({PLAIN})")
    parser.add_argument("--seeds", nargs="+", type=int, default=list(SEEDS), metavar="SEED", help="(0 1 2)")
    parser.add_argument("--data-path", type=Path, metavar="DIR", help="real videos, at full size (generated ones)")
    parser.add_argument("--weights", metavar="NAME|FILE", help="with --data-path: to start from")
    parser.add_argument("--deeper-weights", metavar="FILE", help=f"the same for {DEEPER}")
    parser.add_argument("--train-args", default="", metavar="ARGS", help="further arguments of train.py, in one word")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Runs the script: 0 when done, 1 where a run failed."""
    args = get_args_parser().parse_args(argv)
    start = time.monotonic()
    check_same_runs(args)
    names = list(dict.fromkeys([args.baseline, *args.settings]))
    teacher = args.teacher_model
    models = {model for name in names for model in (SETTINGS[name].model, teacher if SETTINGS[name].teacher else PLAIN)}
    if args.data_path is None:
        data, weights = generated_data(args.output_dir, sorted(models))
    else:
        data, weights = ["--data-path", str(args.data_path)], {PLAIN: args.weights, DEEPER: args.deeper_weights}
    data += ["--cache-dataset", "--epochs", str(args.epochs), *args.train_args.split()]
    common = {model: [*data, *_of_model(model, weights.get(model))] for model in models}
    right = {name: [] for name in names}
    for seed in args.seeds:
        for name in names:
            setting, folder = SETTINGS[name], args.output_dir / f"{name} {seed}".replace(" ", "_")
            taught = teacher_flags(setting.teacher, common[teacher], args.output_dir) if setting.teacher else []
            labels, row = run(name, [*common[setting.model], "--seed", str(seed)], taught, folder)
            right[name].append(row)
    print(table(labels, {name: np.array(rows) for name, rows in right.items()}))
    print(f"{len(labels)} validation videos, {len(args.seeds)} seeds, {(time.monotonic() - start) / 60:.0f} minutes")
    return 0


def check_same_runs(args: argparse.Namespace) -> None:
    """Ends the program where the folder holds runs of other arguments, which would be taken for runs of these."""
    names = ("epochs", "teacher_model", "data_path", "weights", "deeper_weights", "train_args")
    record, own = args.output_dir / "arguments.json", {name: str(getattr(args, name)) for name in names}
    if not record.exists():
        write_json(record, own)
    earlier = json.loads(record.read_text(encoding="utf-8"))
    other = [f"--{name.replace('_', '-')} {value}" for name, value in earlier.items() if own.get(name) != value]
    if other:
        sys.exit(f"error: {args.output_dir} holds runs with {', '.join(other)}: choose another --output-dir")


def _of_model(model: str, weights: str | None) -> list[str]:
    return ["--model", model, *(["--weights", weights] if weights else [])]


def generated_data(folder: Path, models: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """Makes the videos and trains the networks to start from.

    Returns:
        The arguments that all settings share, and the weights of each of `models`.
    """
    sizes = [f"--{split}-{what}-size" for what in ("resize", "crop") for split in ("train", "val")]
    small = SMALL.split()
    for flag, size in zip(sizes, (RESIZE_SIZE, RESIZE_SIZE, CROP_SIZE, CROP_SIZE), strict=True):
        small += [flag, *size]
    data = {}
    for name, exercises, videos in (("pretraining", PRETRAINING, PRETRAINING_VIDEOS), ("data", EXERCISES, VIDEOS)):
        data[name], release = folder / name, folder / f"{name}_release"
        labels = generate_release(release, exercises, videos, seed=len(name), furniture=False)
        DatasetRefactorer(sorted(release.glob("QEVD*")), data[name], labels).refactor_dataset()
    weights = {}
    for model in models:
        run_folder = folder / ("pretrained" if model == PLAIN else f"pretrained_{model}")
        pretrain = ["--data-path", str(data["pretraining"]), "--cache-dataset", *PRETRAIN.split(), *small]
        train_or_exit([*pretrain, "--model", model, *_into(run_folder)])
        weights[model] = str(run_folder / "checkpoint.pth")
    return ["--data-path", str(data["data"]), *small], weights


def teacher_flags(kind: str, common: list[str], folder: Path) -> list[str]:
    """Trains the teacher, once, and writes its logits of the training videos if `kind` is logits."""
    teacher, logits = folder / "teacher", folder / "teacher.npz"
    checkpoint = str(teacher / "checkpoint.pth")
    if not (teacher / "report.html").exists():  # which a run writes last
        train_or_exit([*common, *WHOLE.split(), "--seed", str(TEACHER_SEED), *_into(teacher)])
    if kind == "online":
        return ["--teacher", checkpoint]
    if not logits.exists():
        write = ["--test-only", "--resume", checkpoint, "--eval-split", "train", "--save-logits", str(logits)]
        train_or_exit([*common, *write, "--output-dir", str(teacher)])
    return ["--teacher-logits", str(logits)]


def _into(folder: Path) -> list[str]:
    return ["--output-dir", str(folder), "--resume", "auto", "--keep-checkpoints", "1", "--print-freq", "1000"]


def run(name: str, arguments: list[str], taught: list[str], folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Trains a setting and validates its last epoch: each video's label, and whether it was predicted right."""
    setting = SETTINGS[name]
    print(f"=== {name}: {' '.join([*arguments, *taught])} {setting.flags}", flush=True)
    with contextlib.ExitStack() as stack:
        for mistake in setting.mistakes:
            stack.enter_context(mistake())
        train_or_exit([*arguments, *setting.flags.split(), *taught, *_into(folder)])
    # The last epoch, not the best one: choosing by the videos that are scored would flatter what fluctuates.
    newest = str(folder / "checkpoint.pth")
    train_or_exit([*arguments, "--test-only", "--resume", newest, "--output-dir", str(folder)])
    predictions = [row for _, row in sorted(read_predictions(folder / "eval_checkpoint").items())]
    return np.array([row.label for row in predictions]), np.array([row.is_right for row in predictions])


def train_or_exit(arguments: list[str]) -> None:
    """Runs the training script here; ends the program with its exit code where it fails."""
    code = train.main(arguments)
    if code:
        sys.exit(code)


def table(labels: np.ndarray, right: dict[str, np.ndarray]) -> str:
    """A line a setting: accuracies over the seeds, in percent, and what it gains over the first.

    Args:
        labels: (videos,) class names.
        right: by setting, (seeds, videos) bool.

    The intervals of gains are paired: a video's gain is its mean over the seeds, and videos are the sample (Student's
    interval for one mean; Welch's for the gain of left/right classes minus that of the others).
    """
    is_sided = ~presets.flippable(list(labels)).numpy()
    baseline = next(iter(right.values()))
    lines = [f"{'setting':26} Acc@1 (deviation)  {'gain, 95 % interval':24} left/right  others  gain of l/r - others"]
    for name, rows in right.items():
        accuracies = 100 * rows.mean(1)
        deviation = accuracies.std(ddof=1) if len(rows) > 1 else float("nan")
        gains = 100 * (rows.mean(0) - baseline.mean(0))
        sided, others = (100 * rows[:, some].mean() if some.any() else float("nan") for some in (is_sided, ~is_sided))
        line = f"{name:26} {accuracies.mean():5.1f} ({deviation:4.1f})      "
        line += f"{_interval(gains):24} {sided:10.1f}  {others:6.1f}  "
        if is_sided.any() and not is_sided.all():
            line += _interval(gains[is_sided], gains[~is_sided])
        lines.append(line.rstrip())
    return "\n".join(lines)


def _interval(gains: np.ndarray, minus: np.ndarray | None = None) -> str:
    """Of the mean, or of the difference of two means."""
    value = gains.mean() - (0 if minus is None else minus.mean())
    if not gains.any() and (minus is None or not minus.any()):
        return "-"
    test = stats.ttest_1samp(gains, 0) if minus is None else stats.ttest_ind(gains, minus, equal_var=False)
    low, high = test.confidence_interval()
    return f"{value:+5.1f} ({low:+5.1f} .. {high:+5.1f})"


if __name__ == "__main__":
    sys.exit(main())
