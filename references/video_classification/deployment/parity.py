"""Checks that an exported network computes what validation computes, and measures its latency.

The reference is validation's own code, never the code that was exported, so a forgotten mean or swapped channels show.
"""

import functools
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from caching.splits import Clips
from clips import presets
from clips.preprocessing import Preprocessing
from clips.samplers import evaluation_samples
from deployment.onnx_network import INPUT, OUTPUT, DeviceFormat, check_operators, to_onnx
from evaluation.intervals import paired_difference
from evaluation.metrics import VideoResults, VideoScores
from network.trained_model import TrainedModel
from runtime.errors import UserError, first_line, require
from runtime.progress import Progress

MAX_DIFFERENCE = 1e-4  # of logits
RANDOM_CLIPS = 4

Network = Callable[[np.ndarray], Tensor]  # clips (B, T, H, W, C) in [0, 1] -> logits (B, num_classes)


@dataclass(frozen=True)
class TorchNetwork:
    """The trained network, with validation's preprocessing."""

    model: TrainedModel

    @torch.inference_mode()
    def __call__(self, clips: np.ndarray) -> Tensor:
        return self.model.network(presets.normalize(torch.from_numpy(clips), self.model.preprocessing).contiguous())


class OnnxNetwork:
    """An exported network in ONNX Runtime, on the CPU. Raises UserError where ONNX Runtime cannot load it.

    Args:
        model: the file's path or content.
        device_format, preprocessing: the input that it takes, and its mean and deviation.
        num_threads: by default as many as torch uses.
    """

    def __init__(
        self,
        model: str | bytes,
        device_format: DeviceFormat,
        preprocessing: Preprocessing,
        num_threads: int | None = None,
    ) -> None:
        runtime = require("onnxruntime")
        options = runtime.SessionOptions()
        options.intra_op_num_threads = num_threads or torch.get_num_threads()
        # CPUs without VNNI would otherwise saturate sums of int8 products that no NPU saturates.
        options.add_session_config_entry("session.x64quantprecision", "1")
        try:
            self._session = runtime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime's errors have no other common class
            raise UserError(f"ONNX Runtime cannot load the network: {first_line(error)}") from error
        self._format, self._preprocessing = device_format, preprocessing

    def __call__(self, clips: np.ndarray) -> Tensor:
        tensor = self._format.tensor(clips, self._preprocessing)
        parts = [tensor] if self._format.dynamic_batch else np.split(tensor, len(tensor))
        return torch.from_numpy(np.concatenate([self.run(part) for part in parts]))

    def run(self, tensor: np.ndarray) -> np.ndarray:
        """Computes logits from a tensor in the device's format."""
        return self._session.run([OUTPUT], {INPUT: tensor})[0]


@dataclass(frozen=True)
class Scored:
    """What a network computed for the validation videos."""

    logits: Tensor  # float32 (V, num_classes)
    results: VideoResults

    @property
    def right(self) -> list[bool]:
        """Whether each video's class was predicted."""
        return (self.results.ranks < 1).tolist()


def export(model: TrainedModel, device_format: DeviceFormat) -> tuple[Any, dict[str, Network]]:
    """Exports a network and proves on random clips that it computes the same.

    Returns the `onnx.ModelProto`, and the networks that further proofs compare, `PyTorch` and `float`. Raises
    UserError where the export fails or computes something else; MissingExtra.
    """
    proto = to_onnx(model, device_format)
    check_structure(proto, "float")
    networks: dict[str, Network] = {"PyTorch": TorchNetwork(model)}
    networks["float"] = OnnxNetwork(proto.SerializeToString(), device_format, model.preprocessing)
    clips = random_clips(model.preprocessing)
    difference = check_parity(networks["PyTorch"](clips), networks["float"](clips))
    print(f"parity: {len(clips)} random clips, largest difference in logits {difference:.2g}, same classes")
    return proto, networks


def check_structure(proto: Any, name: str, further_operators: Collection[str] = ()) -> None:
    """Checks operators and file, and prints what was found. Raises UserError."""
    operators = check_operators(proto, further_operators)
    print(f"{name}: operators {', '.join(f'{operator} {count}' for operator, count in sorted(operators.items()))}")
    checker = require("onnx.checker")
    try:
        checker.check_model(proto, full_check=True)  # with shape inference
    except (checker.ValidationError, require("onnx.shape_inference").InferenceError) as error:
        raise UserError(f"the ONNX checker rejects the file: {first_line(error)}") from error
    print(f"{name}: ONNX checker passed, opset {proto.opset_import[0].version}")


