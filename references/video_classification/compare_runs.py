"""Compares the predictions of two runs on the same videos: what changed from RUN_A to RUN_B, and whether it is real."""

import argparse
import os
import sys
from pathlib import Path

from evaluation.predictions import Comparison, read_predictions, write_changes
from runtime.errors import UserError
from runtime.files import printable


def get_args_parser(add_help: bool = True) -> argparse.ArgumentParser:
    """The command line of this script."""
    parser = argparse.ArgumentParser(description=__doc__, add_help=add_help, allow_abbrev=False)
    for name in ("run_a", "run_b"):
        parser.add_argument(
            name, type=Path, metavar=name.upper(), help="folder with a predictions.csv, or the file itself"
        )
    parser.add_argument("--list", default=20, type=int, metavar="N", help="changed videos shown of each kind (20)")
    parser.add_argument("--output", type=Path, metavar="CSV", help="write every changed video to this file")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Runs the script: 0 when done, 1 when the runs cannot be compared, 2 on wrong usage."""
    parser = get_args_parser()
    args = parser.parse_args(argv)
    if args.list < 0:
        parser.error(f"--list {args.list}: must be 0 or more")
    try:
        run(args)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:  # the reader of our output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return 0


def run(args: argparse.Namespace) -> None:
    """Reads, compares, and prints."""
    comparison = Comparison.of(read_predictions(args.run_a), read_predictions(args.run_b))
    if args.output:
        try:
            write_changes(args.output, comparison.changes())
        except OSError as error:
            raise UserError(f"{args.output} cannot be written: {error.strerror}") from error
    for line in comparison.lines(args.list):
        print(printable(line))
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
