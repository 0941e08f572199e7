"""What makes a network run faster on this hardware without changing what it computes: layout, compilation, memory."""

import contextlib
import copy
import ctypes
import sys
import time
from collections import deque
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from network.models import ModelError
from network.precision import LAYOUTS, Precision
from runtime.distributed import broadcast_object, is_main, print_main
from runtime.progress import StepMeter

CHANNELS_LAST = {"on": "channels last", "off": "contiguous"}  # layouts; --channels-last auto chooses one
PROBE_SECONDS, PROBE_WARMUP = 1.0, 3  # for each layout: time measured, and steps before it
STEPS_AHEAD = 2
# Largest difference between two layouts that counts as rounding, relative to the largest output: over some twenty
# layers, rounding in these types stays well below it, and a wrong kernel is well above.
PROBE_TOLERANCES = {None: 0.01, torch.float16: 0.02, torch.bfloat16: 0.1}

# glibc's mallopt parameters, and the values that it adapts to by itself in a program that uses large blocks.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_MMAP_MAX = -1, -3, -4
GLIBC_USUAL = {M_TRIM_THRESHOLD: 64 << 20, M_MMAP_THRESHOLD: 32 << 20, M_MMAP_MAX: 65536}


def known_problems(
    torch_version: str, cudnn_version: int | None, device_type: str, amp: torch.dtype | None
) -> list[str]:
    """Warnings about versions known to compute 3D convolutions slowly or wrongly.

    Args:
        torch_version: such as 2.9.0+cu128.
        cudnn_version: such as 91002, None without cuDNN.
        device_type: cuda or cpu.
        amp: autocast type, None for float32.
    """
    problems = []
    is_mixed = device_type == "cuda" and amp is not None
    if is_mixed and torch_version.split("+")[0] in ("2.9.0", "2.9.1") and (cudnn_version or 0) < 91500:
        problems.append(
            "torch 2.9.0 and 2.9.1 compute 3D convolutions in mixed precision slowly, and with more memory, where "
            "cuDNN is older than 9.15: install a newer nvidia-cudnn, or another torch (2.8, 2.10 or later)"
        )
    if device_type == "cuda" and amp == torch.bfloat16 and cudnn_version == 91002:
        problems.append(
            "cuDNN 9.10.2 gives wrong results for 3D convolutions of large shapes in bfloat16: install a newer "
            "nvidia-cudnn, or use --amp fp16"
        )
    return problems


def set_up_hardware(precision: Precision) -> None:
    """Allows TF32 for float32 matrix products on a GPU, and warns about versions with known problems."""
    if precision.device.type == "cuda":
        torch.set_float32_matmul_precision("high")
    cudnn_version = torch.backends.cudnn.version() if precision.device.type == "cuda" else None
    for problem in known_problems(torch.__version__, cudnn_version, precision.device.type, precision.amp):
        print_main(f"WARNING: {problem}")


class StepQueue:
    """Keeps the host at most STEPS_AHEAD steps ahead of a GPU, and times how long the GPU waits for batches.

    The host queues a step in a few milliseconds: without a limit, batches of steps to come would fill the memory. How
    long the host waits for a batch says little, since the GPU may still compute.

    Args:
        device: on a CPU, where a step is done when its call returns, nothing is limited or timed.
        meter: of the steps; on a GPU, its `data_seconds` become the GPU's.
    """

    def __init__(self, device: torch.device, meter: StepMeter) -> None:
        self._device, self._meter = device, meter
        self.steps_ahead = STEPS_AHEAD if device.type == "cuda" else 0
        self._queued: deque[list[torch.cuda.Event]] = deque()  # of each step: end of the last one, begin, end
        self._events = [] if self.steps_ahead == 0 else [_record_event(device)]
        self._waited_seconds = 0.0

    def batch_is_here(self) -> None:
        """Call before a step."""
        if self.steps_ahead:
            self._events.append(_record_event(self._device))

    def step_is_queued(self) -> None:
        """Call after a step; returns when all but the last STEPS_AHEAD steps have ended."""
        if self.steps_ahead:
            self._events.append(_record_event(self._device))
            self._queued.append(self._events)
            self._events = self._events[-1:]
            self.finish(self.steps_ahead)

    def finish(self, but: int = 0) -> None:
        """Waits for all steps but the last `but`."""
        while len(self._queued) > but:
            last_end, begin, end = self._queued.popleft()
            end.synchronize()
            self._waited_seconds += last_end.elapsed_time(begin) / 1000
        if self.steps_ahead:
            self._meter.data_seconds = self._waited_seconds


def _record_event(device: torch.device) -> torch.cuda.Event:
    event = torch.cuda.Event(enable_timing=True)
    event.record(torch.cuda.current_stream(device))
    return event


