"""How fast videos become batches: decoding, measuring motion, and loading from videos and from caches."""

import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial

import numpy as np
import torch

from benchmarks.cache import built_cache
from benchmarks.measuring import (
    BenchmarkOptions,
    children_peak_megabytes,
    count_frames,
    decode_in_workers,
    median_ratio,
    readable_videos,
    start_workers,
    time_side_by_side,
    training_dataset,
)
from caching.clip_cache import ClipCache
from caching.feature_cache import FeatureCache, FeatureDataset, FeatureSettings
from caching.jpeg import decode_jpeg
from clips.dataset import DecodingReader
from clips.loading import BATCHES_AHEAD, ClipLoader, ClipSource
from clips.samplers import Sample
from runtime.worker_pool import map_in_workers
from videos.decoding import VideoError, iter_frames
from videos.motion import MotionMeter

CLIPS_FROM_CACHE = 2000  # read in each round, repeatedly from the same videos if there are fewer
CLIPS_FROM_VIDEOS = 48
FEATURES_SHAPE = (256, 4, 14, 14)  # what layer4 of the default network takes of a clip: 401 kB in fp16
MOTION_VIDEOS = 40


def benchmark_decode(options: BenchmarkOptions) -> dict[str, float]:
    """The bare rate: `workers` processes that only decode every frame."""
    paths = options.videos.paths
    start_workers(options)
    counts: list[int] = []
    seconds = time_side_by_side(
        options.rounds, decode=lambda: counts.append(decode_in_workers(paths, options.workers))
    )["decode"]
    median = statistics.median(seconds)
    return {
        "decode_videos": len(paths),
        "decode_workers": options.workers,
        "decode_videos_per_second": len(paths) / median,
        "decode_frames_per_second": counts[0] / median,
        "decode_worker_peak_megabytes": children_peak_megabytes(),
    }


def benchmark_motion(options: BenchmarkOptions) -> dict[str, float]:
    """What measuring motion adds to decoding, in CPU seconds of one process, video by video, side by side."""
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
    """Clips per second in batches: decoded, and from each cache, beside a bare loop over the same in one thread."""
    caches = (*(_from_cache(options, encoding) for encoding in BARE_LOOPS), _from_features(options))
    return {**_from_videos(options), **{name: figure for figures in caches for name, figure in figures.items()}}


def _from_videos(options: BenchmarkOptions) -> dict[str, float]:
    cache = built_cache(options, "raw")
    # Workers get what an uncached run's do: the cache's index would take its frames along.
    index = replace(cache.index, motion=[])
    dataset = training_dataset(options, DecodingReader(options.videos, options.preprocessing), index)
    samples = _samples(cache, CLIPS_FROM_VIDEOS)
    plans = [
        (options.videos.path(sample.video), int(plan.indices[-1]))
        for sample, plan in zip(samples, dataset.plan(samples), strict=True)
    ]
    loader = ClipLoader(dataset, options.batch_size, options.workers)
    seconds = time_side_by_side(
        options.rounds,
        loader=lambda: _exhaust(loader.batches(samples)),
        bare=lambda: _exhaust(map_in_workers(_decode_up_to, plans, options.workers)),
    )
    return _rates("loader_cold", len(samples), seconds)


def _from_cache(options: BenchmarkOptions, encoding: str) -> dict[str, float]:
    cache = built_cache(options, encoding)
    dataset = training_dataset(options, cache, cache.index)
    samples = _samples(cache, CLIPS_FROM_CACHE if encoding == "raw" else CLIPS_FROM_CACHE // 4)
    plans = [
        (cache.stored_frames(sample.video), cache.positions(sample.video, plan.indices))
        for sample, plan in zip(samples, dataset.plan(samples), strict=True)
    ]
    bare = partial(BARE_LOOPS[encoding], plans, options.preprocessing.crop_size)
    return _time_threads(f"loader_warm_{encoding}", options, dataset, samples, bare)


def _from_features(options: BenchmarkOptions) -> dict[str, float]:
    clips = built_cache(options, "raw")
    settings = FeatureSettings("made up", clips.source, {}, "", "fp16", FEATURES_SHAPE)
    cache = FeatureCache(options.videos, settings, settings.folder(options.scratch), clips_per_video=1, views=1)
    features = torch.zeros(FEATURES_SHAPE)
    cache.add((sample, features) for sample in cache.missing(readable_videos(clips.index)))
    cache.reload()
    samples = _samples(clips, CLIPS_FROM_CACHE)
    blobs = [cache.blob(sample.video, clip=0, view=0) for sample in samples]
    # Of batches, as the loader's: memory that stays in the processor's cache would take half the time.
    rows = np.ones((BATCHES_AHEAD * options.batch_size, settings.entry_bytes), np.uint8)

    def bare() -> None:
        for number, blob in enumerate(blobs):
            rows[number % len(rows)] = blob

    return _time_threads("loader_features", options, FeatureDataset(cache, seed=0), samples, bare)


def _time_threads(
    name: str, options: BenchmarkOptions, source: ClipSource, samples: list[Sample], bare: Callable[[], None]
) -> dict[str, float]:
    """The loader with all workers and with one, beside the bare loop."""
    loader, alone = (ClipLoader(source, options.batch_size, workers) for workers in (options.workers, 1))
    seconds = time_side_by_side(
        options.rounds,
        loader=lambda: _exhaust(loader.batches(samples)),
        bare=bare,
        alone=lambda: _exhaust(alone.batches(samples)),
    )
    one_thread = {"loader": seconds["alone"], "bare": seconds["bare"]}
    return {**_rates(name, len(samples), seconds), **_rates(f"{name}_one_thread", len(samples), one_thread)}


def _bare_raw(plans: list, crop_size: tuple[int, int]) -> None:
    """Copies a crop of each clip out of the map into the same memory, in one thread."""
    height, width = crop_size
    clip = np.empty((len(plans[0][1]), height, width, 3), np.uint8)
    for frames, positions in plans:
        clip[:] = frames[positions[0] : positions[0] + len(clip), :height, :width]


def _bare_jpeg(plans: list, crop_size: tuple[int, int]) -> None:
    """Decodes every frame with `decode_jpeg`, in one thread."""
    for frames, positions in plans:
        for position in positions:
            decode_jpeg(frames[position])


BARE_LOOPS = {"raw": _bare_raw, "jpeg": _bare_jpeg}


def _samples(cache: ClipCache, count: int) -> list[Sample]:
    """Training clips of all videos in turn, in as many epochs as it takes."""
    videos = readable_videos(cache.index).tolist()
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


def _cpu_seconds(action: Callable[[str], int], path: str) -> tuple[float, int]:
    start = time.process_time()
    count = action(path)
    return time.process_time() - start, count


def _exhaust(items: Iterable) -> None:
    for _ in items:
        pass
