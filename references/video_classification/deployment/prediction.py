"""From clips to predictions, and from predictions to lines of text: what `predict.py` computes and writes."""

import csv
import io
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from clips import presets
from evaluation.calibration import calibrated
from network.trained_model import TrainedModel
from runtime.files import printable
from videos.decoding import VideoError


@dataclass(frozen=True)
class Prediction:
    """The prediction for a video, or why there is none."""

    video: str
    top: tuple[tuple[str, float], ...] = ()  # (label, probability), most probable first
    error: str | None = None


def predict(
    model: TrainedModel,
    paths: Sequence[str],
    videos: Iterable[np.ndarray | VideoError],
    *,
    top_k: int,
    batch_size: int,
    device: torch.device,
) -> Iterator[Prediction]:
    """Yields one prediction per video, in order: the mean of its clips' probabilities.

    Args:
        model: the network is already on `device`.
        paths: the videos' names.
        videos: the clips of each, from `video_files.read_clips`.
        top_k: labels per prediction; fewer if there are fewer classes.
        batch_size: clips per batch.
        device: where the network is.
    """
    waiting: list[tuple[str, np.ndarray | VideoError]] = []
    num_clips = 0
    for path, clips in zip(paths, videos, strict=True):
        waiting.append((path, clips))
        num_clips += 0 if isinstance(clips, VideoError) else len(clips)
        if num_clips >= batch_size:
            yield from _predict_together(model, waiting, top_k, batch_size, device)
            waiting, num_clips = [], 0
    yield from _predict_together(model, waiting, top_k, batch_size, device)


def _predict_together(
    model: TrainedModel,
    videos: Sequence[tuple[str, np.ndarray | VideoError]],
    top_k: int,
    batch_size: int,
    device: torch.device,
) -> Iterator[Prediction]:
    readable = [clips for _, clips in videos if not isinstance(clips, VideoError)]
    scores: Iterator[Tensor] = iter(video_probabilities(model, readable, batch_size, device) if readable else ())
    for path, clips in videos:
        if isinstance(clips, VideoError):
            yield Prediction(path, error=clips.reason)
            continue
        probabilities = next(scores)
        if probabilities.isnan().any():
            yield Prediction(path, error="the network's outputs are not numbers")
            continue
        values, indices = probabilities.topk(min(top_k, len(model.classes)))
        labels = [printable(model.classes[index]) for index in indices.tolist()]
        yield Prediction(path, tuple(zip(labels, values.tolist(), strict=True)))


@torch.inference_mode()
def video_probabilities(
    model: TrainedModel, videos: Sequence[np.ndarray], batch_size: int, device: torch.device
) -> Tensor:
    """The probabilities, float64 (V, num_classes), of videos with clips (clips_per_video, T, H, W, C) each.

    They are computed as in validation: the mean of the clips' softmax outputs, then the checkpoint's temperature.
    """
    clips = torch.from_numpy(np.concatenate(videos))
    parts = (presets.normalize(part.to(device), model.preprocessing).contiguous() for part in clips.split(batch_size))
    logits = torch.cat([model.network(part).cpu() for part in parts])
    scores = logits.double().softmax(1).unflatten(0, (len(videos), -1)).mean(1)
    return calibrated(scores, model.temperature)


def table_lines(predictions: Iterable[Prediction], paths: Sequence[str], top_k: int) -> Iterator[str]:
    """A line per video, with labels and percentages."""
    width = max(map(len, map(printable, paths)))
    for prediction in predictions:
        labels = ", ".join(f"{label} {100 * probability:.1f} %" for label, probability in prediction.top)
        yield f"{printable(prediction.video):<{width}}  {labels or f'error: {prediction.error}'}"


def json_lines(predictions: Iterable[Prediction], paths: Sequence[str], top_k: int) -> Iterator[str]:
    """A JSON list with one object, and line, per video: `video`, `label`, `probability`, `top`, `error`."""
    separator = "["
    for prediction in predictions:
        label, probability = prediction.top[0] if prediction.top else (None, None)
        entry = {
            "video": printable(prediction.video),
            "label": label,
            "probability": probability,
            "top": [{"label": label, "probability": probability} for label, probability in prediction.top],
            "error": prediction.error,
        }
        yield f"{separator}{json.dumps(entry)}"
        separator = ","
    yield "[]" if separator == "[" else "]"


def csv_lines(predictions: Iterable[Prediction], paths: Sequence[str], top_k: int) -> Iterator[str]:
    """CSV with columns `video,label,probability,label_2,probability_2,...,error`; absent values are empty."""
    ranks = ["", *(f"_{rank}" for rank in range(2, top_k + 1))]
    yield _csv_line(["video", *(f"{name}{rank}" for rank in ranks for name in ("label", "probability")), "error"])
    for prediction in predictions:
        cells = [cell for label, probability in prediction.top for cell in (label, f"{probability:.6f}")]
        padding = [""] * (2 * top_k - len(cells))
        yield _csv_line([printable(prediction.video), *cells, *padding, prediction.error or ""])


FORMATTERS = {"table": table_lines, "json": json_lines, "csv": csv_lines}


def _csv_line(cells: Sequence[str]) -> str:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="").writerow(cells)
    return buffer.getvalue()
