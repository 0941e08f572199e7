"""What inference costs: size, arithmetic, latency and memory for single clips, by PyTorch and by ONNX Runtime."""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.measuring import BenchmarkOptions, peak_megabytes
from clips.preprocessing import Preprocessing
from deployment.onnx_network import DeviceFormat, to_onnx
from deployment.parity import Network, OnnxNetwork, TorchNetwork, measure_latency, random_clips
from deployment.quantization import quantize_int8
from network.checkpoint import Checkpoint
from network.models import build_model, parameter_counts
from network.trained_model import load_trained_model
from runtime.errors import require
from runtime.worker_pool import map_in_workers

NUM_CLASSES = 100
CALIBRATION_CLIPS = 2  # of noise: the speed does not depend on the ranges


def benchmark_model(options: BenchmarkOptions) -> dict[str, float]:
    """Figures of an untrained network on single clips: `steps` calls per round are timed, with `workers` threads.

    Returns:
        Parameters, 10^9 multiply-accumulates, and for each runtime the median and 95th percentile in milliseconds and
        the most memory that it added to its process, in megabytes.

    Raises:
        MissingExtra: no onnx, onnxscript or onnxruntime.
    """
    for name in ("onnx", "onnxscript", "onnxruntime"):
        require(name)
    figures = _arithmetic(options)
    with tempfile.TemporaryDirectory(dir=options.scratch) as folder:
        files = _write_files(Path(folder), options)
        for runtime in RUNTIMES:
            # Each in a process of its own, where only its own memory counts.
            inference = _Inference(files, options.workers, options.steps * options.rounds)
            [(median, p95, megabytes)] = map_in_workers(inference, [runtime], 1)
            figures[f"model_{runtime}_median_ms"] = median
            figures[f"model_{runtime}_p95_ms"] = p95
            figures[f"model_{runtime}_peak_megabytes"] = megabytes
    return figures


@dataclass(frozen=True)
class _Files:
    checkpoint: Path
    float: Path
    int8: Path
    preprocessing: Preprocessing


def _arithmetic(options: BenchmarkOptions) -> dict[str, float]:
    with torch.device("meta"):
        network = build_model(options.model, NUM_CLASSES).eval()
        clip = torch.empty(1, *options.preprocessing.clip_shape)
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        network(clip)
    multiply_accumulates = counter.get_total_flops() / 2
    return {"model_parameters": parameter_counts(network)[1], "model_gmac": multiply_accumulates / 1e9}


def _write_files(folder: Path, options: BenchmarkOptions) -> _Files:
    preprocessing = options.preprocessing
    files = _Files(folder / "model.pth", folder / "float.onnx", folder / "int8.onnx", preprocessing)
    classes = [str(number) for number in range(NUM_CLASSES)]
    state = build_model(options.model, NUM_CLASSES).state_dict()
    Checkpoint(state, classes, preprocessing, {"model": options.model}).write(files.checkpoint)
    model = load_trained_model(files.checkpoint)
    float_proto = to_onnx(model, DeviceFormat())
    clips = random_clips(model.preprocessing, CALIBRATION_CLIPS)
    tensors = (DeviceFormat().tensor(clip[None], model.preprocessing) for clip in clips)
    files.float.write_bytes(float_proto.SerializeToString())
    files.int8.write_bytes(quantize_int8(float_proto, tensors).SerializeToString())
    return files


@dataclass(frozen=True)
class _Inference:
    """A function that loads the network by a runtime and measures it."""

    files: _Files
    num_threads: int
    repeats: int

    def __call__(self, runtime: str) -> tuple[float, float, float]:
        torch.set_num_threads(self.num_threads)
        clip = random_clips(self.files.preprocessing, 1)
        before = peak_megabytes()
        network = RUNTIMES[runtime](self.files, self.num_threads)
        latency = measure_latency(lambda: network(clip), self.repeats)
        return latency.median_ms, latency.p95_ms, peak_megabytes() - before


def _onnx_network(path: Path, files: _Files, num_threads: int) -> OnnxNetwork:
    return OnnxNetwork(str(path), DeviceFormat(), files.preprocessing, num_threads)


RUNTIMES: dict[str, Callable[[_Files, int], Network]] = {
    "torch": lambda files, threads: TorchNetwork(load_trained_model(files.checkpoint)),
    "onnx": lambda files, threads: _onnx_network(files.float, files, threads),
    "onnx_int8": lambda files, threads: _onnx_network(files.int8, files, threads),
}
