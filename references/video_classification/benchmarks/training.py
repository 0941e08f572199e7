"""How fast the network is trained: its steps alone, and real epochs beside them.

In four ways: with most blocks frozen, the same on cached features, with all blocks trained, and the same with a teacher
that is shown every clip.
"""

import functools
import shutil
import statistics
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.cache import built_cache
from benchmarks.measuring import BenchmarkOptions, peak_megabytes, readable_videos, seconds_of, training_dataset
from caching.feature_building import TRUNK_BATCH_SIZES, train_on_features
from caching.splits import ClipOptions, Clips
from clips import presets
from clips.dataset import Batch
from clips.loading import ClipLoader
from clips.preprocessing import Preprocessing
from clips.samplers import training_samples
from network.acceleration import compile_network, freed_memory_kept, set_up_hardware
from network.models import DEFAULT_TRAINABLE, build_model, freeze, set_train_mode
from network.precision import Precision, ToInputs, to_device
from network.trained_model import TrainedModel
from network.trunk_and_head import split, trunk_blocks
from training.engine import EpochSummary, StepOptions, Trainer
from training.losses import Targets, TrainingLoss
from training.optimization import OPTIMIZERS, build_schedule, parameter_groups
from training.targets import TargetMaker, Teachers

TRAINABLE = {
    "frozen": list(DEFAULT_TRAINABLE),
    "features": list(DEFAULT_TRAINABLE),
    "full": ["all"],
    "taught": ["all"],
}
TEACHER, TEMPERATURE = "r2plus1d_34", 2.0
WARMUP_STEPS = 2
MATRIX_SIZE = 8192  # of the matrix products that measure the device's rate


def as_in_training(benchmark: Callable[[BenchmarkOptions], dict[str, float]]) -> Callable[..., dict[str, float]]:
    """Keeps freed memory during the benchmark, as the training script does."""

    @functools.wraps(benchmark)
    def run(options: BenchmarkOptions) -> dict[str, float]:
        with freed_memory_kept(torch.device(options.device).type):
            return benchmark(options)

    return run


@as_in_training
def benchmark_step(options: BenchmarkOptions) -> dict[str, float]:
    """Training steps on one batch that is on the device, for each of TRAINABLE."""
    figures: dict[str, float] = {}
    rate = matrix_rate(options) if options.device.startswith("cuda") else None
    for name in TRAINABLE:
        run = TrainingRun(options, name)
        run.bare_step_seconds(WARMUP_STEPS)
        seconds = run.bare_step_seconds(options.steps)
        figures[f"step_{name}_seconds"] = seconds
        figures[f"step_{name}_clips_per_second"] = options.batch_size / seconds
        figures[f"step_{name}_peak_megabytes"] = run.peak_megabytes()
        if rate is not None:
            figures[f"step_{name}_share_of_matrix_rate"] = run.operations_per_step() / seconds / rate
    for name in ("features", "full"):
        figures[f"step_{name}_to_frozen_rate"] = figures["step_frozen_seconds"] / figures[f"step_{name}_seconds"]
    figures["step_taught_to_full_time"] = figures["step_taught_seconds"] / figures["step_full_seconds"]
    return figures


@as_in_training
def benchmark_epoch(options: BenchmarkOptions) -> dict[str, float]:
    """Epochs from warm caches beside bare steps, for each of TRAINABLE, and how long building features takes."""
    clips = cached_clips(options)
    runs = {name: TrainingRun(options, name, clips) for name in TRAINABLE}
    rounds: dict[str, list[Epoch]] = {name: [] for name in TRAINABLE}
    for epoch in range(options.rounds):
        for name, run in runs.items():
            run.bare_step_seconds(WARMUP_STEPS)
            rounds[name].append(run.epoch(epoch))
    figures: dict[str, float] = {"epoch_steps": options.steps}
    for name, measured in rounds.items():
        figures |= {
            f"epoch_{name}_seconds": statistics.median(of.seconds for of in measured),
            f"epoch_{name}_clips_per_second": statistics.median(of.clips_per_second for of in measured),
            f"epoch_{name}_model_share_of_time": statistics.median(of.model_share for of in measured),
            f"epoch_{name}_waiting_percent": statistics.median(of.waiting_percent for of in measured),
            f"epoch_{name}_device_peak_megabytes": runs[name].peak_megabytes(),
        }
    for name in ("features", "full"):
        pairs = zip(rounds[name], rounds["frozen"], strict=True)
        figures[f"epoch_{name}_to_frozen_rate"] = statistics.median(
            of.clips_per_second / frozen.clips_per_second for of, frozen in pairs
        )
    taught = zip(rounds["taught"], rounds["full"], strict=True)
    figures["epoch_taught_to_full_time"] = statistics.median(of.seconds / full.seconds for of, full in taught)
    return figures | _build_figures(options, clips) | {"epoch_peak_megabytes": peak_megabytes()}


