"""The device, type and memory layout that a network computes in."""

import contextlib
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from clips.dataset import Batch

AMP_TYPES = {"off": None, "bf16": torch.bfloat16, "fp16": torch.float16}

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


def to_device(
    batch: Batch, to_inputs: Callable[[Tensor, Tensor, Tensor | None], Tensor], precision: Precision
) -> tuple[Tensor, Tensor]:
    """Moves a batch to the device: the model's input, float32 (B, C, T, H, W), and targets (B,)."""
    clips, flips, targets = (
        values.to(precision.device, non_blocking=True) for values in (batch.clips, batch.flips, batch.targets)
    )
    return to_inputs(clips, flips, batch.seeds).contiguous(memory_format=precision.memory_format), targets


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
