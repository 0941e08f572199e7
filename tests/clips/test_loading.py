"""The loader: batches from threads, from processes and from the caller are the same, and errors name the file."""

import os
import threading

import numpy as np
import pytest
import torch

from caching.cache_building import complete_cache
from caching.clip_cache import CacheSettings, ClipCache
from clips.dataset import Augmentation, ClipDataset, DecodingReader
from clips.loading import ClipLoader, run_ahead
from clips.preprocessing import Preprocessing
from clips.samplers import Sample, training_samples
from helpers.small_datasets import write_moving_bar
from videos.decoding import VideoError
from videos.folder import VideoFolder
from videos.resizing import Region

CLIP_LEN, CROP = 4, (28, 28)
PREPROCESSING = Preprocessing(CLIP_LEN, resize_size=(32, 40), crop_size=CROP)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    for i in range(7):
        write_moving_bar(root / "ab"[i % 2] / f"{i}.mp4", seed=i, num_frames=40)
    settings = CacheSettings(PREPROCESSING)
    files = VideoFolder(root)
    cache = ClipCache(files, settings, settings.folder(tmp_path_factory.mktemp("cache"), root))
    complete_cache(cache, 0)
    return cache


def dataset_of(cache, reader):
    augmentation = Augmentation(may_flip=torch.tensor([True, False]))
    return ClipDataset(cache.files, cache.index.timing, reader, PREPROCESSING, augmentation=augmentation)


def batches_of(cache, reader, num_workers, batch_size=3):
    samples = training_samples(torch.arange(7), 1, seed=0, epoch=2)
    return list(ClipLoader(dataset_of(cache, reader), batch_size, num_workers).batches(samples)), samples


def assert_same(batches, others):
    assert len(batches) == len(others)
    for batch, other in zip(batches, others, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(batch, other, strict=True))


@pytest.mark.parametrize("num_workers", [1, 2, 5])
def test_threads_give_the_batches_that_the_caller_gives(cache, num_workers):
    batches, samples = batches_of(cache, cache, 0)
    assert [len(batch.clips) for batch in batches] == [3, 3, 1]
    assert torch.cat([batch.videos for batch in batches]).tolist() == [sample.video for sample in samples]
    assert batches[0].clips.dtype == torch.uint8 and batches[0].clips.shape == (3, CLIP_LEN, *CROP, 3)
    labels = torch.from_numpy(cache.files.labels)
    assert all(torch.equal(batch.targets, labels[batch.videos]) for batch in batches)
    flips = torch.cat([batch.flips for batch in batches])
    assert flips.any() and not flips[torch.cat([batch.targets for batch in batches]) == 1].any()
    assert_same(batches, batches_of(cache, cache, num_workers)[0])


def test_processes_give_the_batches_that_the_caller_gives(cache):
    reader = DecodingReader(cache.files, PREPROCESSING)
    batches, _ = batches_of(cache, reader, 0)
    assert batches[0].clips.dtype == torch.float32 and 0 <= batches[0].clips.min() <= batches[0].clips.max() <= 1
    assert_same(batches, batches_of(cache, reader, 2)[0])


def test_threads_copy_alone_and_leave_the_callers_threads_as_they_are(cache, monkeypatch):
    counts = set()
    read_into = ClipCache.read_into

    def counting(*args):
        counts.add(torch.get_num_threads())
        read_into(*args)

    monkeypatch.setattr(ClipCache, "read_into", counting)
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        batches_of(cache, cache, 2)
        assert counts == {1} and torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


def test_a_clip_is_the_same_in_any_company(cache):
    """Of every order, batch size and neighbour: what a clip gets at random is its own."""
    alone = ClipLoader(dataset_of(cache, cache), 1, 0)
    together, samples = batches_of(cache, cache, 2, batch_size=7)
    for row, sample in reversed(list(enumerate(samples))):
        (batch,) = alone.batches([sample])
        assert torch.equal(batch.clips[0], together[0].clips[row])


class DyingReader(DecodingReader):
    """Ends its process at video 3."""

    def read_into(self, clip, video, indices, region):
        if video == 3:
            os._exit(7)
        super().read_into(clip, video, indices, region)


