"""Prepares batches ahead of the step.

From a cache, threads copy crops out of the memory map (no process, no pickling); from the videos, worker processes
decode and a thread collects what they send.
"""

import math
import queue
import threading
import weakref
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

from clips.dataset import Batch, Videos
from clips.samplers import Sample
from runtime.worker_pool import WorkerDied, map_in_workers
from videos.decoding import VideoError

BATCHES_AHEAD = 3
MAX_THREADS = 4  # copying is bound by memory bandwidth: more do not help
CLIPS_AHEAD_PER_WORKER = 4


class _Reader(Protocol):
    @property
    def dtype(self) -> type: ...

    @property
    def is_fast(self) -> bool: ...


class ClipSource(Protocol):
    """What a loader reads: a `ClipDataset`, or the features of its clips."""

    clips_per_video: int

    @property
    def folder(self) -> Videos:
        """The videos."""

    @property
    def reader(self) -> _Reader:
        """Gives the element type, and says whether threads read best."""

    @property
    def clip_shape(self) -> tuple[int, ...]:
        """Of a clip as it is read."""

    def read_into(self, clips: np.ndarray, samples: Sequence[Sample]) -> list[bool]:
        """Writes the clips, and returns which to flip on the device."""

    def device_seeds(self, samples: Sequence[Sample]) -> Tensor:
        """Seeds what is drawn for each clip on the device, int64 (B,); EVALUATION where nothing is."""

    def to_inputs(self, clips: Tensor, flips: Tensor, seeds: Tensor | None = None) -> Tensor:
        """What the network takes of a batch, float32 (B, C, T, H, W)."""


Source = TypeVar("Source", bound=ClipSource)


