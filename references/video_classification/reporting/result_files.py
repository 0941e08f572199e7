"""The files that a validation leaves: `metrics.json`, `per_class.csv`, `predictions.csv`, `confusion.csv`, and what is
computed for them. A room of its own beside `reporting`: these are for people and programs, after the run.
"""

import csv
import hashlib
import io
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from evaluation.calibration import BINS, Reliability, calibrated, reliability
from evaluation.intervals import Interval, mean_interval, wilson_interval
from evaluation.metrics import VideoResults, confusion_matrix
from evaluation.predictions import COLUMNS, PREDICTIONS
from runtime.files import replaced_file

METRICS, PER_CLASS, CONFUSION = "metrics.json", "per_class.csv", "confusion.csv"


class ClassResult(NamedTuple):
    """One class: its videos, those predicted right, and the class that the others are most often taken for."""

    name: str
    support: int
    right: int
    mistake: str
    mistake_count: int

    @property
    def accuracy(self) -> Interval:
        """The share that is right, with its interval."""
        return wilson_interval(self.right, self.support)


@dataclass(frozen=True)
class Evaluation:
    """A validation and its circumstances.

    results: see there. paths: of the scored videos, relative to the validation folder, in the order of `results`.
    classes: names. rule, pixels: how frames were chosen and read, in words. skipped: videos that cannot be read.
    checkpoint: the file that was validated, None for weights that are none. temperature: of the probabilities. turned:
    videos that are turned or mirrored for display, which the challenge's evaluator would not do.
    """

    results: VideoResults
    paths: Sequence[str]
    classes: Sequence[str]
    rule: str
    pixels: str
    skipped: int = 0
    checkpoint: Path | None = None
    temperature: float = 1.0
    turned: int = 0

    @cached_property
    def predictions(self) -> Tensor:
        """The predicted classes, int64 (V,); -1 where the outputs are not numbers."""
        return self.results.predictions

    @cached_property
    def scores(self) -> Tensor:
        """Probabilities of all classes, float64 (V, num_classes), at the temperature."""
        return calibrated(self.results.scores, self.temperature)

    @cached_property
    def probabilities(self) -> Tensor:
        """Of the predicted classes, float64 (V,); nan where the outputs are not numbers."""
        return self.scores.amax(1)

    @cached_property
    def confusion(self) -> Tensor:
        """See `metrics.confusion_matrix`."""
        return confusion_matrix(self.results.targets, self.predictions, len(self.classes))

    @cached_property
    def class_results(self) -> list[ClassResult]:
        """Of every class, in order."""
        support = self.results.targets.bincount(minlength=len(self.classes)).tolist()
        right = self.confusion.diagonal().tolist()
        mistakes = self.confusion.clone().fill_diagonal_(0)
        counts, most = (values.tolist() for values in mistakes.max(1))
        return [
            ClassResult(name, support[i], right[i], self.classes[most[i]] if counts[i] else "", counts[i])
            for i, name in enumerate(self.classes)
        ]

    def reliability(self, temperature: float) -> Reliability:
        """How probabilities at `temperature` compare with what is right."""
        made = self.predictions >= 0
        scores = calibrated(self.results.scores[made], temperature)
        right = self.predictions[made] == self.results.targets[made]
        return reliability(scores.amax(1).numpy(), right.numpy())

    @cached_property
    def accuracies(self) -> dict[str, Interval]:
        """All accuracies, from 0 to 1. The macro accuracy is the mean over the classes that have videos."""
        clip, video = self.results.clip, self.results.video
        per_class = [result.accuracy for result in self.class_results if result.support]
        shares = {
            f"{name}_acc{k}": wilson_interval(round(share * scored.count / 100), scored.count)
            for name, scored in (("clip", clip), ("video", video))
            for k, share in ((1, scored.top1), (5, scored.top5))
        }
        return {**shares, "macro_acc1": mean_interval(per_class)}

    def metrics(self) -> dict[str, Any]:
        """The contents of `metrics.json`: accuracies in percent, each with [low, high], the rest in its own unit."""
        entries: dict[str, Any] = {}
        for name, (value, low, high) in self.accuracies.items():
            entries[name], entries[f"{name}_interval"] = 100 * value, [100 * low, 100 * high]
        return {
            **entries,
            "loss": _number(self.results.loss),
            "expected_calibration_error": _number(self.reliability(self.temperature).expected_calibration_error),
            "expected_calibration_error_uncalibrated": _number(self.reliability(1.0).expected_calibration_error),
            "calibration_bins": BINS,
            "temperature": self.temperature,
            "videos": len(self.paths),
            "clips": self.results.clip.count,
            "clips_per_video": self.results.clips_per_video,
            "videos_not_scored": self.skipped,
            "videos_turned": self.turned,
            "classes": len(self.classes),
            "classes_with_videos": sum(result.support > 0 for result in self.class_results),
            "clip_rule": self.rule,
            "pixel_path": self.pixels,
            "checkpoint": str(self.checkpoint) if self.checkpoint else None,
            "checkpoint_sha256": _sha256(self.checkpoint) if self.checkpoint else None,
        }


def write_result_files(folder: Path, evaluation: Evaluation) -> dict[str, Any]:
    """Writes the four files, each whole or not at all; returns what `metrics.json` says."""
    metrics = evaluation.metrics()
    classes = evaluation.classes
    rows = {
        PER_CLASS: _per_class_rows(evaluation.class_results),
        PREDICTIONS: _prediction_rows(evaluation),
        CONFUSION: [
            ("true \\ predicted", *classes),
            *((name, *row) for name, row in zip(classes, evaluation.confusion.tolist(), strict=True)),
        ],
    }
    for name, lines in rows.items():
        with replaced_file(folder / name) as file:
            text = io.TextIOWrapper(file, encoding="utf-8", errors="surrogateescape", newline="")
            csv.writer(text, lineterminator="\n").writerows(lines)
            text.detach()
    with replaced_file(folder / METRICS) as file:
        file.write((json.dumps(metrics, indent=2, allow_nan=False) + "\n").encode())
    return metrics


def _per_class_rows(results: Iterable[ClassResult]) -> Iterable[Sequence[Any]]:
    yield "class", "support", "right", "accuracy", "low", "high", "most_frequent_mistake", "mistake_count"
    for result in results:
        shares = [f"{100 * share:.4f}" for share in result.accuracy] if result.support else ["", "", ""]
        yield result.name, result.support, result.right, *shares, result.mistake, result.mistake_count


def _prediction_rows(evaluation: Evaluation) -> Iterable[Sequence[Any]]:
    """`rank` counts from 1, the rank of a right prediction."""
    yield COLUMNS
    results, classes = evaluation.results, [*evaluation.classes, ""]  # the last is what -1 finds
    columns = (results.targets, evaluation.predictions, evaluation.probabilities, results.ranks)
    for path, target, prediction, probability, rank in zip(
        evaluation.paths, *(column.tolist() for column in columns), strict=True
    ):
        yield path, classes[target], classes[prediction], f"{probability:.6f}", rank + 1, results.clips_per_video


def _number(value: float) -> float | None:
    """As JSON has it, which knows no others than finite ones."""
    return value if math.isfinite(value) else None


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()
