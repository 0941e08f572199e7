"""How fast the network is trained: its step alone, and the real epoch beside it."""

import statistics
import time
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from benchmark_cache import FRAME_RATE, built_cache
from datasets import Batch, ClipDataset, training_samples
from engine import Precision, set_train_mode, to_device, train_one_epoch
from frame_selection import official
from loading import ClipLoader
from measuring import BenchmarkOptions, peak_megabytes
from models import DEFAULT_TRAINABLE, build_model, freeze
from optimization import OPTIMIZERS, build_schedule, parameter_groups
from torch import nn

MODEL = "r2plus1d_18"
TRAINABLE = {"frozen": list(DEFAULT_TRAINABLE), "full": ["all"]}
WARMUP_STEPS = 2


def benchmark_step(options: BenchmarkOptions) -> dict[str, float]:
    """Training steps on one batch that lies on the device: most blocks frozen, as by default, and none."""
    figures = {}
    for name, trainable in TRAINABLE.items():
        trainer = _Trainer(options, trainable)
        batch = _made_up_batch(options)
        seconds = _step_seconds(options, partial(trainer.step, *to_device(batch, trainer.device)))
        figures[f"step_{name}_seconds"] = statistics.median(seconds)
        figures[f"step_{name}_clips_per_second"] = options.batch_size / statistics.median(seconds)
        figures[f"step_{name}_peak_megabytes"] = trainer.peak_megabytes()
    return figures


def benchmark_epoch(options: BenchmarkOptions) -> dict[str, float]:
    """A real epoch from a warm cache, beside the same number of bare steps; its share of time waiting for data."""
    trainer = _Trainer(options, TRAINABLE["frozen"])
    cache = built_cache(options, "raw")
    dataset = ClipDataset(
        options.videos,
        cache.index.timing,
        cache,
        official,
        clip_len=options.clip_len,
        frame_rate=FRAME_RATE,
        clips_per_video=1,
        resize_size=options.resize_size,
        crop_size=options.crop_size,
        may_flip=torch.ones(len(options.videos.classes), dtype=torch.bool),
        random=True,
    )
    is_gpu = trainer.device.type == "cuda"
    loader = ClipLoader(dataset, options.batch_size, options.workers, pin_memory=is_gpu)
    videos = torch.from_numpy(np.flatnonzero(cache.index.num_frames)).repeat(
        -(-options.steps * options.batch_size // len(options.videos))
    )
    fixed = to_device(_made_up_batch(options), trainer.device)
    _step_seconds(options, partial(trainer.step, *fixed), WARMUP_STEPS)
    shares, waiting = [], []
    for epoch in range(options.rounds):
        bare = statistics.median(_step_seconds(options, partial(trainer.step, *fixed)))
        samples = training_samples(videos, 1, 0, epoch)[: options.steps * options.batch_size]
        summary = trainer.epoch(loader.batches(samples), options.steps, epoch)
        shares.append(bare * options.steps / summary.seconds)
        waiting.append(100 * summary.data_seconds / summary.seconds)
        rate = len(samples) / summary.seconds
    return {
        "epoch_steps": options.steps,
        "epoch_clips_per_second": rate,
        "epoch_model_share_of_time": statistics.median(shares),
        "epoch_waiting_percent": statistics.median(waiting),
        "epoch_peak_megabytes": peak_megabytes(),
        "epoch_device_peak_megabytes": trainer.peak_megabytes(),
    }


class _Trainer:
    """A network of random weights with what a training step needs."""

    def __init__(self, options: BenchmarkOptions, trainable: list[str]) -> None:
        self.device = torch.device(options.device)
        torch.manual_seed(0)
        self._classes = max(2, len(options.videos.classes))
        self.model = build_model(MODEL, self._classes)
        self._frozen = freeze(self.model, trainable)
        self.model.to(self.device)
        self._criterion = nn.CrossEntropyLoss(reduction="none")
        self._optimizer = OPTIMIZERS["sgd"](parameter_groups(self.model, 1e-4), 1e-4, 0.9)
        self._precision = Precision.of(options.amp, self.device)
        if self.device.type == "cuda":
            torch.backends.cudnn.benchmark = True
            torch.cuda.reset_peak_memory_stats()
        set_train_mode(self.model, self._frozen)

    def step(self, clips: torch.Tensor, targets: torch.Tensor) -> None:
        """One step on clips (B, C, T, H, W) that are ready, as `train_one_epoch` does it."""
        with self._precision.autocast():
            loss = self._criterion(self.model(clips), targets).mean()
        self._optimizer.zero_grad(set_to_none=True)
        scaler = self._precision.scaler
        (scaler.scale(loss) if scaler else loss).backward()
        if scaler:
            scaler.step(self._optimizer)
            scaler.update()
        else:
            self._optimizer.step()
        loss.item()  # waits for the device

    def epoch(self, batches, num_steps: int, epoch: int):
        """See engine.train_one_epoch."""
        schedule = build_schedule(
            self._optimizer,
            epochs=epoch + 1,
            steps_per_epoch=num_steps,
            decay="cosine",
            milestones=[],
            gamma=0.1,
            warmup_epochs=0,
            warmup_method="linear",
            warmup_decay=0.001,
        )
        return train_one_epoch(
            self.model,
            self._criterion,
            self._optimizer,
            schedule,
            batches,
            num_steps=num_steps,
            precision=self._precision,
            frozen=self._frozen,
            seed=0,
            print_freq=num_steps,
            epoch=epoch,
        )

    def peak_megabytes(self) -> float:
        """Of the device."""
        return torch.cuda.max_memory_allocated() / 1e6 if self.device.type == "cuda" else peak_megabytes()


def _made_up_batch(options: BenchmarkOptions) -> Batch:
    clips = torch.randint(256, (options.batch_size, options.clip_len, *options.crop_size, 3), dtype=torch.uint8)
    zeros = torch.zeros(options.batch_size, dtype=torch.int64)
    return Batch(clips, zeros, zeros, zeros.bool())


def _step_seconds(options: BenchmarkOptions, step: Callable[[], None], steps: int | None = None) -> list[float]:
    """Seconds of each of `options.steps` steps."""
    seconds = []
    for _ in range(steps or options.steps):
        start = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - start)
    return seconds
