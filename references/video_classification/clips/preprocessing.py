"""What a video goes through before the network. Imports no torch, so that parsers can take their defaults from it."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

Channels = tuple[float, float, float]

MEAN: Channels = (0.43216, 0.394666, 0.37645)  # of Kinetics-400, as most of torchvision's weights expect
STD: Channels = (0.22803, 0.22145, 0.216989)
PIXELS = "RGB float in [0, 1], bilinear without antialias, centre crop, then (x - mean) / std"
FRAME_SELECTIONS = ("official", "uniform", "segment", "motion")  # the keys of FRAME_SELECTORS


@dataclass(frozen=True)
class Preprocessing:
    """How frames are chosen, resized, cropped and normalised; by default as `r2plus1d_18` and the challenge expect."""

    clip_len: int = 16  # frames
    frame_rate: float = 4  # frames a second
    frame_selection: str = "official"  # one of FRAME_SELECTIONS
    # Frames a second that are chosen among, None for all. The official selection is from its own strip.
    candidate_rate: float | None = None
    resize_size: tuple[int, int] | tuple[int] = (128, 171)  # height, width; or the shorter side, keeping the shape
    crop_size: tuple[int, int] = (112, 112)  # height, width
    mean: Channels = MEAN  # by channel, of RGB in [0, 1]
    std: Channels = STD

    @classmethod
    def of_model(cls, name: str) -> "Preprocessing":
        """As the published weights of a network expect; the defaults for one that is not known."""
        return replace(cls(), **FED_OTHERWISE.get(name, {}))

    @property
    def frame_size(self) -> tuple[int, int] | None:
        """Height and width of all resized frames, None where they depend on the video."""
        return self.resize_size if len(self.resize_size) == 2 else None

    def differences(self, other: "Preprocessing") -> list[str]:
        """In what this differs from `other`, in words; the candidates of a selection are not compared."""
        pairs = ((field.name, getattr(self, field.name), getattr(other, field.name)) for field in fields(self))
        return [
            f"{name} {_words(own)} instead of {_words(others)}"
            for name, own, others in pairs
            if own != others and name != "candidate_rate"
        ]

    @property
    def rule(self) -> str:
        """How frames are chosen, in words."""
        return f"{self.frame_selection} frames, {self.clip_len} at {self.frame_rate:g} a second"

    @property
    def clip_shape(self) -> tuple[int, int, int, int]:
        """(C, T, H, W), as the network takes it."""
        return (3, self.clip_len, *self.crop_size)

    def plain(self) -> dict[str, Any]:
        """The form that checkpoints and exported files keep."""
        values = {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}
        return {**values, "pixels": PIXELS}

    @classmethod
    def from_plain(cls, values: Mapping[str, Any]) -> "Preprocessing":
        """Reads what `plain` wrote.

        Raises:
            ValueError: a value is missing or malformed, or the selection is unknown.
        """
        try:
            preprocessing = cls(
                clip_len=int(values["clip_len"]),
                frame_rate=float(values["frame_rate"]),
                frame_selection=str(values["frame_selection"]),
                candidate_rate=float(values["candidate_rate"]) if values.get("candidate_rate") else None,
                resize_size=_size_or_side(values["resize_size"]),
                crop_size=_size(values["crop_size"]),
                mean=_channels(values["mean"]),
                std=_channels(values["std"]),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ValueError(f"its `preprocessing` is incomplete: {error}") from error
        if preprocessing.frame_selection not in FRAME_SELECTIONS:
            raise ValueError(f"there is no frame selection {preprocessing.frame_selection!r} here")
        if not all(map(math.isfinite, preprocessing.mean)) or not all(0 < s < math.inf for s in preprocessing.std):
            raise ValueError(f"it normalizes by mean {preprocessing.mean} and std {preprocessing.std}")
        return preprocessing


# What torchvision's weights of its other video models expect; a test holds it equal to their transforms.
_MVIT: dict[str, Any] = {"resize_size": (256,), "crop_size": (224, 224), "mean": (0.45,) * 3, "std": (0.225,) * 3}
_SWIN: dict[str, Any] = {**_MVIT, "mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
FED_OTHERWISE: dict[str, dict[str, Any]] = {
    "mvit_v1_b": _MVIT,
    "mvit_v2_s": _MVIT,
    "s3d": {"resize_size": (256, 256), "crop_size": (224, 224)},
    "swin3d_b": _SWIN,
    "swin3d_s": _SWIN,
    "swin3d_t": _SWIN,
}


def _words(value: Any) -> str:
    """A size as 128x171, a shorter side as such, channels as numbers."""
    if not isinstance(value, tuple):
        return str(value)
    if len(value) == 1:
        return f"{value[0]} (shorter side)"
    return ("x" if isinstance(value[0], int) else " ").join(map(str, value))


def _size(values: Any) -> tuple[int, int]:
    height, width = map(int, values)
    return height, width


def _size_or_side(values: Any) -> tuple[int, int] | tuple[int]:
    return (int(values[0]),) if len(values) == 1 else _size(values)


def _channels(values: Any) -> Channels:
    red, green, blue = map(float, values)
    return red, green, blue
