"""Chooses the frames of a clip: pure functions from counts and rates to frame indices, no I/O.

A *strip* is the video resampled to the target rate, a *clip* is `clip_len` frames of it. For a video of 12 frames at
12 frames a second, a target rate of 4 and clips of 3 frames:

    frames   0  1  2  3  4  5  6  7  8  9 10 11
    strip    0        3        6        9          official_strip(12, 12.0, 4, 3)
    clip 0   0        3        6                   official_clip(12, 12.0, 4, 3)
    clip 1            3        6        9          official_clip(12, 12.0, 4, 3, clip=1, clips_per_video=2)

Every selector in `FRAME_SELECTORS` has the signature

    selector(video: VideoTiming, clip_len, frame_rate, *, clip, clips_per_video, generator) -> LongTensor (clip_len,)

and returns sorted indices within `0 .. num_frames - 1`; frames repeat where the video is too short. With
`generator=None` the choice is deterministic (evaluation), else it is drawn (training): from a torch.Generator, or from
numbers in [0, 1) that were drawn before, two for `official` and `clip_len` for the others.
"""

import math
from collections.abc import Callable, Sequence
from functools import cache, lru_cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from runtime.errors import UserError

MAX_STRIP = 1 << 24  # frames: as far as float32, in which the official rule computes, counts in ones
MOTION_SHARE = 0.7  # of the mass that `motion` cuts into equal parts; the rest is spread evenly over the video
MOTION_POWER = 0.5  # evens out bursts of motion (MGSampler, arXiv 2104.09952, section 3.2)


class RateError(UserError, ValueError):
    """The video's rate and the one to resample to are so far apart that no strip can be made."""


class VideoTiming(NamedTuple):
    """What selection may know of a video."""

    num_frames: int  # that decode
    fps: float  # the container's average rate, frames a second
    # float (M,), how much the picture changes, spread evenly from the first frame to the last: with M = num_frames - 1,
    # value i is the change between frames i and i + 1. Only `motion` needs it.
    motion: Tensor | None = None


Generator = torch.Generator | Sequence[float] | None


def official_strip(num_frames: int, fps: float, frame_rate: float, clip_len: int) -> Tensor:
    """The strip: the frames that the challenge's evaluator keeps of a video, before it cuts clips out of them.

    A video with too few frames for one clip gets a higher rate. The float32 product is the evaluator's: at rates such
    as 30000/1001 float64 would pick other frames.

    Args:
        num_frames: decoded frames, at least 1.
        fps: the container's average rate, frames a second, above 0.
        frame_rate: the rate to resample to, frames a second, above 0.
        clip_len: frames a clip.

    Returns:
        LongTensor of at least `clip_len` sorted indices.

    Raises:
        ValueError: a count or rate that is not positive and finite.
        RateError: rates beyond MAX_STRIP frames.
    """
    step, length = strip_rule(num_frames, fps, frame_rate, clip_len)
    return torch.from_numpy(strip_frames(np.arange(length), np.float64(step), num_frames))


@lru_cache(maxsize=1 << 14)  # videos come in few counts and rates
def strip_rule(num_frames: int, fps: float, frame_rate: float, clip_len: int) -> tuple[float, int]:
    """The distance between two frames of the official strip, and its length. Arguments and errors: `official_strip`."""
    given = f"{num_frames=}, {fps=}, {frame_rate=}, {clip_len=}"
    if num_frames < 1 or clip_len < 1 or not (0 < fps < math.inf and 0 < frame_rate < math.inf):
        raise ValueError(f"counts and rates must be positive and finite: {given}")
    total = num_frames * frame_rate / fps
    rate_of_one_clip = clip_len / (num_frames / fps)
    if total > MAX_STRIP or not 0 < rate_of_one_clip < math.inf:
        raise RateError(f"rates too far apart: {given}; choose another --frame-rate")
    if total < clip_len:
        frame_rate = math.ceil(rate_of_one_clip)
        total = clip_len
    step = fps / frame_rate
    return step, len(range(0, num_frames, int(step))) if step.is_integer() else math.floor(total)


def strip_frames(places: np.ndarray, steps: np.ndarray, num_frames: np.ndarray | int) -> np.ndarray:
    """The frames at `places` of strips whose frames are `steps` apart: all of one shape, or broadcast to it."""
    uneven = np.floor(places.astype(np.float32) * steps.astype(np.float32)).astype(np.int64)
    frames = np.where(steps % 1 == 0, places * steps.astype(np.int64), uneven)
    return np.minimum(frames, num_frames - 1)


def official_clip(
    num_frames: int, fps: float, frame_rate: float, clip_len: int, clip: int = 0, clips_per_video: int = 1
) -> Tensor:
    """Clip number `clip` of `clips_per_video` clips spread evenly over the official strip: LongTensor (clip_len,).

    `clip=0` of 1 is the clip that the challenge scores. Arguments and errors are those of `official_strip`; a `clip`
    outside `0 .. clips_per_video - 1` raises ValueError too.
    """
    return official(VideoTiming(num_frames, fps), clip_len, frame_rate, clip=clip, clips_per_video=clips_per_video)


def official(
    video: VideoTiming,
    clip_len: int,
    frame_rate: float,
    *,
    clip: int = 0,
    clips_per_video: int = 1,
    generator: Generator = None,
    start_prob: float = 0.5,
) -> Tensor:
    """The evaluator's clip; in training a random start in the strip, which is 0 with probability `start_prob`."""
    drawn = None if generator is None else _numbers(generator, 2)
    clips = official_clips([video], clip_len, frame_rate, [clip], clips_per_video, [drawn], start_prob)
    return torch.from_numpy(clips[0])


