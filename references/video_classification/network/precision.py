"""The device, type and memory layout that a network computes in."""

import contextlib
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeVar

import torch
from torch import Tensor

from clips.dataset import Batch

AMP_TYPES = {"off": None, "bf16": torch.bfloat16, "fp16": torch.float16}

ToInputs = Callable[[Tensor, Tensor, Tensor | None], Tensor]  # clips, flips, seeds -> B C T H W, as a dataset does

LAYOUTS = {"contiguous": torch.contiguous_format, "channels last": torch.channels_last_3d}


@dataclass
class Precision:
    """The device, type and memory layout that a network computes in."""

    device: torch.device
    amp: torch.dtype | None  # autocast type, None for float32
    scaler: torch.amp.GradScaler | None  # scales the loss where float16 gradients would vanish
    layout: str = "contiguous"  # of clips and weights, a key of LAYOUTS

    @classmethod
    def of(cls, name: str, device: torch.device) -> "Precision":
        """From a key of AMP_TYPES."""
        amp = AMP_TYPES[name]
        return cls(device, amp, torch.amp.GradScaler(device.type) if amp == torch.float16 else None)

    @property
    def memory_format(self) -> torch.memory_format:
        """The torch memory format of `layout`."""
        return LAYOUTS[self.layout]

    def autocast(self) -> contextlib.AbstractContextManager:
        """The context of a forward pass."""
        if self.amp is None:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, dtype=self.amp)


def to_device(batch: Batch, to_inputs: ToInputs, precision: Precision) -> tuple[Tensor, Tensor]:
    """Moves a batch to the device: the model's input, float32 (B, C, T, H, W) in its layout, and targets (B,)."""

    def prepare() -> tuple[Tensor, Tensor]:
        clips, targets = (values.to(precision.device, non_blocking=True) for values in (batch.clips, batch.targets))
        # Whether any clip is flipped is asked on the CPU, where it is known. Pixels come channels last as they are.
        inputs = to_inputs(clips, batch.flips, batch.seeds)
        return inputs.contiguous(memory_format=precision.memory_format), targets

    return beside_steps(precision.device, prepare)


def upload(device: torch.device, *values: Tensor) -> tuple[Tensor, ...]:
    """The tensors on the device."""
    return beside_steps(device, lambda: tuple(value.to(device, non_blocking=True) for value in values))


Tensors = TypeVar("Tensors", bound=tuple[Tensor, ...])


def beside_steps(device: torch.device, prepare: Callable[[], Tensors]) -> Tensors:
    """What `prepare` makes on the device from tensors on the CPU; on a GPU on a stream of its own, beside the steps.

    The host and the copies then never wait for the steps that are queued. Page-locked memory may be freed at once:
    torch does not use it again before the copy has ended.
    """
    if device.type != "cuda":
        return prepare()
    steps, stream = torch.cuda.current_stream(device), _copy_stream(device)
    with torch.cuda.stream(stream):
        made = prepare()
    steps.wait_stream(stream)
    for value in made:
        value.record_stream(steps)  # its memory is the other stream's, which would use it again once it is freed here
    return made


@lru_cache
def _copy_stream(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)


def resolve_device(name: str | None) -> torch.device:
    """The device `name`, by default the best one available. Raises ValueError if it is not available."""
    if name is None:
        name = "cuda" if _cuda_is_available() else "cpu"
    try:
        device = torch.device(name)
        if device.type != "cuda":  # a GPU is not touched here: under torchrun the process does not know its own yet
            torch.zeros(1, device=device).item()
    except Exception as error:  # each kind of device fails in its own way
        raise ValueError(f"--device {name}: torch has no such device here; use cuda or cpu") from error
    if device.type == "cuda" and not _cuda_is_available():
        raise ValueError(
            f"--device {name}: torch sees no GPU; check nvidia-smi and the torch build, or use --device cpu"
        )
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"--device {name}: torch sees {torch.cuda.device_count()} GPUs, numbered from 0")
    return device


def resolve_amp(name: str, device: torch.device) -> str:
    """A key of AMP_TYPES: `auto` becomes bf16 if the device supports it, else fp16."""
    if name != "auto":
        return name
    has_bf16 = device.type != "cuda" or torch.cuda.is_bf16_supported(including_emulation=False)
    return "bf16" if has_bf16 else "fp16"


def _cuda_is_available() -> bool:
    with warnings.catch_warnings():  # a CUDA build without a driver warns
        warnings.simplefilter("ignore")
        return torch.cuda.is_available()
