"""From video files to clips, predictions and lines of text: what `predict.py` reads, computes and writes."""

import csv
import glob
import io
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from clips import presets
from clips.dataset import ClipDataset, DecodingReader
from clips.loading import run_ahead
from clips.preprocessing import Preprocessing
from clips.samplers import Sample
from evaluation.calibration import calibrated
from network.trained_model import TrainedModel
from runtime.columns import Ragged
from runtime.files import name_of, printable
from runtime.worker_pool import WorkerDied, map_in_workers
from videos.decoding import VideoError
from videos.folder import VIDEO_ENDINGS, VideoFolder
from videos.frame_selection import VideoTiming
from videos.index import Scan, Unreadable
from videos.motion import motion_from_curve

VIDEOS_AHEAD = 8  # read while the network computes


def find_videos(names: Iterable[str]) -> list[str]:
    """The video files that `names` (files, folders searched recursively, patterns) stand for, each once.

    The file name extension only matters in folders. Names that do not exist, and folders that hold no video or may not
    be listed, are kept, and reading them reports it.
    """
    found: dict[str, None] = {}
    for name in names:
        for path in _matches(name):
            found.update(dict.fromkeys(_videos_below(path) or [path]))
    return list(found)


class VideoFiles(VideoFolder):
    """Any files, which have no classes."""

    def __init__(self, paths: Sequence[str]) -> None:
        self.root, self.classes, self.names = Path(), [], Ragged.of_strings(paths)
        self.labels = self.sizes = self.mtimes_ns = np.zeros(len(paths), np.int64)

    def path(self, video: int) -> str:
        """The path of the file."""
        return name_of(self.names.string(video))


class ProbedTiming:
    """A function from a video to its VideoTiming, which probes it."""

    def __init__(self, files: VideoFiles, with_motion: bool) -> None:
        self._files, self._scan = files, Scan(with_motion)
        self._last: tuple[int, VideoTiming] | None = None  # all clips of a video are read consecutively

    def __call__(self, video: int) -> VideoTiming:
        """Raises VideoError."""
        if self._last is None or self._last[0] != video:
            path = self._files.path(video)
            if os.path.isdir(path):
                if not os.access(path, os.R_OK | os.X_OK):
                    raise VideoError(path, "there is no permission to list this folder")
                raise VideoError(path, f"holds no video: no file name in it ends in {', '.join(VIDEO_ENDINGS)}")
            result = self._scan(path)
            if isinstance(result, Unreadable):
                raise VideoError(path, result.reason, result.is_lasting)
            info, curve = result
            motion = motion_from_curve(curve) if len(curve) or info.frames == 1 else None
            self._last = video, VideoTiming(info.frames, info.fps, motion)
        return self._last[1]


def read_clips(
    paths: Sequence[str], preprocessing: Preprocessing, clips_per_video: int, num_workers: int
) -> Iterator[np.ndarray | VideoError]:
    """Yields each video's clips as in validation, float32 (clips_per_video, T, H, W, C) in [0, 1], or why it has none.

    Args:
        paths: the videos.
        preprocessing: how clips are made of them.
        clips_per_video: clips of each.
        num_workers: processes; 0 reads in this one, which a file that crashes its decoder ends.
    """
    files = VideoFiles(paths)
    timing = ProbedTiming(files, with_motion=preprocessing.frame_selection == "motion")
    dataset = ClipDataset(files, timing, DecodingReader(files, preprocessing), preprocessing, clips_per_video)

    def died(death: WorkerDied) -> VideoError:
        return VideoError(files.path(death.item), f"decoding it ended the worker process, {death.how}")

    workers = min(num_workers, len(files))
    results = map_in_workers(partial(_read_video, dataset), range(len(files)), workers, on_death=died)
    return run_ahead(results, VIDEOS_AHEAD)


def _read_video(dataset: ClipDataset, video: int) -> np.ndarray | VideoError:
    """Reads all clips of a video, in a worker process."""
    clips: np.ndarray = np.empty((dataset.clips_per_video, *dataset.clip_shape), dataset.reader.dtype)
    try:
        dataset.read_into(clips, [Sample(video, number) for number in range(len(clips))])
    except VideoError as error:
        return error
    return clips


def _matches(name: str) -> list[str]:
    """What a pattern matches; `name` itself if it is no pattern or matches nothing."""
    if os.path.exists(name) or not glob.has_magic(name):
        return [name]
    return sorted(glob.glob(name, recursive=True)) or [name]


def _videos_below(root: str) -> list[str]:
    """All videos below a folder, sorted, following links, and folders that may not be listed; none if it is a file."""
    paths: list[str] = []
    seen: set[str] = set()

    def keep_closed(error: OSError) -> None:
        if isinstance(error, PermissionError):
            paths.append(str(error.filename))

    for folder, folders, names in os.walk(root, onerror=keep_closed, followlinks=True):
        real = os.path.realpath(folder)
        folders[:] = [] if real in seen else [name for name in folders if not name.startswith(".")]
        if real not in seen:
            videos = [name for name in names if name.lower().endswith(VIDEO_ENDINGS) and not name.startswith(".")]
            paths += [os.path.join(folder, name) for name in videos]
        seen.add(real)
    return sorted(paths)


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
        model, device: the network is already on the device.
        paths: the videos' names.
        videos: the clips of each, from `read_clips`.
        top_k: labels per prediction; fewer if there are fewer classes.
        batch_size: clips per batch.
    """

    def predicted(waiting: Sequence[tuple[str, np.ndarray | VideoError]]) -> Iterator[Prediction]:
        readable = [clips for _, clips in waiting if not isinstance(clips, VideoError)]
        scores: Iterator[Tensor] = iter(video_probabilities(model, readable, batch_size, device) if readable else ())
        for path, clips in waiting:
            if isinstance(clips, VideoError):
                yield Prediction(path, error=clips.reason)
            elif (probabilities := next(scores)).isnan().any():
                yield Prediction(path, error="the network's outputs are not numbers")
            else:
                values, indices = probabilities.topk(min(top_k, len(model.classes)))
                labels = [printable(model.classes[index]) for index in indices.tolist()]
                yield Prediction(path, tuple(zip(labels, values.tolist(), strict=True)))

    waiting: list[tuple[str, np.ndarray | VideoError]] = []
    num_clips = 0
    for path, clips in zip(paths, videos, strict=True):
        waiting.append((path, clips))
        num_clips += 0 if isinstance(clips, VideoError) else len(clips)
        if num_clips >= batch_size:
            yield from predicted(waiting)
            waiting, num_clips = [], 0
    yield from predicted(waiting)


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
