"""Whether an exported network computes what validation computes. The reference is validation's own code path, never
the code that was exported: so a forgotten mean or a swapped channel shows.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from caching.splits import Clips
from clips import presets
from clips.preprocessing import Preprocessing
from clips.samplers import evaluation_samples
from deployment.onnx_network import INPUT, OUTPUT, DeviceFormat, ExportError
from evaluation.metrics import VideoResults, VideoScores
from network.trained_model import TrainedModel
from runtime.errors import require
from runtime.progress import Progress

MAX_DIFFERENCE = 1e-4  # in logits
RANDOM_CLIPS = 4

Network = Callable[[np.ndarray], Tensor]  # clips (B, T, H, W, C) in [0, 1] -> logits (B, num_classes)


class TorchNetwork:
    """The trained network behind validation's preprocessing."""

    def __init__(self, model: TrainedModel) -> None:
        self._network = model.network

    @torch.inference_mode()
    def __call__(self, clips: np.ndarray) -> Tensor:
        return self._network(presets.normalize(torch.from_numpy(clips)))


class OnnxNetwork:
    """An exported network in ONNX Runtime, on the CPU.

    Args:
        model: the file's path or content.
        device_format, preprocessing: what it takes.
        num_threads: 0 for all cores.
    """

    def __init__(
        self, model: str | bytes, device_format: DeviceFormat, preprocessing: Preprocessing, num_threads: int = 0
    ) -> None:
        runtime = require("onnxruntime")
        options = runtime.SessionOptions()
        options.intra_op_num_threads = num_threads
        # Without it, CPUs that lack VNNI saturate sums of int8 products that no NPU saturates.
        options.add_session_config_entry("session.x64quantprecision", "1")
        try:
            self._session = runtime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime's errors have no class in common but this
            raise ExportError(f"ONNX Runtime cannot load the network: {str(error).splitlines()[0]}") from error
        self._format, self._preprocessing = device_format, preprocessing

    def __call__(self, clips: np.ndarray) -> Tensor:
        tensor = self._format.tensor(clips, self._preprocessing)
        parts = [tensor] if self._format.dynamic_batch else np.split(tensor, len(tensor))
        return torch.from_numpy(np.concatenate([self.run(part) for part in parts]))

    def run(self, tensor: np.ndarray) -> np.ndarray:
        """A tensor in the device's format to logits."""
        return self._session.run([OUTPUT], {INPUT: tensor})[0]


@dataclass(frozen=True)
class Scored:
    """What a network gave for the validation videos: logits float32 (V, num_classes), and how good they are."""

    logits: Tensor
    results: VideoResults

    @property
    def right(self) -> np.ndarray:
        """bool (V,)."""
        return (self.results.ranks < 1).numpy()


def check_file(proto) -> None:
    """ONNX's own checker, shapes included. Raises ExportError."""
    checker = require("onnx.checker")
    try:
        checker.check_model(proto, full_check=True)
    except (checker.ValidationError, require("onnx.shape_inference").InferenceError) as error:
        raise ExportError(f"the ONNX checker refuses the file: {str(error).splitlines()[0]}") from error


def random_clips(preprocessing: Preprocessing, count: int = RANDOM_CLIPS) -> np.ndarray:
    """Noise on a colour of its own for each clip, float32 (B, T, H, W, C) in [0, 1]; the same at each call."""
    generator = torch.Generator().manual_seed(0)
    channels, *sizes = preprocessing.clip_shape
    colours = torch.rand(count, 1, 1, 1, channels, generator=generator)
    return ((colours + torch.rand(count, *sizes, channels, generator=generator)) / 2).numpy()


def check_parity(expected: Tensor, given: Tensor) -> float:
    """The largest difference of two (B, num_classes) logits.

    Raises:
        ExportError: it is not below MAX_DIFFERENCE, or another class has the largest logit somewhere.
    """
    difference = (expected - given).abs().max().item()
    moved = int((expected.argmax(1) != given.argmax(1)).sum())
    if not difference < MAX_DIFFERENCE or moved:
        raise ExportError(
            f"ONNX Runtime and PyTorch differ: by {difference:.3g} in logits (less than {MAX_DIFFERENCE:g} is "
            f"allowed), and in the predicted class of {moved} of {len(expected)} clips"
        )
    return difference


def check_accuracy(expected: VideoResults, given: VideoResults) -> None:
    """Raises ExportError unless both networks are right as often."""
    if expected.video != given.video:
        raise ExportError(
            f"accuracy differs: {expected.video.top1:.3f} by PyTorch, {given.video.top1:.3f} by ONNX Runtime, "
            f"over {expected.video.count} videos"
        )


def clip_arrays(clips: Clips, videos: Tensor, description: str) -> Iterator[tuple[int, np.ndarray]]:
    """Yields (row, clip float32 (1, T, H, W, C) in [0, 1]) for each of `videos`; shows how far it has come."""
    with Progress(description, len(videos), "video") as progress:
        for batch in clips.loader.batches(evaluation_samples(videos, 1)):
            for row, clip in zip(batch.videos.tolist(), batch.clips.numpy(), strict=True):
                yield row, clip[None]
                progress.update()


def score(networks: Mapping[str, Network], clips: Clips, num_classes: int) -> dict[str, Scored]:
    """Runs every network on the same official clip of each video, one clip at a time as a device does."""
    targets = torch.from_numpy(clips.loader.dataset.folder.labels)
    scores = {name: VideoScores(targets, num_classes, clips_per_video=1) for name in networks}
    logits: dict[str, list[Tensor]] = {name: [] for name in networks}
    for row, clip in clip_arrays(clips, clips.videos, "Comparing"):
        for name, network in networks.items():
            output, video = network(clip), torch.tensor([row])
            scores[name].update(video, output, F.cross_entropy(output, targets[video], reduction="none"))
            logits[name].append(output)
    return {name: Scored(torch.cat(logits[name]), scores[name].reduce(clips.videos)) for name in networks}
