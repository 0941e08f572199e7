"""What a video goes through before the network. Imports no torch, so that parsers can take their defaults from it."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

MEAN = (0.43216, 0.394666, 0.37645)  # of Kinetics-400, as torchvision's weights expect
STD = (0.22803, 0.22145, 0.216989)
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
    resize_size: tuple[int, int] = (128, 171)  # height, width
    crop_size: tuple[int, int] = (112, 112)  # height, width
    mean: tuple[float, float, float] = MEAN  # by channel, of RGB in [0, 1]
    std: tuple[float, float, float] = STD

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
            ValueError: a value is missing or malformed, the selection is unknown, or mean and std are not ours.
        """
        try:
            preprocessing = cls(
                clip_len=int(values["clip_len"]),
                frame_rate=float(values["frame_rate"]),
                frame_selection=str(values["frame_selection"]),
                candidate_rate=float(values["candidate_rate"]) if values.get("candidate_rate") else None,
                resize_size=_size(values["resize_size"]),
                crop_size=_size(values["crop_size"]),
                mean=_channels(values["mean"]),
                std=_channels(values["std"]),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ValueError(f"its `preprocessing` is incomplete: {error}") from error
        if preprocessing.frame_selection not in FRAME_SELECTIONS:
            raise ValueError(f"there is no frame selection {preprocessing.frame_selection!r} here")
        for name, found, known in (("mean", preprocessing.mean, MEAN), ("std", preprocessing.std, STD)):
            # Validation normalises with these alone; with others every prediction would silently be worse.
            if found != known:
                raise ValueError(f"its {name} {found} is not {known}")
        return preprocessing


def _size(values: Any) -> tuple[int, int]:
    height, width = map(int, values)
    return height, width


def _channels(values: Any) -> tuple[float, float, float]:
    red, green, blue = map(float, values)
    return red, green, blue
