"""The format of `predictions.csv`, and how it is read. A room of its own: reading it needs none of what made it."""

import csv
from pathlib import Path
from typing import NamedTuple

PREDICTIONS = "predictions.csv"
COLUMNS = ("path", "label", "prediction", "probability", "rank", "clips")


class ResultError(RuntimeError):
    """A `predictions.csv` that cannot be used; the message says why."""


class Prediction(NamedTuple):
    """What a run said of one video."""

    label: str
    prediction: str
    probability: float

    @property
    def is_right(self) -> bool:
        """Whether the label was predicted."""
        return self.label == self.prediction


def read_predictions(run: Path) -> dict[str, Prediction]:
    """The predictions of a run by the videos' paths, from its folder or from the file itself.

    Raises:
        ResultError: no such file, columns that are missing, numbers that are none, or a video named twice.
    """
    path = run / PREDICTIONS if run.is_dir() else run
    predictions: dict[str, Prediction] = {}
    try:
        # With the mark that spreadsheets put in front.
        with open(path, encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            if missing := [name for name in COLUMNS[:4] if name not in (reader.fieldnames or [])]:
                raise ResultError(f"{path} is not a list of predictions: it has no column {', '.join(missing)}")
            for row in reader:
                if row["path"] in predictions:
                    raise ResultError(f"{path}, line {reader.line_num}: {row['path']} is there twice")
                predictions[row["path"]] = Prediction(row["label"], row["prediction"], float(row["probability"]))
    except OSError as error:
        raise ResultError(
            f"{path} cannot be read: {error.strerror}; a finished training and train.py --test-only write it"
        ) from error
    except (csv.Error, ValueError, TypeError) as error:
        raise ResultError(f"{path}, line {reader.line_num}: not a prediction: {error}") from error
    if not predictions:
        raise ResultError(f"{path} holds no predictions")
    return predictions