def lay_out(
    model: nn.Module, choice: str, batch_shape: Sequence[int], precision: Precision, remembered: str | None = None
) -> None:
    """Converts `model`, on its device, to the memory layout to compute in, and sets `precision.layout`.

    Args:
        model: the network; parameters to train require a gradient.
        choice: a key of CHANNELS_LAST, or `auto`: the remembered layout, otherwise the faster one on a GPU, measured
            for a few seconds. On a CPU, and with deterministic algorithms, which timing must not influence: contiguous.
        batch_shape: (B, C, T, H, W) of a training step.
        precision: where the layout is set.
        remembered: the layout of the run that is continued.
    """
    if choice in CHANNELS_LAST:
        precision.layout = CHANNELS_LAST[choice]
    elif remembered in LAYOUTS:
        precision.layout = remembered
    elif precision.device.type == "cuda" and not torch.are_deterministic_algorithms_enabled():
        # One process decides for all: they must compute in the same layout.
        precision.layout = broadcast_object(probe_layouts(model, batch_shape, precision) if is_main() else None)
    model.to(memory_format=precision.memory_format)


def probe_layouts(model: nn.Module, batch_shape: Sequence[int], precision: Precision) -> str:
    """Times training steps in both layouts on copies of `model`, prints the result, and returns the better layout.

    That is channels last only if it is faster and gives the same outputs within rounding.
    """
    seconds, outputs = {}, {}
    clips = torch.randn(*batch_shape, device=precision.device)
    for name, layout in LAYOUTS.items():
        trial = copy.deepcopy(model).to(memory_format=layout).eval()
        inputs = clips.contiguous(memory_format=layout)
        with torch.inference_mode(), precision.autocast():
            outputs[name] = trial(inputs).float()
        seconds[name] = _step_seconds(trial, inputs, precision)
        del trial
    plain, other = (outputs[name] for name in LAYOUTS)
    difference = ((plain - other).abs().max() / plain.abs().max()).item()
    is_same = difference <= PROBE_TOLERANCES[precision.amp]
    better = "channels last" if is_same and seconds["channels last"] < seconds["contiguous"] else "contiguous"
    times = ", ".join(f"{name} {1000 * value:.1f} ms" for name, value in seconds.items())
    verdict = "the same outputs" if is_same else f"DIFFERENT outputs, by {difference:.2g}"
    print_main(f"Layout: a training step of {len(clips)} clips takes {times}, with {verdict}: {better} is used")
    return better


def _step_seconds(model: nn.Module, inputs: Tensor, precision: Precision) -> float:
    """Seconds of the fastest forward and backward pass within PROBE_SECONDS."""
    fastest, steps, end = float("inf"), 0, float("inf")
    while steps <= PROBE_WARMUP or time.perf_counter() < end:
        _synchronize(precision.device)
        start = time.perf_counter()
        with precision.autocast():
            loss = model(inputs).float().square().mean()
        loss.backward()
        _synchronize(precision.device)
        steps += 1
        if steps == PROBE_WARMUP:
            end = time.perf_counter() + PROBE_SECONDS
        if steps > PROBE_WARMUP:
            fastest = min(fastest, time.perf_counter() - start)
    return fastest


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def compile_network(network: nn.Module, device: torch.device) -> None:
    """Compiles the network in place; the compilation runs when it is first used.

    Raises:
        ModelError: torch fails to compile a small module here; the message has the reason.
    """
    try:
        torch.compile(nn.Linear(2, 2).to(device))(torch.zeros(1, 2, device=device))
    except Exception as error:  # what compilers raise has no common public class
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        needs = "Triton" if device.type == "cuda" else "a C++ compiler"
        raise ModelError(f"--compile does not work here, since it needs {needs}: {reason}. Run without it") from error
    network.compile()


@contextlib.contextmanager
def freed_memory_kept(device_type: str = "cpu") -> Iterator[None]:
    """A context manager in which freed memory is reused instead of returned to the system (CPU, glibc).

    By default every large activation is mapped and paged in anew. On two EPYC cores r2plus1d_18 trained 1.4 clips/s
    with layer4 and fc trainable, and 2.4 with this; 0.6 and 1.0 with all layers, for a quarter more memory.
    """
    libc = _glibc() if device_type == "cpu" and not _is_kept else None
    if libc is None:
        yield
        return
    libc.mallopt(M_MMAP_MAX, 0)
    libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
    _is_kept.append(True)
    try:
        yield
    finally:
        _is_kept.pop()
        for parameter, value in GLIBC_USUAL.items():
            libc.mallopt(parameter, value)
        libc.malloc_trim(0)


_is_kept: list[bool] = []  # not empty inside the context, so that a nested one changes nothing


def _glibc() -> ctypes.CDLL | None:
    if not sys.platform.startswith("linux"):
        return None
    libc = ctypes.CDLL(None)
    return libc if hasattr(libc, "mallopt") else None
