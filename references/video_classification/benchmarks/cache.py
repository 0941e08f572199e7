"""How fast the clip cache is built, against bare decoding, and how soon a large one is opened."""

import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from benchmarks.measuring import (
    BenchmarkOptions,
    decode_in_workers,
    median_ratio,
    peak_megabytes,
    readable_videos,
    start_workers,
    time_side_by_side,
)
from caching.cache_building import Entry, complete_cache, entry_writer
from caching.clip_cache import CacheSettings, ClipCache
from clips.dataset import Augmentation, ClipDataset
from clips.loading import ClipLoader
from clips.preprocessing import Preprocessing
from clips.samplers import training_samples
from videos.folder import VideoFolder

STARTUP_VIDEOS = {"startup_100k": 100_000, "startup_190k": 190_000}
MADE_UP = CacheSettings(Preprocessing(resize_size=(8, 8), crop_size=(8, 8)))  # of the cache whose start-up is timed
MADE_UP_FRAMES, MADE_UP_FPS, MADE_UP_CLASSES = 150, 30.0, 100


def benchmark_cache(options: BenchmarkOptions) -> dict[str, float]:
    """A cold build, with everything that a run does for it, against `workers` processes that decode the same files."""
    paths = options.videos.paths
    start_workers(options)
    seconds = time_side_by_side(
        options.rounds,
        bare=lambda: decode_in_workers(paths, options.workers),
        raw=lambda: built_cache(options, "raw", anew=True),
        jpeg=lambda: built_cache(options, "jpeg", anew=True),
    )
    start = time.perf_counter()
    raw, jpeg = (built_cache(options, encoding) for encoding in ("raw", "jpeg"))
    open_seconds = time.perf_counter() - start
    raw_bytes, jpeg_bytes = (sum(f.stat().st_size for f in cache.folder.glob("*.shard")) for cache in (raw, jpeg))
    return {
        "cache_videos": len(paths),
        "cache_bare_decode_videos_per_second": len(paths) / statistics.median(seconds["bare"]),
        "cache_build_raw_videos_per_second": len(paths) / statistics.median(seconds["raw"]),
        "cache_build_jpeg_videos_per_second": len(paths) / statistics.median(seconds["jpeg"]),
        "cache_build_raw_share_of_decode": median_ratio(seconds["bare"], seconds["raw"]),
        "cache_build_jpeg_share_of_decode": median_ratio(seconds["bare"], seconds["jpeg"]),
        "cache_raw_megabytes_per_video": raw_bytes / 1e6 / len(paths),
        "cache_jpeg_share_of_raw_bytes": jpeg_bytes / raw_bytes,
        "cache_open_seconds": open_seconds / 2,
        "cache_build_peak_megabytes": peak_megabytes(),
    }


def built_cache(options: BenchmarkOptions, encoding: str, anew: bool = False) -> ClipCache:
    """The complete cache of the benchmark's videos, in the scratch folder; `anew` deletes one that is there."""
    settings = CacheSettings(options.preprocessing, encoding)
    folder = settings.folder(options.scratch, options.videos.root)
    if anew:
        for shard in folder.glob("*.shard"):
            shard.unlink()
    cache = ClipCache(options.videos, settings, folder)
    complete_cache(cache, options.workers)
    return cache


def benchmark_startup(options: BenchmarkOptions) -> dict[str, float]:
    """Seconds and memory until a process has the first batch from a complete cache of made-up videos.

    Importing torch is not counted.
    """
    root, cache_dir = options.scratch / "made_up", options.scratch / "made_up_cache"
    figures: dict[str, float] = {}
    for name, count in STARTUP_VIDEOS.items():
        make_up_cache(root, cache_dir, count)
        runs = []
        for _ in range(options.rounds):
            command = [sys.executable, "-c", STARTUP_SCRIPT, str(root), str(cache_dir)]
            done = subprocess.run(
                command, cwd=Path(__file__).parents[1], check=True, stdout=subprocess.PIPE, encoding="utf-8"
            )
            runs.append(json.loads(done.stdout.splitlines()[-1]))
        for figure in runs[0]:
            figures[f"{name}_{figure}"] = statistics.median(run[figure] for run in runs)
    return figures


def make_up_cache(root: Path, cache_dir: Path, count: int) -> None:
    """Makes `count` empty files in classes below `root`, and a complete cache of tiny frames for them."""
    for number in range(MADE_UP_CLASSES):
        (root / f"class {number:03}").mkdir(parents=True, exist_ok=True)
    for number in range(count):
        path = root / f"class {number % MADE_UP_CLASSES:03}" / f"{number:08}.mp4"
        if not path.exists():
            path.touch()
    cache = ClipCache(files := VideoFolder(root), MADE_UP, MADE_UP.folder(cache_dir, root))
    keep = MADE_UP.frames_to_keep(MADE_UP_FRAMES, MADE_UP_FPS)
    frame_bytes = np.zeros(0, np.int32)
    blob, entry = bytes(len(keep) * 3 * 8 * 8), Entry(b"", frame_bytes, keep, MADE_UP_FRAMES, MADE_UP_FPS, True)
    with entry_writer(cache.folder, files) as writer:
        for video in cache.missing.tolist():
            writer.add(blob, (video, entry))


STARTUP_SCRIPT = """
import sys, time, torch
from benchmarks.measuring import peak_megabytes
start, megabytes = time.perf_counter(), peak_megabytes()
from benchmarks import cache
print(cache.startup_figures(sys.argv[1], sys.argv[2], start, megabytes))
"""


def startup_figures(root: str, cache_dir: str, start: float, megabytes: float) -> str:
    """JSON of the seconds since `start`, and the memory above `megabytes`, at the first batch from a warm cache."""
    folder = VideoFolder(Path(root))
    cache = ClipCache(folder, MADE_UP, MADE_UP.folder(Path(cache_dir), folder.root))
    complete_cache(cache, num_workers=2)
    dataset = ClipDataset(folder, cache.index.timing, cache, MADE_UP.preprocessing, augmentation=Augmentation())
    videos = readable_videos(cache.index)
    samples = training_samples(videos, clips_per_video=1, seed=0, epoch=0)
    next(ClipLoader(dataset, batch_size=24, num_workers=2).batches(samples))
    seconds = time.perf_counter() - start
    return json.dumps({"videos": len(videos), "seconds": seconds, "megabytes": peak_megabytes() - megabytes})
