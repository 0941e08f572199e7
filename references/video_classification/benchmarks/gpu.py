"""What a GPU does, in one command and within four minutes: training in each type and layout, and what it waits for.

What is optional is left out where the time before it was too long, so that the rest is measured on a slow GPU too.
"""

import contextlib
import time
from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import nn

from benchmarks.measuring import BenchmarkOptions, seconds_of
from benchmarks.training import (
    WARMUP_STEPS,
    TrainingRun,
    cached_clips,
    made_up_batch,
    matrix_rate,
    network_inputs,
)
from caching.splits import Clips
from clips.dataset import ClipDataset
from clips.loading import ClipLoader
from evaluation.evaluate import evaluate
from network.models import build_model
from network.precision import LAYOUTS, Precision

TYPES = {"bf16": "bf16", "fp32": "off"}  # names of AMP_TYPES
KINDS = ("frozen", "features", "full")
COMPILE_UNTIL, SIZES_UNTIL = 100, 120  # seconds after the start, when these are begun at the latest
EPOCH_SECONDS, MAX_STEPS = 4.0, 2000  # of an epoch: its first batch, which is always waited for, must not count much
MEMORY_STEPS = 200
LARGER_BATCHES = (2, 4, 8)  # times --batch-size
WORTHWHILE = 1.02  # a larger batch is better where it trains so many times as fast


def benchmark_gpu(options: BenchmarkOptions) -> Iterator[dict[str, float]]:
    """Yields the figures of a GPU as soon as they are known."""
    name, cudnn = torch.cuda.get_device_name(options.device), torch.backends.cudnn.version()
    print(f"  {name}, torch {torch.__version__}, cuDNN {cudnn}", flush=True)
    yield from gpu_figures(options)


def gpu_figures(options: BenchmarkOptions) -> Iterator[dict[str, float]]:
    """Yields the figures: the matrix rate, types and layouts, compiled, batch sizes; then with data from a clip cache.

    On another device than a GPU it measures the same, which says little. What fails or does not fit is left out.
    """
    begin = time.monotonic()
    options = replace(options, amp="bf16")
    matrix = matrix_rate(options)
    yield {"gpu_bf16_matrix_teraflops": matrix / 1e12}
    rates: dict[tuple[str, str], float] = {}
    for type_name, amp in TYPES.items():
        for layout in LAYOUTS:
            rates[type_name, layout] = rate = _bare_rate(replace(options, amp=amp, layout=layout))
            yield _named(f"gpu_{type_name}_{layout.replace(' ', '_')}_clips_per_second", rate)
    options = replace(options, layout=max(LAYOUTS, key=lambda layout: rates["bf16", layout]))
    if time.monotonic() - begin < COMPILE_UNTIL:
        yield _named("gpu_compiled_clips_per_second", _bare_rate(options, compiled=True))
    else:
        print("  compiled: left out, since what came before took too long", flush=True)
    yield from _larger_batches(options, rates["bf16", options.layout], begin)
    clips = cached_clips(options)
    yield from _training(options, clips, matrix)
    with _told("validation"):
        yield _validation(options, clips)
    with _told("memory"):
        yield _memory(options, clips)


@contextlib.contextmanager
def _told(what: str) -> Iterator[None]:
    """Says what is left out, where a library raises or memory is too small, and goes on."""
    try:
        yield
    except RuntimeError as error:
        print(f"  {what}: left out, {type(error).__name__}: {(str(error).splitlines() or [''])[0]}", flush=True)


def _named(name: str, value: float) -> dict[str, float]:
    """The figure; none where it is 0, which was left out."""
    return {name: value} if value else {}


def _bare_rate(options: BenchmarkOptions, compiled: bool = False) -> float:
    """Clips per second of steps of full training on one batch; 0 where it is left out."""
    what = f"{options.batch_size} clips, --amp {options.amp}, {options.layout}{', compiled' if compiled else ''}"
    with _told(what):
        run = TrainingRun(options, "full")
        if compiled:
            run.compile()
        run.bare_step_seconds(WARMUP_STEPS)
        return options.batch_size / run.bare_step_seconds(options.steps)
    return 0.0


