"""The worst mistakes: wrong predictions with the highest probability, with the frames that the network saw."""

from dataclasses import dataclass

import numpy as np
import torch

from caching.jpeg import encode_jpeg
from clips.dataset import ClipDataset
from clips.samplers import Sample
from reporting.result_files import Evaluation


@dataclass(frozen=True)
class Mistake:
    """A video that was predicted wrong."""

    path: str  # relative to the validation folder
    label: str  # the true class
    prediction: str  # the predicted class
    probability: float  # of the predicted class
    label_probability: float  # of the true class
    indices: list[int]  # of the frames in the video
    frames: np.ndarray  # as the network saw them, before normalisation: uint8 (T, H, W, C)


def worst_mistakes(evaluation: Evaluation, dataset: ClipDataset, count: int) -> list[Mistake]:
    """The `count` wrong predictions with the highest probability, the highest first, with frames of their first clips.

    Raises VideoError or CacheError where the frames can no longer be read.
    """
    results, predictions = evaluation.results, evaluation.predictions
    wrong = ((predictions != results.targets) & (predictions >= 0)).nonzero()[:, 0]
    order = evaluation.probabilities[wrong].argsort(descending=True, stable=True)
    return [_mistake(evaluation, dataset, row) for row in wrong[order[:count]].tolist()]


def jpegs(frames: np.ndarray) -> list[bytes]:
    """Each of `frames`, uint8 RGB (T, H, W, C), as a JPEG file."""
    return [encode_jpeg(frame).numpy().tobytes() for frame in torch.from_numpy(frames).permute(0, 3, 1, 2).contiguous()]


def _mistake(evaluation: Evaluation, dataset: ClipDataset, row: int) -> Mistake:
    results = evaluation.results
    sample = Sample(int(results.videos[row]))
    clip: np.ndarray = np.empty(dataset.clip_shape, dataset.reader.dtype)
    dataset.read_into(clip[None], [sample])
    if clip.dtype != np.uint8:
        clip = np.rint(clip * 255).clip(0, 255).astype(np.uint8)
    target = int(results.targets[row])
    return Mistake(
        evaluation.paths[row],
        evaluation.classes[target],
        evaluation.classes[int(evaluation.predictions[row])],
        float(evaluation.probabilities[row]),
        float(evaluation.scores[row, target]),
        dataset.plan([sample])[0].indices.tolist(),
        clip,
    )