def test_a_worker_that_dies_names_the_file(cache):
    loader = ClipLoader(dataset_of(cache, DyingReader(cache.files, PREPROCESSING)), 2, 2)
    with pytest.raises(VideoError, match="ended the worker process, exit code 7") as caught:
        list(loader.batches([Sample(video) for video in range(7)]))
    assert caught.value.path == cache.files.path(3)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_file_that_does_not_decode_stops_the_epoch_by_name(cache, tmp_path, num_workers):
    for name in ("a/0.mp4", "a/1.mp4"):
        write_moving_bar(tmp_path / name, seed=1, num_frames=40)
    files = VideoFolder(tmp_path)
    (tmp_path / "a/1.mp4").write_bytes(b"damaged since")
    dataset = dataset_of(cache, DecodingReader(files, PREPROCESSING))
    with pytest.raises(VideoError) as caught:
        list(ClipLoader(dataset, 1, num_workers).batches([Sample(0), Sample(1)]))
    assert caught.value.path == str(tmp_path / "a/1.mp4")


@pytest.mark.parametrize("num_workers", [0, 2])
def test_nothing_runs_on_after_the_consumer_stops(cache, num_workers):
    batches = ClipLoader(dataset_of(cache, cache), 1, num_workers).batches([Sample(i % 7) for i in range(1000)])
    next(batches)
    batches.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("loader")]


def test_an_epoch_without_clips_has_no_batches(cache):
    loader = ClipLoader(dataset_of(cache, cache), 3, 2)
    assert list(loader.batches([])) == [] and [loader.num_batches(n) for n in (0, 1, 3, 4)] == [0, 1, 1, 2]


def test_run_ahead_keeps_order_and_raises_what_was_raised():
    def items():
        yield from range(5)
        raise ZeroDivisionError

    received = []
    with pytest.raises(ZeroDivisionError):
        for item in run_ahead(items(), 2):
            received.append(item)
    assert received == list(range(5))


def test_ctrl_c_while_the_thread_starts_ends_it(monkeypatch):
    """It would fill its queue for ever, and with it the worker processes that the interpreter waits for at its end."""
    real, ended = threading.Thread.start, threading.Event()

    def start(thread):
        real(thread)
        raise KeyboardInterrupt

    def endless():
        try:
            while True:
                yield 0
        finally:
            ended.set()

    monkeypatch.setattr(threading.Thread, "start", start)
    with pytest.raises(KeyboardInterrupt):
        next(run_ahead(endless(), 2))
    assert ended.wait(60)


def test_run_ahead_stops_its_thread():
    closed = threading.Event()

    def endless():
        try:
            while True:
                yield 1
        finally:
            closed.set()

    ahead = run_ahead(endless(), 2)
    assert [next(ahead) for _ in range(5)] == [1] * 5
    ahead.close()
    assert closed.wait(10)
    assert not [thread for thread in threading.enumerate() if thread.name == "run-ahead"]


def test_reading_scattered_frames_equals_reading_them_one_by_one(cache):
    kept = cache._frames[0]
    indices = kept[[0, 2, 3, 3]]
    clip, region = np.empty((4, *CROP, 3), np.uint8), Region(1, 2, *CROP)
    cache.read_into(clip, 0, indices, region)
    for row, index in enumerate(indices):
        one = np.empty((1, *CROP, 3), np.uint8)
        cache.read_into(one, 0, np.array([index]), region)
        assert np.array_equal(one[0], clip[row])


@pytest.mark.parametrize("num_workers", [0, 2])
def test_memory_is_used_again_only_when_the_batch_is_gone(cache, num_workers):
    samples = training_samples(torch.arange(7), 1, seed=0, epoch=2)
    loader = ClipLoader(dataset_of(cache, cache), 4, num_workers)
    held = [batch.clips[1:] for batch in loader.batches(samples)]
    before = [clips.clone() for clips in held]
    seen = {clips.data_ptr() for clips in held}
    for _ in range(3):
        others = {batch.clips[1:].data_ptr() for batch in loader.batches(samples[::-1])}
        assert not seen & others
    assert all(torch.equal(clips, copy) for clips, copy in zip(held, before, strict=True))
    as_array = held.pop().numpy()
    last = as_array.copy()
    for _ in range(3):
        others = {batch.clips[1:].data_ptr() for batch in loader.batches(samples)}
    assert np.array_equal(as_array, last)
    assert others & {batch.clips[1:].data_ptr() for batch in loader.batches(samples)}