@dataclass(frozen=True)
class Epoch:
    """A measured epoch."""

    seconds: float
    clips_per_second: float
    model_share: float  # the time that bare steps take, as a share of the epoch's
    waiting_percent: float  # of the time, for data


class TrainingRun:
    """A network with random weights, what training it takes, and the clips if epochs are measured."""

    def __init__(self, options: BenchmarkOptions, name: str, clips: Clips | None = None) -> None:
        self._options, self._device = options, torch.device(options.device)
        self._num_classes = max(2, len(options.videos.classes))
        torch.manual_seed(0)
        model = build_model(options.model, self._num_classes)
        self._frozen = freeze(model, TRAINABLE[name])
        self._precision = Precision.of(options.amp, self._device)
        self._precision.layout = options.layout
        self._network = model.to(self._device).to(memory_format=self._precision.memory_format)
        if self._device.type == "cuda":
            set_up_hardware(self._precision)
            torch.backends.cudnn.benchmark = True
            torch.cuda.reset_peak_memory_stats(self._device)
        self._clips, self._batch = clips, made_up_batch(options)
        self._inputs = network_inputs(self._batch, self._precision, options.preprocessing)
        if name == "features":
            self._take_head(model)
        self._teachers = self._made_up_teachers() if name == "taught" else None
        self._criterion = TrainingLoss(alpha=0.5, temperature=TEMPERATURE)
        self._optimizer = OPTIMIZERS["sgd"](parameter_groups(model, 1e-4), 1e-4, 0.9)
        self._targets = self._batch.targets.to(self._device)

    def _made_up_teachers(self) -> Teachers:
        classes = tuple(map(str, range(self._num_classes)))
        network, preprocessing = build_model(TEACHER, self._num_classes), self._options.preprocessing
        teacher = TrainedModel(TEACHER, network, classes, preprocessing, temperature=1.0, path="")
        return Teachers([teacher], classes, TEMPERATURE, self._precision)

    def _take_head(self, model: nn.Module) -> None:
        trunk, self._network = split(model, trunk_blocks(model, TRAINABLE["features"]))
        with torch.no_grad(), self._precision.autocast():
            self._inputs = torch.cat([trunk.eval()(part) for part in self._inputs.split(4)]).float()
        if self._clips is not None:
            self._network, self._frozen, self._clips = _on_features(model, self._frozen, self._clips, self._precision)
        self._frozen = [name for name in self._frozen if name in dict(self._network.named_modules())]

    def compile(self) -> None:
        """Compiles the network. Raises ModelError."""
        compile_network(self._network, self._device)

    def bare_step_seconds(self, steps: int) -> float:
        """Seconds of a step, as `Trainer.train_epoch` takes it, on a batch that is on the device: the median.

        A GPU takes steps from a queue, as in training; there it is their mean.
        """
        set_train_mode(self._network, self._frozen)
        if self._device.type != "cuda":
            return statistics.median(seconds_of(self._step) for _ in range(steps))

        def take() -> None:
            for _ in range(steps):
                self._step()
            torch.cuda.synchronize(self._device)

        return seconds_of(take) / steps

    def epoch(self, epoch: int, steps: int | None = None) -> Epoch:
        """An epoch of `steps`, by default `options.steps`, beside as many bare ones. Needs clips."""
        options, clips, steps = self._options, self._clips, steps or self._options.steps
        assert clips is not None
        bare = self.bare_step_seconds(steps)
        num_clips = steps * options.batch_size
        videos = clips.videos.repeat(-(-num_clips // len(clips.videos)))
        samples = training_samples(videos, 1, 0, epoch)[:num_clips]
        summary = self._train(clips.loader.batches(samples), clips.loader.dataset.to_inputs, epoch, steps)
        waiting = 100 * summary.data_seconds / summary.seconds
        seconds = summary.seconds
        return Epoch(seconds, num_clips / seconds, bare * steps / seconds, waiting)

    def operations_per_step(self) -> float:
        """The floating-point operations of a step."""
        with FlopCounterMode(display=False) as counter:
            self._step()
        return counter.get_total_flops()

    def peak_megabytes(self) -> float:
        """The most memory held on the GPU, or by the process if it computes on the CPU."""
        return torch.cuda.max_memory_allocated(self._device) / 1e6 if self._device.type == "cuda" else peak_megabytes()

    def held_megabytes(self) -> float:
        """The memory held now, on the GPU; the most so far, where the process computes on the CPU."""
        return torch.cuda.memory_allocated(self._device) / 1e6 if self._device.type == "cuda" else peak_megabytes()

    def _step(self) -> None:
        self._optimizer.zero_grad(set_to_none=True)
        shares = F.one_hot(self._targets, self._num_classes).float()
        targets = Targets(shares, self._teachers(self._inputs) if self._teachers else None)
        with self._precision.autocast():
            loss = self._criterion(self._network(self._inputs), targets).mean()
        scaler = self._precision.scaler
        (scaler.scale(loss) if scaler else loss).backward()
        if scaler:
            scaler.step(self._optimizer)
            scaler.update()
        else:
            self._optimizer.step()

    def _train(self, batches: Iterable[Batch], to_inputs: ToInputs, epoch: int, steps: int) -> EpochSummary:
        schedule = build_schedule(self._optimizer, epochs=epoch + 1, steps_per_epoch=steps, warmup_epochs=0)
        trainer = Trainer(
            model=self._network,
            network=self._network,
            frozen=self._frozen,
            precision=self._precision,
            optimizer=self._optimizer,
            scheduler=schedule,
            criterion=self._criterion,
            targets=TargetMaker(self._num_classes, teachers=self._teachers),
            options=StepOptions(print_freq=steps),
        )
        return trainer.train_epoch(batches, to_inputs, epoch=epoch, num_steps=steps)


def matrix_rate(options: BenchmarkOptions) -> float:
    """Floating-point operations per second of large matrix products on the device, in the type of --amp."""
    precision = Precision.of(options.amp, torch.device(options.device))
    matrix = torch.randn(MATRIX_SIZE, MATRIX_SIZE, device=precision.device, dtype=precision.amp or torch.float32)

    def multiply() -> None:
        _ = (matrix @ matrix)[0, 0].item()

    multiply()
    return 2 * MATRIX_SIZE**3 / min(seconds_of(multiply) for _ in range(options.steps))


def _build_figures(options: BenchmarkOptions, clips: Clips) -> dict[str, float]:
    """How long building features takes, beside forward passes of the trunk over as many clips that are ready."""
    precision = Precision.of(options.amp, torch.device(options.device))
    model = build_model(options.model, 2)
    frozen = freeze(model, TRAINABLE["features"])
    trunk, _ = split(model.to(precision.device), trunk_blocks(model, TRAINABLE["features"]))
    size = TRUNK_BATCH_SIZES[precision.device.type]
    num_batches = max(1, min(options.steps * options.batch_size, len(clips.videos)) // size)
    part = Clips(clips.loader, clips.videos[: num_batches * size], 0, clips.pixels, clips.options)
    inputs = network_inputs(made_up_batch(options, size), precision, options.preprocessing)

    @torch.inference_mode()
    def forward() -> None:
        with precision.autocast():
            for _ in range(num_batches):
                trunk.eval()(inputs).cpu()

    def build() -> None:
        shutil.rmtree(options.scratch / "features", ignore_errors=True)
        _on_features(model, frozen, part, precision)

    forward()
    seconds = [(seconds_of(forward), seconds_of(build)) for _ in range(options.rounds)]
    return {
        "features_build_clips_per_second": len(part.videos) / statistics.median(of for _, of in seconds),
        "features_build_in_trunk_passes": statistics.median(of / bare for bare, of in seconds),
    }


def cached_clips(options: BenchmarkOptions) -> Clips:
    """The benchmark's videos, from a warm cache, drawn as training does."""
    cache = built_cache(options, "raw")
    is_gpu = options.device.startswith("cuda")
    clip_options = ClipOptions(
        options.preprocessing,
        random=True,
        cache_dir=options.scratch,
        cached=True,
        skip_unreadable=True,
        batch_size=options.batch_size,
        num_workers=options.workers,
        pin_memory=is_gpu,
    )
    dataset = training_dataset(options, cache, cache.index)
    loader = ClipLoader(dataset, options.batch_size, options.workers, pin_memory=is_gpu)
    return Clips(loader, readable_videos(cache.index), 0, "clip cache, uint8 (raw)", clip_options)


def _on_features(
    model: nn.Module, frozen: list[str], clips: Clips, precision: Precision
) -> tuple[nn.Module, list[str], Clips]:
    """The head to train, its frozen modules, and the features of the clips, computed if they are not cached."""
    head, frozen, features, _ = train_on_features(
        model, frozen, TRAINABLE["features"], clips, [], precision=precision, dtype="fp16", views=1
    )
    return head, frozen, features


def made_up_batch(options: BenchmarkOptions, size: int | None = None) -> Batch:
    size = size or options.batch_size
    _, frames, height, width = options.preprocessing.clip_shape
    clips = torch.randint(256, (size, frames, height, width, 3), dtype=torch.uint8)
    zeros = torch.zeros(size, dtype=torch.int64)
    return Batch(clips, zeros, zeros, zeros.bool())


def network_inputs(batch: Batch, precision: Precision, preprocessing: Preprocessing) -> Tensor:
    """The network's input of a batch, on the device."""

    def to_inputs(clips: Tensor, flips: Tensor, seeds: Tensor | None) -> Tensor:
        return presets.normalize(presets.flip(clips, flips), preprocessing)

    return to_device(batch, to_inputs, precision)[0]
