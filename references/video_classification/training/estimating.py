"""How much time and space a training takes: a few videos and steps are tried, the rest is multiplication."""

import argparse
import contextlib
import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

from caching.building import gigabytes
from caching.cache_building import JPEG_SHARE, DecodeStrip, Unreadable
from caching.clip_cache import CacheSettings
from caching.feature_cache import FEATURE_TYPES
from network.models import ModelError, build_model, freeze, parameter_counts, set_train_mode
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


def _try_video(settings: CacheSettings, path: str) -> TriedVideo:
    """Reads one file in each way that a run may."""
    wanted = settings.preprocessing
    try:
        begin = time.perf_counter()
        info = probe_video(path)
        scanned = time.perf_counter()
        entry = DecodeStrip(settings)(path)
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
        paths, settings: of the videos, and of the clip cache.
        num_workers: processes.
        seconds: after the first, when no more are waited for; starting the workers is not counted.
    """

    def died(death: WorkerDied) -> TriedVideo:
        return TriedVideo(str(death.item), f"reading it ended the process, {death.how}")

    results = map_in_workers(partial(_try_video, settings), paths, num_workers, on_death=died)
    tried, begin = [], None
    with contextlib.closing(results):
        for result in results:
            tried.append(result)
            begin = time.monotonic() if begin is None else begin
            if time.monotonic() - begin >= seconds:
                break
    return tried


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
        name, num_classes: of the network, which gets random weights, and its outputs.
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
    times: list[float] = []
    end = 0.0
    while len(times) < 2 or time.perf_counter() < end:
        begin = time.perf_counter()
        action()
        if precision.device.type == "cuda":
            torch.cuda.synchronize(precision.device)
        times.append(time.perf_counter() - begin)
        end = end if len(times) > 1 else time.perf_counter() + STEP_SECONDS
    return min(times[1:])


@dataclass(frozen=True)
class Need:
    """Space on a disk."""

    bytes: float
    folder: Path
    is_wanted: bool  # by this run; otherwise only told
    remedy: str


@dataclass(frozen=True)
class Rates:
    """Seconds, a video or a clip, with all workers at work."""

    scan: float
    strip: float  # to decode a video for the clip cache
    clip: float  # to decode a clip, without a cache
    steps: StepSeconds

    @classmethod
    def of(cls, tried: Sequence[TriedVideo], steps: StepSeconds, workers: int) -> "Rates":
        """From a sample."""
        good = [video for video in tried if video.reason is None]
        share = max(workers, 1) * max(len(good), 1)
        scan, strip, clip = (
            sum(getattr(video, f"{name}_seconds") for video in good) / share for name in ("scan", "strip", "clip")
        )
        return cls(scan, strip, clip, steps)


@dataclass(frozen=True)
class Work:
    """How much there is to do."""

    videos: int
    to_cache: int  # videos that the clip cache lacks
    train_clips: int  # an epoch
    val_clips: int
    views: int | None  # of each clip whose features are cached, None without
    is_cached: bool  # whether clips come from the clip cache
    epochs: int

    @classmethod
    def of(cls, args: argparse.Namespace, train: int, val: int, to_cache: int) -> "Work":
        """Of a run with these options, on so many videos."""
        clips, views = args.clips_per_video, args.cache_features
        videos, trained = train + val, train + val if args.train_on_val else train
        return cls(videos, to_cache, trained * clips, val * clips, views, args.cache_dataset, args.epochs)

    def seconds(self, rates: Rates, is_shared: bool) -> dict[str, float]:
        """Seconds of each stage; `is_shared`: the cores that decode also compute."""

        def together(decoding: float, computing: float) -> float:
            decoding = 0.0 if self.is_cached else decoding
            return decoding + computing if is_shared else max(decoding, computing)

        train, val, steps = self.train_clips, self.val_clips, rates.steps
        stages = {"scan": self.videos * rates.scan, "clip cache": self.to_cache * rates.strip}
        if self.views is None:
            computing, decoding = train * steps.train + val * steps.validate, (train + val) * rates.clip
            stages["epoch"] = together(decoding, computing)
        else:
            entries = train * self.views + val
            stages["features"] = together(entries * rates.clip, entries * steps.trunk)
            stages["epoch"] = train * steps.train + val * steps.validate
        stages["decoding in an epoch"] = 0.0 if self.is_cached or self.views else (train + val) * rates.clip
        first = stages["clip cache"] if self.is_cached else stages["scan"]
        stages["all"] = first + stages.get("features", 0.0) + self.epochs * stages["epoch"]
        return stages

    def bytes(self, args: argparse.Namespace, tried: Sequence[TriedVideo]) -> dict[str, Need]:
        """The space of each kind of file; a cache that is not asked for is told of too."""
        good = [video for video in tried if video.reason is None]
        frames = sum(video.num_frames for video in good) / max(len(good), 1)
        height, width = args.val_resize_size[0], args.val_resize_size[-1]
        raw = self.to_cache * frames * height * width * 3
        jpeg = raw * JPEG_SHARE
        if args.cache_format == "jpeg" and good:
            jpeg = self.to_cache * sum(video.cache_bytes for video in good) / len(good)
        cache, other = (raw, jpeg) if args.cache_format == "raw" else (jpeg, raw)
        advice = f"--cache-format jpeg needs {gigabytes(other)}" if args.cache_format == "raw" else "use a larger disk"
        needs = {}
        if len(args.val_resize_size) == 2:  # otherwise frames differ in size, and there is no clip cache
            needs["clip cache"] = Need(cache, args.cache_dir, args.cache_dataset, advice)
        entries = self.train_clips * (self.views or 1) + self.val_clips
        if entry := feature_bytes(args.model, args.trainable, (3, args.clip_len, *args.train_crop_size)):
            size = entries * entry * FEATURE_TYPES[args.feature_dtype].itemsize
            needs["features"] = Need(size, args.cache_dir, bool(self.views), "take fewer views by --cache-features")
        kept = min(args.epochs, args.keep_checkpoints + 2) if args.keep_checkpoints else args.epochs
        size = kept * checkpoint_bytes(args.model, args.trainable, args.opt, args.model_ema)
        needs[f"{kept} checkpoints"] = Need(size, args.output_dir, True, "--keep-checkpoints 2 keeps fewer")
        return needs


def feature_bytes(model_name: str, trainable: Sequence[str], clip_shape: Sequence[int]) -> int:
    """How many numbers the frozen trunk gives for a clip (C, T, H, W); 0 where there is no trunk."""
    try:
        with torch.device("meta"):
            model = build_model(model_name, num_classes=1)
            trunk, _ = split(model, trunk_blocks(model, trainable))
            return trunk.eval()(torch.empty(1, *clip_shape)).numel()
    except (ModelError, RuntimeError):
        return 0


def checkpoint_bytes(model_name: str, trainable: Sequence[str], opt: str, ema: bool) -> int:
    """The size of a checkpoint: the weights, what the optimizer keeps of those that are trained, and their average."""
    try:
        with torch.device("meta"):
            model = build_model(model_name, num_classes=1)
    except ModelError:
        return 0
    freeze(model, trainable)
    trained, total = parameter_counts(model)
    return 4 * (total * (2 if ema else 1) + trained * (2 if opt == "adamw" else 1))


def space_problems(needs: Mapping[str, Need]) -> list[str]:
    """Disks with less space than is needed on them."""
    by_disk: dict[int, dict[str, Need]] = {}
    for name, need in needs.items():
        by_disk.setdefault(os.stat(existing(need.folder)).st_dev, {})[name] = need
    problems = []
    for group in by_disk.values():
        folder = existing(next(iter(group.values())).folder)
        free, total = shutil.disk_usage(folder).free, sum(need.bytes for need in group.values())
        if total > free:
            parts = ", ".join(f"{name} {gigabytes(need.bytes)}" for name, need in group.items())
            largest = max(group.values(), key=lambda need: need.bytes)
            problems.append(
                f"the disk of {folder} has {gigabytes(free)} free, and the run needs {gigabytes(total)} ({parts}): "
                f"make room, name another disk by --cache-dir or --output-dir, or: {largest.remedy}"
            )
    return problems


def existing(folder: Path) -> Path:
    """The folder, or the nearest one above it that exists."""
    folder = folder.absolute()
    return next(path for path in (folder, *folder.parents) if path.is_dir())
