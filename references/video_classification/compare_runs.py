"""Compares the predictions of two runs on the same videos: what changed from RUN_A to RUN_B, and whether it is real."""

import argparse
import csv
import io
import os
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from evaluation.intervals import Interval, mcnemar_test, paired_difference, wilson_interval
from evaluation.predictions import Prediction, ResultError, read_predictions
from runtime.files import printable, replaced_file

SIGNIFICANCE = 0.05
NAMED = 3  # videos of an error message


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
        parser.error(f"--list {args.list}: a number from 0")
    try:
        comparison = Comparison.of(read_predictions(args.run_a), read_predictions(args.run_b))
        if args.output:
            write_changes(args.output, comparison)
    except ResultError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"error: {args.output} cannot be written: {error.strerror}", file=sys.stderr)
        return 1
    try:
        for line in comparison.lines(args.list):
            print(printable(line))
        sys.stdout.flush()
    except BrokenPipeError:  # the reader of our output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return 0


@dataclass(frozen=True)
class Comparison:
    """The predictions of two runs, by the videos' paths, the same ones in the same order."""

    a: dict[str, Prediction]
    b: dict[str, Prediction]

    @classmethod
    def of(cls, a: dict[str, Prediction], b: dict[str, Prediction]) -> "Comparison":
        """Matches the videos by path. Raises ResultError where they or their labels are not the same."""
        for here, there, name in ((a, b, "RUN_A"), (b, a, "RUN_B")):
            if only := sorted(here.keys() - there.keys()):
                raise ResultError(
                    f"{len(only)} videos are in {name} only, such as {', '.join(only[:NAMED])}: the runs must have "
                    "been validated on the same videos"
                )
        if relabelled := [path for path in sorted(a) if a[path].label != b[path].label]:
            raise ResultError(
                f"{len(relabelled)} videos have another label in RUN_B, such as {', '.join(relabelled[:NAMED])}: the "
                "runs must have been validated on the same labels"
            )
        paths = sorted(a)
        return cls({path: a[path] for path in paths}, {path: b[path] for path in paths})

    def right(self, predictions: dict[str, Prediction]) -> list[bool]:
        """Whether each video is predicted right, in the order of paths."""
        return [prediction.is_right for prediction in predictions.values()]

    def changes(self) -> Iterator[tuple[str, str, Prediction, Prediction]]:
        """(kind, path, of A, of B) of each video whose prediction changed: `gained`, `lost` or `other mistake`."""
        for path, a in self.a.items():
            b = self.b[path]
            if a.prediction != b.prediction:
                yield "gained" if b.is_right else "lost" if a.is_right else "other mistake", path, a, b

    def lines(self, listed: int) -> Iterator[str]:
        """What there is to say, `listed` changed videos of each kind among it."""
        right_a, right_b = self.right(self.a), self.right(self.b)
        for name, right in (("RUN_A", right_a), ("RUN_B", right_b)):
            yield f"{name}: Video Acc@1 {_percent(wilson_interval(sum(right), len(right)))}, {len(right)} videos"
        changes = list(self.changes())
        kinds = Counter(kind for kind, *_ in changes)
        difference, pvalue = paired_difference(right_a, right_b), mcnemar_test(right_a, right_b)
        yield f"Difference (B - A): {_points(difference)}, paired"
        yield f"Gained {kinds['gained']}, lost {kinds['lost']}; McNemar's exact test: p = {pvalue:.4g}"
        yield _verdict(difference, pvalue)
        yield from _class_lines(changes, Counter(prediction.label for prediction in self.a.values()))
        for kind in ("gained", "lost", "other mistake"):
            yield from _change_lines(kind, [change for change in changes if change[0] == kind], listed)


def write_changes(path: Path, comparison: Comparison) -> None:
    """Writes each changed video to a CSV file. Raises OSError."""
    with replaced_file(path) as file:
        text = io.TextIOWrapper(file, encoding="utf-8", errors="surrogateescape", newline="")
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(("change", "path", "label", "prediction_a", "probability_a", "prediction_b", "probability_b"))
        for kind, video, a, b in comparison.changes():
            writer.writerow((kind, video, a.label, a.prediction, a.probability, b.prediction, b.probability))
        text.detach()


def _verdict(difference: Interval, pvalue: float) -> str:
    """In words; where few videos changed, the interval (approximate) and the test (exact, careful) may disagree."""
    excludes_zero, is_significant = difference.low > 0 or difference.high < 0, pvalue < SIGNIFICANCE
    if excludes_zero and is_significant:
        return f"RUN_{'B' if difference.value > 0 else 'A'} is better: chance alone would hardly do this"
    if excludes_zero or is_significant:
        return "Undecided: the interval and the test disagree, more videos would tell"
    return "Chance alone may well do this: no difference is shown"


def _class_lines(changes: Sequence[tuple[str, str, Prediction, Prediction]], support: Counter) -> Iterator[str]:
    """A line a class that gained or lost, the largest net change first."""
    gained = Counter(a.label for kind, _, a, _ in changes if kind == "gained")
    lost = Counter(a.label for kind, _, a, _ in changes if kind == "lost")
    labels = sorted(gained | lost, key=lambda label: (-abs(gained[label] - lost[label]), label))
    if not labels:
        return
    width = max(map(len, map(printable, labels)))
    yield f"\n{'Class':<{width}}  videos  gained  lost    net"
    for label in labels:
        net = gained[label] - lost[label]
        yield f"{printable(label):<{width}}  {support[label]:6}  {gained[label]:6}  {lost[label]:4}  {net:+5}"


def _change_lines(kind: str, changes: Sequence[tuple[str, str, Prediction, Prediction]], listed: int) -> Iterator[str]:
    """The videos whose prediction changed in this way."""
    if not changes or not listed:
        return
    yield f"\n{kind.capitalize()} ({len(changes)}):"
    for _, path, a, b in changes[:listed]:
        before, after = (f"{p.prediction or 'nothing'} {100 * p.probability:.1f} %" for p in (a, b))
        yield f"  {path}: {before} -> {after}"
    if len(changes) > listed:
        yield f"  ... and {len(changes) - listed} more (--list {len(changes)}, or --output FILE)"


def _percent(share: Interval) -> str:
    return "{:.3f} % ({:.1f} to {:.1f})".format(*(100 * part for part in share))


def _points(difference: Interval) -> str:
    return "{:+.3f} points (95 % interval {:+.1f} to {:+.1f})".format(*(100 * part for part in difference))


if __name__ == "__main__":
    sys.exit(main())