def _larger_batches(options: BenchmarkOptions, rate: float, begin: float) -> Iterator[dict[str, float]]:
    """The smallest of a few sizes of which no larger one is faster; `rate` is that of the first."""
    best = options.batch_size if rate else 0
    for times in LARGER_BATCHES if rate else ():
        size = times * options.batch_size
        if time.monotonic() - begin > SIZES_UNTIL:
            print(f"  batches of {size} and more: left out, since what came before took too long", flush=True)
            break
        found = _bare_rate(replace(options, batch_size=size))
        yield _named(f"gpu_batch_of_{size}_clips_per_second", found)
        if found < WORTHWHILE * rate:
            break
        best, rate = size, found
    yield _named("gpu_best_batch_size", best)


def _training(options: BenchmarkOptions, clips: Clips, matrix: float) -> Iterator[dict[str, float]]:
    """Epochs of each kind of training; what they waited for data and the memory they took come last."""
    rates, waiting, peaks = {}, {}, {}
    for kind in KINDS:
        with _told(f"{kind} training"):
            run = TrainingRun(options, kind, clips)
            run.bare_step_seconds(WARMUP_STEPS)
            seconds = run.bare_step_seconds(options.steps)
            operations = run.operations_per_step() / options.batch_size
            epoch = run.epoch(0, min(max(int(EPOCH_SECONDS / seconds), options.steps), MAX_STEPS))
            rates[kind] = epoch.clips_per_second
            waiting[f"gpu_{kind}_waiting_percent"] = epoch.waiting_percent
            peaks[f"gpu_{kind}_peak_megabytes"] = run.peak_megabytes()
            del run  # before the next one is made, whose peak would count it
            yield {
                f"gpu_{kind}_clips_per_second": rates[kind],
                f"gpu_{kind}_share_of_matrix_rate": rates[kind] * operations / matrix,
            }
            if kind != "frozen" and "frozen" in rates:
                yield {f"gpu_{kind}_to_frozen_rate": rates[kind] / rates["frozen"]}
    yield waiting
    yield peaks


def _validation(options: BenchmarkOptions, clips: Clips) -> dict[str, float]:
    """A validation from the cache, beside forward passes over as many batches that are ready."""
    device = torch.device(options.device)
    precision = Precision.of(options.amp, device)
    precision.layout = options.layout
    num_classes = max(2, len(options.videos.classes))
    network = build_model(options.model, num_classes).eval().to(device).to(memory_format=precision.memory_format)
    cached = clips.loader.dataset
    per_video = -(-4 * options.steps * options.batch_size // len(clips.videos))
    dataset = ClipDataset(options.videos, cached.timing, cached.reader, options.preprocessing, per_video)
    loader = ClipLoader(dataset, options.batch_size, options.workers, pin_memory=clips.options.pin_memory)
    inputs = network_inputs(made_up_batch(options), precision, options.preprocessing)

    @torch.inference_mode()
    def forward(count: int) -> None:
        for _ in range(count):
            with precision.autocast():
                outputs = network(inputs)
        outputs[0, 0].item()  # waits for the device

    forward(WARMUP_STEPS)
    count = loader.num_batches(per_video * len(clips.videos))
    bare = seconds_of(lambda: forward(count))
    criterion = nn.CrossEntropyLoss(reduction="none")
    results = evaluate(
        *(network, criterion, loader, clips.videos), num_classes=num_classes, precision=precision, print_freq=count
    )
    return {
        "gpu_validation_clips_per_second": results.clip.count / results.seconds,
        "gpu_validation_to_model_time": results.seconds / bare,
    }


def _memory(options: BenchmarkOptions, clips: Clips) -> dict[str, float]:
    """How much memory is held after many steps, above that after a few."""
    run = TrainingRun(options, "frozen", clips)
    run.epoch(0, WARMUP_STEPS)
    before = run.held_megabytes()
    run.epoch(1, MEMORY_STEPS)
    return {"gpu_memory_growth_megabytes": run.held_megabytes() - before}
