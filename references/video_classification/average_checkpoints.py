"""Averages the weights of several checkpoints of one training recipe (model soup, arXiv 2203.05482) into one."""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from caching.splits import ClipOptions, Clips, open_clips
from evaluation.evaluate import evaluate
from evaluation.metrics import VideoResults
from network.checkpoint import Checkpoint, CheckpointError
from network.models import load_state
from network.precision import Precision
from network.trained_model import load_trained_model
from runtime import arguments
from runtime.errors import UserError
from training import options
from videos.folder import VideoFolder

Weights = dict[str, Tensor]


def get_args_parser(add_help: bool = True) -> argparse.ArgumentParser:
    """The command line of this script."""
    parser = argparse.ArgumentParser(description=__doc__, add_help=add_help, allow_abbrev=False)
    parser.add_argument("checkpoints", nargs="+", type=Path, metavar="FILE.pth", help="two or more")
    parser.add_argument("--output", required=True, type=Path, metavar="FILE.pth", help="the average")
    parser.add_argument(
        "--greedy",
        action="store_true",
        help="begin with the best by validation, add each further one only if the average is then no worse",
    )
    parser.add_argument("--data-path", type=Path, metavar="DIR", help="with --greedy: holds val/<class>/")
    parser.add_argument(
        "--cache-dir", type=Path, metavar="DIR", help="where the index is kept (<data-path>/.clip_cache)"
    )
    parser.add_argument("--batch-size", "-b", default=24, type=arguments.positive_int, metavar="N", help="clips (24)")
    parser.add_argument(
        "--workers",
        "-j",
        default=options.default_workers(),
        type=arguments.non_negative_int,
        metavar="N",
        help="processes that decode (the cores, at most 16)",
    )
    parser.add_argument("--skip-unreadable", action="store_true", help="go on without files that cannot be read")
    parser.add_argument("--device", metavar="DEVICE", help="cuda or cpu (cuda where there is one)")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Runs the script: 0 when done, 1 when the checkpoints do not go together, 2 on wrong usage."""
    parser = get_args_parser()
    args = parser.parse_args(argv)
    if len(args.checkpoints) < 2:
        parser.error("give two checkpoints or more")
    if args.greedy and args.data_path is None:
        parser.error("--greedy validates: add --data-path")
    check_paths(parser, args.checkpoints, args.output)
    try:
        device = options.resolve_device(args.device)
    except ValueError as error:
        parser.error(str(error))
    try:
        run(args, device)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def run(args: argparse.Namespace, device: torch.device) -> None:
    """Reads, chooses, averages, writes."""
    checkpoints = [Checkpoint.read(path) for path in args.checkpoints]
    check_alike(args.checkpoints, checkpoints)
    chosen = list(range(len(checkpoints)))
    if args.greedy:
        trained = load_trained_model(args.checkpoints[0])
        clip_options = ClipOptions(
            trained.preprocessing,
            cache_dir=args.cache_dir or args.data_path / ".clip_cache",
            batch_size=args.batch_size,
            num_workers=args.workers,
            skip_unreadable=args.skip_unreadable,
            pin_memory=device.type == "cuda",
        )
        clips = open_clips(VideoFolder(args.data_path / "val", trained.classes), clip_options)
        validate = validation_on(clips, trained.network, device)
        chosen = choose_greedily(args.checkpoints, [checkpoint.model for checkpoint in checkpoints], validate)
    names = [str(args.checkpoints[number]) for number in chosen]
    averaged([checkpoints[number] for number in chosen], names).write(args.output)
    print(f"The average of {', '.join(names)}: {args.output}")


def check_paths(parser: argparse.ArgumentParser, checkpoints: Sequence[Path], output: Path) -> None:
    """Refuses what would count a checkpoint twice, or be written over one."""
    if output.is_dir():
        parser.error(f"--output {output} is a folder: give the name of a file")
    seen: dict[Any, Path] = {}
    for path in checkpoints:
        other = seen.setdefault(file_identity(path), path)
        if other is not path:
            parser.error(f"{other} and {path} are the same file, which would count twice: give it once")
    if file_identity(output) in seen:
        parser.error(f"--output {output} is one of the checkpoints and would replace it: give another name")


def file_identity(path: Path) -> Any:
    """The same for all names of a file: train.py gives an epoch's checkpoint several, as hard links."""
    try:
        status = path.stat()
    except OSError:  # none yet
        return path.resolve()
    return status.st_dev, status.st_ino


def check_alike(paths: Sequence[Path], checkpoints: Sequence[Checkpoint]) -> None:
    """Raises CheckpointError unless all are of one network, with the same classes and preprocessing."""
    first = checkpoints[0]
    for path, checkpoint in zip(paths, checkpoints, strict=True):
        if checkpoint.is_legacy:
            raise CheckpointError(f"{path} has no class names: only checkpoints of train.py are averaged")
        for name in ("classes", "preprocessing"):
            if getattr(checkpoint, name) != getattr(first, name):
                raise CheckpointError(f"{path} and {paths[0]} differ in their {name}: an average would be neither")
        shapes = {name: value.shape for name, value in checkpoint.model.items()}
        if shapes != {name: value.shape for name, value in first.model.items()}:
            raise CheckpointError(f"{path} and {paths[0]} are different networks")


def average(states: Sequence[Weights]) -> dict[str, Tensor]:
    """The mean of each weight, summed up in float64; of counts, which are whole numbers, the first."""
    return {
        name: torch.stack([state[name].double() for state in states]).mean(0).to(value.dtype)
        if value.is_floating_point()
        else value
        for name, value in states[0].items()
    }


def choose_greedily(
    paths: Sequence[Path], states: Sequence[Weights], validate: Callable[[Weights], VideoResults]
) -> list[int]:
    """Which checkpoints make the greedy soup: numbers, the best first.

    Args:
        paths: of the checkpoints.
        states: their weights.
        validate: scores weights.
    """
    accuracy = [validate(state).video.top1 for state in states]
    for path, value in zip(paths, accuracy, strict=True):
        print(f"{path}: video Acc@1 {value:.3f}", flush=True)
    ranked = sorted(range(len(states)), key=lambda number: -accuracy[number])
    chosen, best = ranked[:1], accuracy[ranked[0]]
    for number in ranked[1:]:
        trial = [*chosen, number]
        value = validate(average([states[member] for member in trial])).video.top1
        print(f"with {paths[number]}: video Acc@1 {value:.3f}, {'kept' if value >= best else 'left out'}", flush=True)
        if value >= best:
            chosen, best = trial, value
    return chosen


def validation_on(clips: Clips, network: nn.Module, device: torch.device) -> Callable[[Weights], VideoResults]:
    """What scores weights of `network` on the clips."""
    network = network.to(device)
    num_classes = len(clips.loader.dataset.folder.classes)

    def validate(state: Weights) -> VideoResults:
        load_state(network, state, keep_head=True)
        return evaluate(
            network,
            nn.CrossEntropyLoss(reduction="none"),
            clips.loader,
            clips.videos,
            num_classes=num_classes,
            precision=Precision.of("off", device),
            print_freq=100,
        )

    return validate


def averaged(checkpoints: Sequence[Checkpoint], names: Sequence[str]) -> Checkpoint:
    """The average, to validate, predict with, export, or fine-tune; what belongs to one training alone is left out."""
    first = checkpoints[0]
    return Checkpoint(
        average([checkpoint.model for checkpoint in checkpoints]),
        first.classes,
        first.preprocessing,
        first.args,
        first.layout,
        averaged_from=list(names),
    )


if __name__ == "__main__":
    sys.exit(main())