class ClipLoader(Generic[Source]):
    """Makes batches of a dataset's clips.

    Args:
        dataset: the clips.
        batch_size: clips in a batch.
        num_workers: processes that decode, or threads that copy from a cache; 0 reads in the calling thread.
        pin_memory: page-locked batches, which are copied to a GPU while it computes.
    """

    def __init__(self, dataset: Source, batch_size: int, num_workers: int, pin_memory: bool = False) -> None:
        self.dataset, self.batch_size, self.num_workers, self._pin_memory = dataset, batch_size, num_workers, pin_memory
        self._buffers = _Buffers()

    def num_batches(self, num_samples: int) -> int:
        """Batches in `num_samples` clips; the last may be smaller."""
        return -(-num_samples // self.batch_size)

    def batches(self, samples: Sequence[Sample]) -> Generator[Batch, None, None]:
        """Yields the clips of `samples` in order.

        Raises:
            VideoError: a frame does not decode, or a worker died on a video.
        """
        if self.num_workers == 0:
            yield from map(self._gather, self._split(samples))
        elif self.dataset.reader.is_fast:
            yield from self._from_threads(samples)
        else:
            yield from run_ahead(self._from_processes(samples), BATCHES_AHEAD)

    def _split(self, samples: Sequence[Sample]) -> Iterator[Sequence[Sample]]:
        return (samples[start : start + self.batch_size] for start in range(0, len(samples), self.batch_size))

    def _from_threads(self, samples: Sequence[Sample]) -> Iterator[Batch]:
        threads = min(self.num_workers, MAX_THREADS)
        # Each thread copies alone: of its own accord torch would start as many threads again for each of them.
        with ThreadPoolExecutor(threads, "loader", torch.set_num_threads, (1,)) as pool:
            parts = self._split(samples)
            ahead = islice(parts, max(BATCHES_AHEAD, threads))  # every thread has work
            pending = deque(pool.submit(self._gather, part) for part in ahead)
            try:
                while pending:
                    batch = pending.popleft().result()
                    pending.extend(pool.submit(self._gather, part) for part in islice(parts, 1))
                    yield batch
            finally:
                for future in pending:
                    future.cancel()

    def _from_processes(self, samples: Sequence[Sample]) -> Generator[Batch, None, None]:
        lookahead = max(CLIPS_AHEAD_PER_WORKER * self.num_workers, self.batch_size)
        clips = map_in_workers(_ReadClip(self.dataset), samples, self.num_workers, lookahead=lookahead)
        for part in self._split(samples):
            batch = self._empty(part)
            try:
                for row, (clip, flip) in enumerate(islice(clips, len(part))):
                    batch.clips[row] = torch.from_numpy(clip)
                    batch.flips[row] = flip
            except WorkerDied as death:
                path = self.dataset.folder.path(death.item.video)
                raise VideoError(path, f"decoding it ended the worker process, {death.how}") from death
            yield batch

    def _gather(self, samples: Sequence[Sample]) -> Batch:
        batch = self._empty(samples)
        batch.flips.copy_(torch.tensor(self.dataset.read_into(batch.clips.numpy(), samples)))
        return batch

    def _empty(self, samples: Sequence[Sample]) -> Batch:
        shape, dtype = (len(samples), *self.dataset.clip_shape), np.dtype(self.dataset.reader.dtype)
        if self._pin_memory:  # torch reuses page-locked memory itself
            clips = torch.empty(shape, dtype=getattr(torch, dtype.name), pin_memory=True)
        else:
            clips = self._buffers.take(shape, dtype)
        videos = torch.tensor([sample.video for sample in samples])
        targets = torch.from_numpy(self.dataset.folder.labels)[videos]
        flips = torch.zeros(len(samples), dtype=torch.bool)
        return Batch(clips, targets, videos, flips, self.dataset.device_seeds(samples))


class _Buffers:
    """The memory of batches, reused once nothing refers to a batch any more.

    The system would take back blocks of this size, and page them in again for each batch: on an EPYC core a clip took
    270 us to copy into fresh memory, 76 us into reused memory.
    """

    def __init__(self) -> None:
        self._free: deque[np.ndarray] = deque(maxlen=2 * BATCHES_AHEAD)

    def take(self, shape: tuple[int, ...], dtype: np.dtype) -> torch.Tensor:
        """An uninitialised tensor."""
        size = math.prod(shape) * dtype.itemsize
        try:
            memory = self._free.pop()
        except IndexError:
            memory = np.empty(0, np.uint8)
        if len(memory) < size:
            memory = np.empty(size, np.uint8)
        array = memory[:size].view(dtype).reshape(shape)
        # The tensor's storage, which all its views share, keeps this array alive until the last of them is gone.
        weakref.finalize(array, self._free.append, memory).atexit = False
        return torch.from_numpy(array)


class _ReadClip:
    """Reads one clip in a worker process: (clip, flip)."""

    def __init__(self, dataset: ClipSource) -> None:
        self._dataset = dataset

    def __call__(self, sample: Sample) -> tuple[np.ndarray, bool]:
        clip: np.ndarray = np.empty(self._dataset.clip_shape, self._dataset.reader.dtype)
        (flip,) = self._dataset.read_into(clip[None], [sample])
        return clip, flip


def run_ahead(items: Generator[Any, None, None], depth: int) -> Generator[Any, None, None]:
    """Yields `items`, which a thread produces up to `depth` ahead; what they raise is raised here."""
    ready: queue.Queue = queue.Queue(depth)
    stopped = threading.Event()
    end = object()

    def put(value: Any) -> None:
        while not stopped.is_set():
            try:
                return ready.put(value, timeout=0.1)
            except queue.Full:
                continue

    def produce() -> None:
        try:
            for item in items:
                put((item, None))
                if stopped.is_set():
                    break
            put((end, None))
        except BaseException as error:  # all of them, so that the consumer never waits for a dead thread
            put((end, error))
        finally:
            items.close()

    thread = threading.Thread(target=produce, name="run-ahead", daemon=True)
    try:
        thread.start()  # Ctrl-C can come as soon as the thread runs, and would leave it running
        while True:
            item, error = ready.get()
            if error is not None:
                raise error
            if item is end:
                return
            yield item
    finally:
        stopped.set()
        if thread.is_alive():
            thread.join()