def official_clips(
    videos: Sequence[VideoTiming],
    clip_len: int,
    frame_rate: float,
    clips: Sequence[int],
    clips_per_video: int,
    drawn: Sequence[Sequence[float] | None],
    start_prob: float,
) -> np.ndarray:
    """`official` of a batch at once, which takes a tenth of the time a clip: int64 (B, clip_len).

    Args:
        videos: of each clip.
        clip_len, frame_rate, clips_per_video, start_prob: as in `official`, of all.
        clips: the number of each within its video.
        drawn: two numbers in [0, 1) for each; None in evaluation.
    """
    steps, starts = [], []
    for video, clip, numbers in zip(videos, clips, drawn, strict=True):
        step, length = strip_rule(video.num_frames, video.fps, frame_rate, clip_len)
        steps.append(step)
        if numbers is None:
            starts.append(_evenly_spread(length - clip_len, clip, clips_per_video))
        else:
            starts.append(0 if numbers[0] < start_prob else int(numbers[1] * (length - clip_len + 1)))
    places = np.array(starts)[:, None] + np.arange(clip_len)
    num_frames = np.array([video.num_frames for video in videos])
    return strip_frames(places, np.array(steps)[:, None], num_frames[:, None])


@cache
def _evenly_spread(last: int, clip: int, clips_per_video: int) -> int:
    """Start number `clip` of `clips_per_video` from 0 to `last`."""
    if not 0 <= clip < clips_per_video:
        raise ValueError(f"there is no clip {clip} of {clips_per_video}: they count from 0")
    return int(torch.linspace(0, last, clips_per_video, dtype=torch.float64)[clip].floor())


def uniform(
    video: VideoTiming,
    clip_len: int,
    frame_rate: float,
    *,
    clip: int = 0,
    clips_per_video: int = 1,
    generator: Generator = None,
) -> Tensor:
    """Evenly from the first frame to the last; several clips interleave. Training draws nothing."""
    positions = torch.linspace(0, video.num_frames - 1, clip_len * clips_per_video, dtype=torch.float64)
    return positions[clip::clips_per_video].round().long()


def segment(
    video: VideoTiming,
    clip_len: int,
    frame_rate: float,
    *,
    clip: int = 0,
    clips_per_video: int = 1,
    generator: Generator = None,
) -> Tensor:
    """One frame from each of `clip_len` equal segments: random in training, else the centre (TSN, arXiv 1608.00859)."""
    parts = _parts(clip_len, clip, clips_per_video, generator)
    return (parts * video.num_frames).floor().long().clamp_(max=video.num_frames - 1)


def motion(
    video: VideoTiming,
    clip_len: int,
    frame_rate: float,
    *,
    clip: int = 0,
    clips_per_video: int = 1,
    generator: Generator = None,
) -> Tensor:
    """More frames where more moves: `clip_len` parts of equal motion (after MGSampler, arXiv 2104.09952).

    The motion curve, flattened by `MOTION_POWER` and mixed with a uniform share, is cumulated over the video and cut
    into parts of equal mass; training draws a point in each, evaluation takes the frame nearest its centre. A still
    video, or one of a single frame, gives the uniform choice.

    Raises:
        ValueError: a video of several frames has no motion curve.
    """
    if video.motion is None and video.num_frames > 1:
        raise ValueError("motion selection needs the video's motion curve")
    curve = torch.tensor([]) if video.motion is None else video.motion
    mass = curve.to(torch.float64).clamp(min=0) ** MOTION_POWER
    if not mass.sum() > 0:
        return uniform(video, clip_len, frame_rate, clip=clip, clips_per_video=clips_per_video)
    mass = MOTION_SHARE * mass / mass.sum() + (1 - MOTION_SHARE) / len(mass)
    cumulated = torch.cat([mass.new_zeros(1), mass.cumsum(0)])
    cumulated /= cumulated[-1].clone()
    # Invert the piecewise linear cumulated mass at each part's point.
    parts = _parts(clip_len, clip, clips_per_video, generator)
    left = torch.searchsorted(cumulated[1:-1], parts)
    right = left + 1
    positions = left + (parts - cumulated[left]) / (cumulated[right] - cumulated[left])
    return (positions * (video.num_frames - 1) / len(mass)).round().long()


FRAME_SELECTORS: dict[str, Callable[..., Tensor]] = {
    "official": official,
    "uniform": uniform,
    "segment": segment,
    "motion": motion,
}


def snap(indices: Tensor, candidates: Tensor) -> Tensor:
    """The nearest of the sorted `candidates` (the earlier of two) for each of `indices`; keeps them sorted."""
    right = torch.searchsorted(candidates, indices).clamp_(max=len(candidates) - 1)
    left = (right - 1).clamp_(min=0)
    return torch.where(indices - candidates[left] <= candidates[right] - indices, candidates[left], candidates[right])


def _numbers(generator: torch.Generator | Sequence[float], count: int) -> Sequence[float]:
    """`count` numbers in [0, 1)."""
    if isinstance(generator, torch.Generator):
        return torch.rand(count, generator=generator, dtype=torch.float64).tolist()
    return generator[:count]


def _parts(clip_len: int, clip: int, clips_per_video: int, generator: Generator) -> Tensor:
    """A point in each of `clip_len` equal parts of [0, 1): float64 (clip_len,)."""
    if generator is None:
        offsets = torch.full((clip_len,), (clip + 0.5) / clips_per_video, dtype=torch.float64)
    else:
        offsets = torch.tensor(_numbers(generator, clip_len), dtype=torch.float64)
    return (torch.arange(clip_len) + offsets) / clip_len
