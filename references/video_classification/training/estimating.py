"""How much time and space a training takes: multiplication of what `trial` has measured."""

import argparse
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from caching.building import gigabytes
from caching.cache_building import JPEG_SHARE
from caching.feature_cache import FEATURE_TYPES
from network.models import ModelError, build_model, freeze, parameter_counts
from network.trunk_and_head import split, trunk_blocks
from training.trial import StepSeconds, TriedVideo


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
