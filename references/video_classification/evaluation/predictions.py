"""`predictions.csv`: what a run says of each video. Written, read, and compared between two runs."""

import csv
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from evaluation.intervals import Interval, mcnemar_test, paired_difference, wilson_interval
from runtime.errors import UserError, reason_of
from runtime.files import printable, write_csv

PREDICTIONS = "predictions.csv"
NEEDED = ("path", "label", "prediction", "probability")  # columns; files of other programs may lack the rest
SIGNIFICANCE = 0.05
NAMED = 3  # videos named in an error message


class Prediction(NamedTuple):
    """A row of `predictions.csv`; the fields are its columns."""

    path: str  # relative to the validation folder
    label: str
    prediction: str  # empty where the outputs are NaN
    probability: float  # of the prediction, at the temperature
    rank: int = 0  # place of the label among the classes, from 1; 0 where it is unknown
    clips: int = 0  # that the prediction is the mean of; 0 where it is unknown

    @property
    def is_right(self) -> bool:
        """Whether the label was predicted."""
        return self.label == self.prediction


def write_predictions(path: Path, predictions: Iterable[Prediction]) -> None:
    """Writes the file, whole or not at all."""
    rows = ((*row[:3], f"{row.probability:.6f}", *row[4:]) for row in predictions)
    write_csv(path, [Prediction._fields, *rows])


def predictions_file(run: Path) -> Path:
    """The file of a run's predictions, from its folder or from the file itself."""
    return run / PREDICTIONS if run.is_dir() else run


