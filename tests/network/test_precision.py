"""How batches come to the device."""

import contextlib

import pytest
import torch

from clips import presets
from clips.dataset import Batch
from clips.preprocessing import Preprocessing
from network import precision
from network.precision import LAYOUTS, Precision, beside_steps, to_device, upload

CPU = torch.device("cpu")


def pixels_batch(dtype=torch.uint8, size=4):
    clips = torch.randint(256, (size, 3, 8, 9, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    clips = clips if dtype == torch.uint8 else clips / 255
    flips = torch.arange(size) % 2 == 0
    return Batch(clips, torch.arange(size), torch.arange(size), flips)


def to_inputs(clips, flips, seeds):
    return presets.normalize(presets.flip(clips, flips), Preprocessing())


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_layouts_hold_the_same_values_and_the_batch_is_left_alone(dtype):
    batch = pixels_batch(dtype)
    before = batch.clips.clone()
    made = {}
    for layout, memory_format in LAYOUTS.items():
        inputs, targets = to_device(batch, to_inputs, Precision(CPU, None, None, layout))
        assert inputs.is_contiguous(memory_format=memory_format) and inputs.shape == (4, 3, 3, 8, 9)
        assert torch.equal(targets, batch.targets)
        made[layout] = inputs
    assert torch.equal(made["contiguous"], made["channels last"])
    assert torch.equal(batch.clips, before)


class Stream:
    """Notes what becomes of it."""

    def __init__(self, log):
        self.log = log

    def wait_stream(self, other):
        assert other is not self
        self.log.append("steps wait for the copies")


class Value:
    """A tensor that notes which stream will read it."""

    def __init__(self, log):
        self.log = log

    def record_stream(self, stream):
        self.log.append("kept for the steps")


def test_what_is_prepared_for_a_gpu_has_a_stream_of_its_own_and_is_kept_until_it_was_read(monkeypatch):
    log = []
    steps, copies = Stream(log), Stream(log)

    @contextlib.contextmanager
    def inside(stream):
        assert stream is copies
        log.append("begin")
        yield
        log.append("end")

    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: steps)
    monkeypatch.setattr(torch.cuda, "stream", inside)
    monkeypatch.setattr(precision, "_copy_stream", lambda device: copies)

    def prepare():
        log.append("prepare")
        return Value(log), Value(log)

    made = beside_steps(torch.device("cuda", 0), prepare)
    assert len(made) == 2
    assert log == ["begin", "prepare", "end", "steps wait for the copies", "kept for the steps", "kept for the steps"]


@pytest.mark.gpu
def test_a_card_gets_what_the_cpu_gets(card):
    for layout in LAYOUTS:
        (found, targets), (expected, _) = (
            to_device(pixels_batch(), to_inputs, Precision(device, None, None, layout)) for device in (card, CPU)
        )
        assert found.device.type == targets.device.type == "cuda"
        assert found.is_contiguous(memory_format=LAYOUTS[layout])
        torch.testing.assert_close(found.cpu(), expected, rtol=0, atol=1e-6)


@pytest.mark.gpu
def test_page_locked_memory_is_not_used_again_before_it_was_copied(card):
    """While the copying stream is busy, its source is freed and allocated anew."""
    stream = precision._copy_stream(card)
    for value in range(1, 9):
        source = torch.full((1 << 20,), value, dtype=torch.uint8, pin_memory=True)
        with torch.cuda.stream(stream):
            torch.cuda._sleep(20_000_000)
        (copied,) = upload(card, source)
        del source
        torch.full((1 << 20,), 99, dtype=torch.uint8, pin_memory=True)
        assert (copied == value).all()


@pytest.mark.gpu
def test_memory_that_was_copied_to_is_not_used_again_before_it_was_read(card):
    (values,) = upload(card, torch.full((1 << 20,), 7, dtype=torch.uint8, pin_memory=True))
    torch.cuda._sleep(50_000_000)  # on the stream of the steps, which reads it afterwards
    total = values.sum()
    del values
    for _ in range(4):
        upload(card, torch.zeros(1 << 20, dtype=torch.uint8, pin_memory=True))
    assert total.item() == 7 << 20
