"""The worst mistakes: wrong predictions with the highest probability, with the frames that the network saw."""

from dataclasses import dataclass
from fractions import Fraction

import av
import numpy as np

from clips.dataset import ClipDataset
from clips.samplers import Sample
from reporting.result_files import Evaluation

JPEG_QUANTISER = "3"  # of 2 (best) to 31: about 5 kB for a frame of 112x112


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
    """Each of `frames`, uint8 RGB (T, H, W, C), as a JPEG file without chroma subsampling."""
    codec = av.CodecContext.create("mjpeg", "w")
    codec.height, codec.width = frames.shape[1:3]
    codec.pix_fmt, codec.time_base = "yuvj444p", Fraction(1)
    codec.options = {"qmin": JPEG_QUANTISER, "qmax": JPEG_QUANTISER}
    packets = []
    for number, pixels in enumerate(frames):
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
        frame = frame.reformat(format="yuvj444p", dst_color_range="JPEG")
        frame.pts = number
        packets += codec.encode(frame)
    return [bytes(packet) for packet in (*packets, *codec.encode(None))]


def _mistake(evaluation: Evaluation, dataset: ClipDataset, row: int) -> Mistake:
    results = evaluation.results
    sample = Sample(int(results.videos[row]))
    clip: np.ndarray = np.empty(dataset.clip_shape, dataset.reader.dtype)
    dataset.read_into(clip, sample)
    if clip.dtype != np.uint8:
        clip = np.rint(clip * 255).clip(0, 255).astype(np.uint8)
    target = int(results.targets[row])
    return Mistake(
        evaluation.paths[row],
        evaluation.classes[target],
        evaluation.classes[int(evaluation.predictions[row])],
        float(evaluation.probabilities[row]),
        float(evaluation.scores[row, target]),
        dataset.plan(sample).indices.tolist(),
        clip,
    )