def read_predictions(run: Path) -> dict[str, Prediction]:
    """The predictions of a run by path, from its folder or from the file itself; `rank` and `clips` are not read.

    Raises UserError where the file is missing or empty, lacks a column, holds a bad number or names a video twice.
    """
    path = predictions_file(run)
    predictions: dict[str, Prediction] = {}
    try:
        # utf-8-sig: spreadsheets put a byte order mark in front.
        with open(path, encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            if missing := [name for name in NEEDED if name not in (reader.fieldnames or [])]:
                raise UserError(f"{path} is not a list of predictions: it has no column {', '.join(missing)}")
            for row in reader:
                video, label, prediction, probability = (row[name] for name in NEEDED)
                if video in predictions:
                    raise UserError(f"{path}, line {reader.line_num}: {video} is listed twice")
                predictions[video] = Prediction(video, label, prediction, float(probability))
    except OSError as error:
        raise UserError(
            f"{path} cannot be read: {reason_of(error)}; a finished training and train.py --test-only write it"
        ) from error
    except (csv.Error, ValueError, TypeError) as error:
        raise UserError(f"{path}, line {reader.line_num}: not a prediction: {error}") from error
    if not predictions:
        raise UserError(f"{path} holds no predictions")
    return predictions


class Change(NamedTuple):
    """A video whose prediction differs between two runs."""

    kind: str  # gained, lost or other mistake
    a: Prediction
    b: Prediction


@dataclass(frozen=True)
class Comparison:
    """Two runs on the same videos."""

    a: Sequence[Prediction]  # in the order of paths
    b: Sequence[Prediction]  # of the same videos

    @classmethod
    def of(cls, a: dict[str, Prediction], b: dict[str, Prediction]) -> "Comparison":
        """Matches the videos by path. Raises UserError where the videos or their labels differ."""
        for here, there, name in ((a, b, "RUN_A"), (b, a, "RUN_B")):
            if only := sorted(here.keys() - there.keys()):
                raise UserError(
                    f"{len(only)} videos are in {name} only, such as {', '.join(only[:NAMED])}: compare runs that "
                    "were validated on the same videos"
                )
        paths = sorted(a)
        if relabelled := [path for path in paths if a[path].label != b[path].label]:
            raise UserError(
                f"{len(relabelled)} videos have another label in RUN_B, such as {', '.join(relabelled[:NAMED])}: "
                "compare runs that were validated on the same labels"
            )
        return cls([a[path] for path in paths], [b[path] for path in paths])

    def changes(self) -> list[Change]:
        """The videos whose prediction changed."""
        return [
            Change("gained" if b.is_right else "lost" if a.is_right else "other mistake", a, b)
            for a, b in zip(self.a, self.b, strict=True)
            if a.prediction != b.prediction
        ]

    def lines(self, listed: int) -> Iterator[str]:
        """The comparison in words, with up to `listed` changed videos of each kind."""
        right_a, right_b = ([prediction.is_right for prediction in run] for run in (self.a, self.b))
        for name, right in (("RUN_A", right_a), ("RUN_B", right_b)):
            share = "{:.3f} % ({:.1f} to {:.1f})".format(*wilson_interval(sum(right), len(right)).percent)
            yield f"{name}: Video Acc@1 {share}, {len(right)} videos"
        changes = self.changes()
        kinds = Counter(change.kind for change in changes)
        difference, pvalue = paired_difference(right_a, right_b), mcnemar_test(right_a, right_b)
        points = "{:+.3f} points (95 % interval {:+.1f} to {:+.1f})".format(*difference.percent)
        yield f"Difference (B - A): {points}, paired"
        yield f"Gained {kinds['gained']}, lost {kinds['lost']}; McNemar's exact test: p = {pvalue:.4g}"
        yield _verdict(difference, pvalue)
        yield from _class_lines(changes, Counter(prediction.label for prediction in self.a))
        for kind in ("gained", "lost", "other mistake"):
            yield from _change_lines(kind, [change for change in changes if change.kind == kind], listed)


def write_changes(path: Path, changes: Sequence[Change]) -> None:
    """Writes each changed video to a CSV file. Raises UserError."""
    header = ("change", "path", "label", "prediction_a", "probability_a", "prediction_b", "probability_b")
    rows = ((kind, a.path, a.label, a.prediction, a.probability, b.prediction, b.probability) for kind, a, b in changes)
    try:
        write_csv(path, [header, *rows])
    except OSError as error:
        raise UserError(f"{path} cannot be written: {reason_of(error)}; choose another --output") from error


def _verdict(difference: Interval, pvalue: float) -> str:
    """In words. With few changed videos the interval (approximate) and the test (exact, conservative) may disagree."""
    excludes_zero, is_significant = difference.low > 0 or difference.high < 0, pvalue < SIGNIFICANCE
    if excludes_zero and is_significant:
        return f"RUN_{'B' if difference.value > 0 else 'A'} is better: the difference is unlikely to be chance"
    if excludes_zero or is_significant:
        return "Undecided: the interval and the test disagree; more videos would tell"
    return "No difference is shown: chance alone could explain it"


def _class_lines(changes: Sequence[Change], support: Counter[str]) -> Iterator[str]:
    """A line for each class that gained or lost, the largest net change first."""
    gained, lost = (Counter(change.a.label for change in changes if change.kind == kind) for kind in ("gained", "lost"))
    labels = sorted(gained | lost, key=lambda label: (-abs(gained[label] - lost[label]), label))
    if not labels:
        return
    width = max(map(len, map(printable, labels)))
    yield f"\n{'Class':<{width}}  videos  gained  lost    net"
    for label in labels:
        net = gained[label] - lost[label]
        yield f"{printable(label):<{width}}  {support[label]:6}  {gained[label]:6}  {lost[label]:4}  {net:+5}"


def _change_lines(kind: str, changes: Sequence[Change], listed: int) -> Iterator[str]:
    """The videos whose prediction changed in this way."""
    if not changes or not listed:
        return
    yield f"\n{kind.capitalize()} ({len(changes)}):"
    for _, a, b in changes[:listed]:
        before, after = (f"{p.prediction or 'nothing'} {100 * p.probability:.1f} %" for p in (a, b))
        yield f"  {a.path}: {before} -> {after}"
    if len(changes) > listed:
        yield f"  ... and {len(changes) - listed} more (--list {len(changes)}, or --output FILE)"
