"""Averages the weights of several checkpoints of one training recipe (model soup, arXiv 2203.05482) into one."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runtime.arguments import add_switch, add_value, check_folders, check_inputs, check_outputs
from runtime.files import check_writable, file_identity
from runtime.script import run_script
from training import options
from training.option_checks import checked_device

if TYPE_CHECKING:
    import torch


def get_args_parser(add_help: bool = True) -> argparse.ArgumentParser:
    """The command line of this script."""
    parser = argparse.ArgumentParser(description=__doc__, add_help=add_help, allow_abbrev=False)
    parser.add_argument("checkpoints", nargs="+", type=Path, metavar="FILE.pth", help="two or more")
    parser.add_argument("--output", required=True, type=Path, metavar="FILE.pth", help="the average")
    text = "start with the best in validation, and add each other one only if the average does not get worse"
    add_switch(parser, "--greedy", text)
    add_value(parser, "--data-path", Path, "DIR", "with --greedy: holds val/<class>/")
    options.add_cache_dir_argument(parser)
    options.add_batch_size_argument(parser, 24, "clips per batch")
    options.add_workers_argument(parser)
    options.add_skip_unreadable_argument(parser)
    options.add_device_argument(parser)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Runs the script: 0 when done, 1 when the checkpoints do not go together, 2 on wrong usage."""
    parser = get_args_parser()
    args = parser.parse_args(argv)
    if len(args.checkpoints) < 2:
        parser.error("give two checkpoints or more")
    if args.greedy and args.data_path is None:
        parser.error("--greedy validates: add --data-path")
    check_folders(parser, [("--data-path", args.data_path)], must_exist=True)
    check_folders(parser, [("--cache-dir", args.cache_dir)])
    seen: dict[Any, Path] = {}
    for path in args.checkpoints:
        if (other := seen.setdefault(file_identity(path), path)) is not path:
            parser.error(f"{other} and {path} are the same file, which would count twice: give it once")
    check_inputs(parser, [("FILE.pth", path) for path in args.checkpoints])
    check_outputs(parser, [("--output", args.output)], [*args.checkpoints, args.data_path])
    return run_script(lambda: run(args, checked_device(parser, args.device)))


def run(args: argparse.Namespace, device: "torch.device") -> None:
    """Reads, chooses, averages, writes."""
    # Heavy imports come after parsing, so that --help and wrong usage do not wait for torch.
    from deployment.device_tensors import open_official_clips
    from network.checkpoint import Checkpoint, CheckpointError
    from network.trained_model import load_trained_model
    from reporting.run_folder import check_no_run
    from training.weight_averaging import averaged, check_alike, choose_greedily, validation_on

    check_no_run("--output", args.output)
    check_writable("--output", args.output)
    checkpoints = [Checkpoint.read(path) for path in args.checkpoints]
    check_alike(args.checkpoints, checkpoints)
    chosen = list(range(len(checkpoints)))
    if args.greedy:
        if any(checkpoint.seen_data == args.data_path.resolve() for checkpoint in checkpoints):
            raise CheckpointError(
                "--greedy chooses by the videos of val/, which --train-on-val has trained on: leave it out"
            )
        trained = load_trained_model(args.checkpoints[0])
        reading = {"cache_dir": args.cache_dir, "skip_unreadable": args.skip_unreadable, "num_workers": args.workers}
        clips = open_official_clips(args.data_path / "val", trained, **reading, batch_size=args.batch_size)
        validate = validation_on(clips, trained.network, device)
        chosen = choose_greedily(args.checkpoints, [checkpoint.model for checkpoint in checkpoints], validate)
    names = [str(args.checkpoints[number]) for number in chosen]
    averaged([checkpoints[number] for number in chosen], names).write(args.output)
    print(f"The average of {', '.join(names)}: {args.output}")


if __name__ == "__main__":
    sys.exit(main())
