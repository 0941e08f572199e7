"""In which type, and which memory layout, a network computes."""

import contextlib
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from clips.dataset import Batch

AMP_TYPES = {"off": None, "bf16": torch.bfloat16, "fp16": torch.float16}

LAYOUTS = {"contiguous": torch.contiguous_format, "channels last": torch.channels_last_3d}


@dataclass
class Precision:
    """In which type, and which layout, the network computes.

    amp: the type of autocast, None for float32. scaler: scales the loss where float16 gradients would vanish.
    layout: a name of LAYOUTS, of the clips and the network's weights.
    """

    device: torch.device
    amp: torch.dtype | None
    scaler: torch.amp.GradScaler | None
    layout: str = "contiguous"

    @classmethod
    def of(cls, name: str, device: torch.device) -> "Precision":
        """By a name of AMP_TYPES."""
        amp = AMP_TYPES[name]
        return cls(device, amp, torch.amp.GradScaler(device.type) if amp == torch.float16 else None)

    @property
    def memory_format(self) -> torch.memory_format:
        """Of the layout."""
        return LAYOUTS[self.layout]

    def autocast(self) -> contextlib.AbstractContextManager:
        """The context of a forward pass."""
        if self.amp is None:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, dtype=self.amp)


def to_device(
    batch: Batch, to_inputs: Callable[[Tensor, Tensor, Tensor | None], Tensor], precision: Precision
) -> tuple[Tensor, Tensor]:
    """The batch on the device: the model's input, float32 (B, C, T, H, W), and targets (B,)."""
    clips, flips, targets = (
        values.to(precision.device, non_blocking=True) for values in (batch.clips, batch.flips, batch.targets)
    )
    return to_inputs(clips, flips, batch.seeds).contiguous(memory_format=precision.memory_format), targets
