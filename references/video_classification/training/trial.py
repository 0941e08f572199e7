"""Tries what a run will do, on a few videos and a few steps, to estimate what all of it takes."""

import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

from caching.cache_building import DecodeStrip, Unreadable
from caching.clip_cache import CacheSettings
from network.models import build_model, freeze, set_train_mode
from network.precision import Precision
from network.trunk_and_head import split, trunk_blocks
from runtime.worker_pool import WorkerDied, map_in_workers
from videos.decoding import VideoError, iter_rgb, probe_video
from videos.frame_selection import official_clip
from videos.resizing import resize_crop

STEP_SECONDS = 2.0  # for each kind of step, after one that warms up
CPU_BATCH_SIZE = 2  # clips; larger batches gain nothing there


@dataclass(frozen=True)
class TriedVideo:
    """What a video took in one worker process, while the other workers were as busy."""

    path: str
    reason: str | None = None  # why it cannot be read
    scan_seconds: float = 0.0
    strip_seconds: float = 0.0  # to decode all of it for the clip cache
    clip_seconds: float = 0.0  # to decode the official clip, as without a cache
    num_frames: int = 0  # that the clip cache keeps
    cache_bytes: int = 0


@dataclass(frozen=True)
class TryVideo:
    """Reads one file by its path in each way that a run may."""

    settings: CacheSettings

    def __call__(self, path: str) -> TriedVideo:
        wanted = self.settings.preprocessing
        try:
            begin = time.perf_counter()
            info = probe_video(path)
            scanned = time.perf_counter()
            entry = DecodeStrip(self.settings)(path)
            if isinstance(entry, Unreadable):
                return TriedVideo(path, entry.reason)
            cached = time.perf_counter()
            clip = official_clip(info.frames, info.fps, wanted.frame_rate, wanted.clip_len)
            for _, frame in iter_rgb(path, clip.tolist()):
                resize_crop(frame, wanted.resize_size)
        except VideoError as error:
            return TriedVideo(path, error.reason)
        except ValueError as error:
            return TriedVideo(path, f"no frames can be chosen: {error}")
        seconds = (scanned - begin, cached - scanned, time.perf_counter() - cached)
        return TriedVideo(path, None, *seconds, len(entry.frames), len(entry.blob))


def try_videos(paths: Sequence[str], settings: CacheSettings, num_workers: int, seconds: float) -> list[TriedVideo]:
    """Tries videos in their order until the time is over; one at least.

    Args:
        paths: of the videos.
        settings: of the clip cache.
        num_workers: processes.
        seconds: after the first, when no more are waited for; starting the workers is not counted.
    """
    results = map_in_workers(TryVideo(settings), paths, num_workers, on_death=_by_death)
    tried, begin = [], None
    with contextlib.closing(results):
        for result in results:
            tried.append(result)
            begin = time.monotonic() if begin is None else begin
            if time.monotonic() - begin >= seconds:
                break
    return tried


def _by_death(death: WorkerDied) -> TriedVideo:
    return TriedVideo(str(death.item), f"reading it ended the process, {death.how}")


@dataclass(frozen=True)
class StepSeconds:
    """Seconds a clip, on the device."""

    train: float  # a training step's share
    validate: float  # a forward pass
    trunk: float = 0.0  # a forward pass of the frozen trunk, where the head is what steps are taken on


def time_steps(
    name: str,
    num_classes: int,
    trainable: Sequence[str],
    batch_shape: Sequence[int],
    precision: Precision,
    on_features: bool,
) -> StepSeconds:
    """Times steps on random clips; raises torch.OutOfMemoryError where a batch does not fit into the device's memory.

    Args:
        name: of the network, which gets random weights.
        num_classes: its outputs.
        trainable: blocks to train.
        batch_shape: (B, C, T, H, W) of a step.
        precision: of the steps.
        on_features: whether steps are taken on features of the trunk.
    """
    size = batch_shape[0] if precision.device.type == "cuda" else min(batch_shape[0], CPU_BATCH_SIZE)
    model = build_model(name, num_classes)
    frozen = freeze(model, trainable)
    model.to(precision.device)
    inputs = torch.rand(size, *batch_shape[1:], device=precision.device)
    trunk_seconds, network = 0.0, model
    if on_features:
        trunk, network = split(model, trunk_blocks(model, trainable))
        trunk_seconds = _fastest(lambda: _forward(trunk.eval(), inputs, precision), precision)
        inputs = _forward(trunk, inputs, precision).float()
        frozen = [name for name in frozen if name in dict(network.named_modules())]
    validate = _fastest(lambda: _forward(network.eval(), inputs, precision), precision)
    set_train_mode(network, frozen)
    inputs = inputs.clone()  # what was computed in inference mode takes no part in autograd
    train = _fastest(lambda: _step(network, inputs, precision), precision)
    return StepSeconds(train / size, validate / size, trunk_seconds / size)


@torch.inference_mode()
def _forward(network: nn.Module, inputs: torch.Tensor, precision: Precision) -> torch.Tensor:
    with precision.autocast():
        return network(inputs)


def _step(network: nn.Module, inputs: torch.Tensor, precision: Precision) -> None:
    network.zero_grad(set_to_none=True)
    with precision.autocast():
        logits = network(inputs)
        loss = F.cross_entropy(logits, torch.zeros(len(logits), dtype=torch.int64, device=logits.device))
    loss.backward()


def _fastest(action: Callable[[], object], precision: Precision) -> float:
    """Seconds of the fastest of several calls, after one that warms up."""
    fastest, end = float("inf"), float("inf")
    while fastest == float("inf") or time.perf_counter() < end:
        begin = time.perf_counter()
        action()
        if precision.device.type == "cuda":
            torch.cuda.synchronize(precision.device)
        if end < float("inf"):
            fastest = min(fastest, time.perf_counter() - begin)
        else:
            end = time.perf_counter() + STEP_SECONDS
    return fastest