def random_clips(preprocessing: Preprocessing, count: int = RANDOM_CLIPS) -> np.ndarray:
    """Noise around a different color in each clip, float32 (B, T, H, W, C) in [0, 1]; every call returns the same."""
    generator = torch.Generator().manual_seed(0)
    channels, *sizes = preprocessing.clip_shape
    colours = torch.rand(count, 1, 1, 1, channels, generator=generator)
    return ((colours + torch.rand(count, *sizes, channels, generator=generator)) / 2).numpy()


def check_parity(expected: Tensor, given: Tensor) -> float:
    """The largest difference between two logits (B, num_classes).

    Raises UserError where it is not below MAX_DIFFERENCE, or the predicted class of a clip differs.
    """
    difference = (expected - given).abs().max().item()
    moved = int((expected.argmax(1) != given.argmax(1)).sum())
    if not difference < MAX_DIFFERENCE or moved:
        raise UserError(
            f"ONNX Runtime and PyTorch differ: by up to {difference:.3g} in logits (less than {MAX_DIFFERENCE:g} is "
            f"allowed), and in the predicted class of {moved} of {len(expected)} clips"
        )
    return difference


def clip_arrays(clips: Clips, videos: Tensor, description: str) -> Iterator[tuple[int, np.ndarray]]:
    """Yields (row, clip float32 (1, T, H, W, C) in [0, 1]) for each of `videos`, and shows progress."""
    with Progress(description, len(videos), "video") as progress:
        for batch in clips.loader.batches(evaluation_samples(videos, 1)):
            for row, clip in zip(batch.videos.tolist(), batch.clips.numpy(), strict=True):
                yield row, clip[None]
                progress.update()


def prove_on_videos(
    networks: Mapping[str, Network], val: Clips, num_classes: int, max_drop: float = 0.0
) -> dict[str, Scored]:
    """Compares the networks on the validation videos, prints their accuracy, and returns what each computed.

    Raises UserError where float differs from PyTorch, or int8 loses more than `max_drop`.

    Args:
        networks: `PyTorch`, `float` and perhaps `int8`.
        val: the validation videos' clips.
        num_classes: outputs of the networks.
        max_drop: points of accuracy that int8 may lose.
    """
    scored = score(networks, val, num_classes)
    expected, exported = scored["PyTorch"], scored["float"]
    difference = check_parity(expected.logits, exported.logits)
    right, by_onnx = expected.results.video, exported.results.video
    if right != by_onnx:
        raise UserError(
            f"accuracy differs: {right.top1:.3f} by PyTorch, {by_onnx.top1:.3f} by ONNX Runtime, "
            f"over {right.count} videos"
        )
    skipped = f", {val.skipped} unreadable not scored" if val.skipped else ""
    seen = " of videos seen in training" if val.seen else ""
    print(
        f"proof: {len(val.videos)} validation videos{skipped}, {val.options.preprocessing.rule}\n"
        f"proof: largest difference in logits {difference:.2g}; video Acc@1 {right.top1:.3f} by PyTorch, "
        f"{by_onnx.top1:.3f} by ONNX Runtime{seen}"
    )
    if "int8" not in scored:
        return scored
    points, low, high = (100 * share for share in paired_difference(exported.right, scored["int8"].right))
    print(
        f"int8: video Acc@1 {scored['int8'].results.video.top1:.3f}, {points:+.3f} points against float "
        f"(95 % interval, paired: {low:+.3f} to {high:+.3f}){seen}"
    )
    if points < -max_drop:
        raise UserError(f"int8 loses {-points:.3f} points, more than --max-drop {max_drop:g}: try --keep-float")
    return scored


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


def print_latencies(networks: Mapping[str, Network], clip: np.ndarray) -> None:
    """Measures and prints how long each network takes for a clip (1, T, H, W, C)."""
    for name, network in networks.items():
        latency = measure_latency(functools.partial(network, clip), repeats=10, warmup=2)
        print(f"latency on this CPU, {torch.get_num_threads()} threads: {name} {latency}")


@dataclass(frozen=True)
class Latency:
    """Milliseconds per call."""

    median_ms: float
    p95_ms: float  # 95th percentile

    def __str__(self) -> str:
        return f"{self.median_ms:.1f} ms (95th percentile {self.p95_ms:.1f})"


def measure_latency(call: Callable[[], Any], repeats: int = 20, warmup: int = 3) -> Latency:
    """Times `repeats` calls after `warmup` calls that are not timed."""
    for _ in range(warmup):
        call()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        times.append(1000 * (time.perf_counter() - start))
    return Latency(float(np.median(times)), float(np.percentile(times, 95)))
