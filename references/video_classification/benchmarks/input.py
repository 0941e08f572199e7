"""How fast videos become batches: decoding, motion metering, and the loader from videos and from caches."""

import resource
import statistics
import time
from collections.abc import Iterable
from functools import partial

import numpy as np
import torch

from benchmarks.cache import built_cache
from benchmarks.measuring import (
    BenchmarkOptions,
    count_frames,
    decode_in_workers,
    median_ratio,
    peak_megabytes,
    time_side_by_side,
)
from caching.clip_cache import ClipCache
from caching.jpeg import decode_jpeg
from clips.dataset import Augmentation, ClipDataset, ClipReader, DecodingReader
from clips.loading import ClipLoader
from clips.samplers import Sample
from runtime.worker_pool import map_in_workers
from videos.decoding import VideoError, iter_frames
from videos.index import VideoIndex
from videos.motion import MotionMeter

CLIPS_FROM_CACHE = 2000  # read in each round, over and over the same videos if they are fewer
CLIPS_FROM_VIDEOS = 48
MOTION_VIDEOS = 40


def benchmark_decode(options: BenchmarkOptions) -> dict[str, float]:
    """The bare rate: `workers` processes that do nothing but decode every frame."""
    paths = options.videos.paths
    decode_in_workers(paths[: options.workers], options.workers)  # the server that forks the workers starts
    counts = []
    seconds = time_side_by_side(
        options.rounds, decode=lambda: counts.append(decode_in_workers(paths, options.workers))
    )["decode"]
    median = statistics.median(seconds)
    return {
        "decode_videos": len(paths),
        "decode_workers": options.workers,
        "decode_videos_per_second": len(paths) / median,
        "decode_frames_per_second": counts[0] / median,
        "decode_worker_peak_megabytes": peak_megabytes(resource.RUSAGE_CHILDREN),
    }


def benchmark_motion(options: BenchmarkOptions) -> dict[str, float]:
    """What metering the motion adds to decoding: CPU seconds of one process, video by video, one beside the other."""
    ratios, bare_seconds, frames = [], [], 0
    for path in options.videos.paths[:: max(1, len(options.videos) // MOTION_VIDEOS)]:
        for _ in range(options.rounds):
            bare, count = _cpu_seconds(count_frames, path)
            metered, _ = _cpu_seconds(_meter, path)
            bare_again, _ = _cpu_seconds(count_frames, path)
            ratios.append(2 * metered / (bare + bare_again))
            bare_seconds.append(bare)
            frames += count
    return {
        "motion_frames": frames,
        "motion_bare_milliseconds_per_frame": 1e3 * sum(bare_seconds) / frames,
        "motion_overhead_percent": 100 * (statistics.median(ratios) - 1),
    }


def benchmark_loader(options: BenchmarkOptions) -> dict[str, float]:
    """Clips a second of batches: decoded, from a raw and from a jpeg cache, each beside the bare loop over the same."""
    return {**_from_videos(options), **_from_cache(options, "raw"), **_from_cache(options, "jpeg")}


def _from_videos(options: BenchmarkOptions) -> dict[str, float]:
    cache = built_cache(options, "raw")
    reader = DecodingReader(options.videos, options.preprocessing)
    dataset = _dataset(options, reader, cache.index)
    samples = _samples(cache, CLIPS_FROM_VIDEOS)
    plans = [(options.videos.path(sample.video), int(dataset.plan(sample).indices[-1])) for sample in samples]
    loader = ClipLoader(dataset, options.batch_size, options.workers)
    seconds = time_side_by_side(
        options.rounds,
        loader=lambda: _exhaust(loader.batches(samples)),
        bare=lambda: _exhaust(map_in_workers(_decode_up_to, plans, options.workers)),
    )
    return _rates("loader_cold", len(samples), seconds)


def _from_cache(options: BenchmarkOptions, encoding: str) -> dict[str, float]:
    cache = built_cache(options, encoding)
    dataset = _dataset(options, cache, cache.index)
    samples = _samples(cache, CLIPS_FROM_CACHE if encoding == "raw" else CLIPS_FROM_CACHE // 4)
    loader = ClipLoader(dataset, options.batch_size, options.workers)
    plans = [(cache.stored_frames(s.video), cache.positions(s.video, dataset.plan(s).indices.numpy())) for s in samples]
    seconds = time_side_by_side(
        options.rounds,
        loader=lambda: _exhaust(loader.batches(samples)),
        bare=partial(BARE_LOOPS[encoding], plans, options.preprocessing.crop_size),
    )
    return _rates(f"loader_warm_{encoding}", len(samples), seconds)


def _bare_raw(plans: list, crop_size: tuple[int, int]) -> None:
    """Map and crop: one copy out of the map for each clip, in one thread, into the same memory."""
    height, width = crop_size
    clip = np.empty((len(plans[0][1]), height, width, 3), np.uint8)
    for frames, positions in plans:
        clip[:] = frames[positions[0] : positions[0] + len(clip), :height, :width]


def _bare_jpeg(plans: list, crop_size: tuple[int, int]) -> None:
    """`decode_jpeg` of every frame, in one thread."""
    for frames, positions in plans:
        for position in positions:
            decode_jpeg(frames[position])


BARE_LOOPS = {"raw": _bare_raw, "jpeg": _bare_jpeg}


def _dataset(options: BenchmarkOptions, reader: ClipReader, index: VideoIndex) -> ClipDataset:
    augmentation = Augmentation(may_flip=torch.ones(len(options.videos.classes), dtype=torch.bool))
    return ClipDataset(options.videos, index.timing, reader, options.preprocessing, augmentation=augmentation)


def _samples(cache: ClipCache, count: int) -> list[Sample]:
    """Training clips of videos in turn, each time of another epoch."""
    videos = np.flatnonzero(cache.index.num_frames).tolist()
    return [Sample(videos[i % len(videos)], 0, i // len(videos)) for i in range(count)]


def _rates(name: str, clips: int, seconds: dict[str, list[float]]) -> dict[str, float]:
    return {
        f"{name}_clips_per_second": clips / statistics.median(seconds["loader"]),
        f"{name}_bare_clips_per_second": clips / statistics.median(seconds["bare"]),
        f"{name}_share_of_bare": median_ratio(seconds["bare"], seconds["loader"]),
    }


def _meter(path: str) -> int:
    meter = MotionMeter()
    try:
        for frame in iter_frames(path):
            meter.add(frame)
    except VideoError:
        return 0
    return len(meter.curve())


def _decode_up_to(plan: tuple[str, int]) -> None:
    path, last = plan
    for number, _ in enumerate(iter_frames(path)):
        if number == last:
            return


def _cpu_seconds(action, path: str) -> tuple[float, int]:
    start = time.process_time()
    count = action(path)
    return time.process_time() - start, count


def _exhaust(items: Iterable) -> None:
    for _ in items:
        pass
