"""Compares the predictions of two runs on the same videos: what changed from RUN_A to RUN_B, and whether it is real."""

import argparse
import sys
from pathlib import Path

from runtime.arguments import add_value, check_outputs, non_negative_int
from runtime.files import check_writable, printable
from runtime.script import run_script


def get_args_parser(add_help: bool = True) -> argparse.ArgumentParser:
    """The command line of this script."""
    parser = argparse.ArgumentParser(description=__doc__, add_help=add_help, allow_abbrev=False)
    for name in ("run_a", "run_b"):
        add_value(parser, name, Path, name.upper(), "folder with a predictions.csv, or the file itself")
    add_value(parser, "--list", non_negative_int, "N", "changed videos shown of each kind", 20)
    add_value(parser, "--output", Path, "CSV", "write every changed video to this file")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Runs the script: 0 when done, 1 when the runs cannot be compared, 2 on wrong usage."""
    parser = get_args_parser()
    args = parser.parse_args(argv)
    return run_script(lambda: run(parser, args))


def run(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Reads, compares, and prints."""
    # Heavy imports come after parsing, so that --help and wrong usage do not wait for them.
    from evaluation.predictions import Comparison, predictions_file, read_predictions, write_changes
    from reporting.result_files import seen_in_training
    from reporting.run_folder import check_no_run

    check_outputs(parser, [("--output", args.output)], map(predictions_file, (args.run_a, args.run_b)))
    check_no_run("--output", args.output)
    if args.output:
        check_writable("--output", args.output)
    comparison = Comparison.of(read_predictions(args.run_a), read_predictions(args.run_b))
    if args.output:
        write_changes(args.output, comparison.changes())
    print(f"RUN_A is {printable(args.run_a)}, RUN_B is {printable(args.run_b)}")
    for line in comparison.lines(args.list):
        print(printable(line))
    for name, run in (("RUN_A", args.run_a), ("RUN_B", args.run_b)):
        if seen_in_training(predictions_file(run)):
            print(f"NOTE: {name} was trained on these videos (--train-on-val): its accuracy says nothing of new ones")


if __name__ == "__main__":
    sys.exit(main())
