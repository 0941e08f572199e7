"""The files that a validation writes: `metrics.json`, `per_class.csv`, `predictions.csv`, `confusion.csv`."""

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from caching.splits import Clips
from evaluation.calibration import BINS, Reliability, calibrated, reliability
from evaluation.intervals import Interval, mean_interval, wilson_interval
from evaluation.metrics import VideoResults, confusion_matrix
from evaluation.predictions import PREDICTIONS, Prediction, write_predictions
from runtime.files import replaced_file, sha256_of, write_csv

METRICS, PER_CLASS, CONFUSION = "metrics.json", "per_class.csv", "confusion.csv"


class ClassResult(NamedTuple):
    """The predictions of the videos of one class."""

    name: str
    support: int  # videos
    right: int  # of these, predicted right
    mistake: str  # the class most often predicted instead, empty where there is none
    mistake_count: int  # how often

    @property
    def accuracy(self) -> Interval:
        """The share predicted right."""
        return wilson_interval(self.right, self.support)


@dataclass(frozen=True)
class Evaluation:
    """A validation, what was validated, and what follows from it."""

    results: VideoResults
    paths: Sequence[str]  # of the videos in `results`, relative to the validation folder
    classes: Sequence[str]
    rule: str  # how the frames were chosen, in words
    pixels: str  # how they were read, in words
    skipped: int = 0  # unreadable videos
    checkpoint: Path | None = None  # the file, None for weights that come from elsewhere
    temperature: float = 1.0  # of the probabilities
    turned: int = 0  # videos turned or mirrored for display, which the challenge's evaluator would not do
    seen: bool = False  # whether the network was trained on these videos

    @classmethod
    def of(
        cls, results: VideoResults, clips: Clips, classes: Sequence[str], checkpoint: Path | None, temperature: float
    ) -> "Evaluation":
        """A validation on `clips`."""
        names, rule = clips.loader.dataset.folder.names, clips.options.preprocessing.rule
        paths = [names.string(video) for video in results.videos.tolist()]
        told = (clips.pixels, clips.skipped, checkpoint, temperature, clips.turned, clips.seen)
        return cls(results, paths, classes, rule, *told)

    @cached_property
    def predictions(self) -> Tensor:
        """The predicted classes, int64 (V,); -1 where the outputs are NaN."""
        return self.results.predictions

    @cached_property
    def scores(self) -> Tensor:
        """Probabilities of all classes, float64 (V, num_classes), at the temperature."""
        return calibrated(self.results.scores, self.temperature)

    @cached_property
    def probabilities(self) -> Tensor:
        """Of the predicted classes, float64 (V,); NaN where the outputs are NaN."""
        return self.scores.amax(1)

    @cached_property
    def confusion(self) -> Tensor:
        """Counts by true class (row) and predicted class (column), int64 (num_classes, num_classes)."""
        return confusion_matrix(self.results.targets, self.predictions, len(self.classes))

    @cached_property
    def class_results(self) -> list[ClassResult]:
        """Of every class, in the order of `classes`."""
        support = self.results.targets.bincount(minlength=len(self.classes)).tolist()
        right = self.confusion.diagonal().tolist()
        mistakes = self.confusion.clone().fill_diagonal_(0)
        counts, most = (values.tolist() for values in mistakes.max(1))
        return [
            ClassResult(name, support[i], right[i], self.classes[most[i]] if counts[i] else "", counts[i])
            for i, name in enumerate(self.classes)
        ]

    def reliability(self, temperature: float) -> Reliability:
        """How the probabilities at `temperature` compare with the share of right predictions."""
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
        """The contents of `metrics.json`; accuracies in percent, with their intervals as [low, high]."""
        entries: dict[str, Any] = {}
        for name, share in self.accuracies.items():
            entries[name], low, high = share.percent
            entries[f"{name}_interval"] = [low, high]
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
            "checkpoint_sha256": sha256_of(self.checkpoint) if self.checkpoint else None,
            **({"seen_in_training": True} if self.seen else {}),
        }


def write_result_files(folder: Path, evaluation: Evaluation) -> dict[str, Any]:
    """Writes the four files, each whole or not at all; returns the contents of `metrics.json`."""
    metrics, classes = evaluation.metrics(), evaluation.classes
    counts = zip(classes, evaluation.confusion.tolist(), strict=True)
    rows = _per_class_rows(evaluation.class_results)
    if evaluation.seen:
        rows = ((*row, "yes" if number else "seen_in_training") for number, row in enumerate(rows))
    write_csv(folder / PER_CLASS, rows)
    write_csv(folder / CONFUSION, [("true \\ predicted", *classes), *((name, *row) for name, row in counts)])
    write_predictions(folder / PREDICTIONS, _predictions(evaluation))
    with replaced_file(folder / METRICS) as file:
        file.write((json.dumps(metrics, indent=2, allow_nan=False) + "\n").encode())
    return metrics


def seen_in_training(predictions: Path) -> bool:
    """Whether the metrics beside a run's predictions say that the network was trained on these videos."""
    try:
        return bool(json.loads(predictions.with_name(METRICS).read_bytes()).get("seen_in_training"))
    except (OSError, ValueError, AttributeError):
        return False


def _per_class_rows(results: Iterable[ClassResult]) -> Iterable[Sequence[Any]]:
    yield "class", "support", "right", "accuracy", "low", "high", "most_frequent_mistake", "mistake_count"
    for result in results:
        shares = [f"{share:.4f}" for share in result.accuracy.percent] if result.support else ["", "", ""]
        yield result.name, result.support, result.right, *shares, result.mistake, result.mistake_count


def _predictions(evaluation: Evaluation) -> Iterable[Prediction]:
    results, classes = evaluation.results, [*evaluation.classes, ""]  # the last one is found by -1
    columns = (results.targets, evaluation.predictions, evaluation.probabilities, results.ranks)
    for path, target, prediction, probability, rank in zip(
        evaluation.paths, *(column.tolist() for column in columns), strict=True
    ):
        yield Prediction(path, classes[target], classes[prediction], probability, rank + 1, results.clips_per_video)


def _number(value: float) -> float | None:
    """The value, None where JSON has no number for it."""
    return value if math.isfinite(value) else None
