import ctypes
from types import SimpleNamespace

import pytest
import torch
from torch import nn

import train
from network import acceleration
from network.acceleration import (
    STEPS_AHEAD,
    StepQueue,
    compile_network,
    freed_memory_kept,
    known_problems,
    lay_out,
    probe_layouts,
)
from network.models import ModelError, build_model, freeze
from network.precision import LAYOUTS, Precision

CPU = torch.device("cpu")
SHAPE = (2, 3, 4, 16, 16)


def make_network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv3d(3, 8, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(8, 3)
    )


@pytest.mark.parametrize(
    "torch_version, cudnn, device, amp, warned",
    [
        ("2.9.0+cu128", 91400, "cuda", torch.float16, "3D convolutions in mixed precision slowly"),
        ("2.9.1+cu128", 91400, "cuda", torch.bfloat16, "3D convolutions in mixed precision slowly"),
        ("2.9.1+cu128", 91500, "cuda", torch.bfloat16, None),
        ("2.9.0", 91400, "cuda", None, None),
        ("2.8.0+cu128", 91400, "cuda", torch.bfloat16, None),
        ("2.10.0", 91002, "cuda", torch.bfloat16, "cuDNN 9.10.2"),
        ("2.10.0", 91002, "cuda", torch.float16, None),
        ("2.9.0", None, "cpu", torch.bfloat16, None),
    ],
)
def test_known_bad_versions_are_warned_of(torch_version, cudnn, device, amp, warned):
    problems = known_problems(torch_version, cudnn, device, amp)
    assert len(problems) == (warned is not None)
    assert not problems or warned in problems[0]


def test_on_a_cpu_auto_is_contiguous_and_a_run_that_is_continued_keeps_its_layout():
    for choice, remembered, expected in (
        ("auto", None, "contiguous"),
        ("auto", "channels last", "channels last"),
        ("auto", "of a later version", "contiguous"),
        ("off", "channels last", "contiguous"),
        ("on", "contiguous", "channels last"),
    ):
        network, precision = make_network(), Precision.of("off", CPU)
        lay_out(network, choice, SHAPE, precision, remembered)
        assert precision.layout == expected
        weight = network[0].weight
        assert weight.is_contiguous(memory_format=LAYOUTS[expected])
        assert weight.is_contiguous() == (expected == "contiguous")


def test_on_a_gpu_the_clock_chooses_unless_torch_is_to_be_deterministic(monkeypatch):
    """Two runs that the clock gives different layouts have different weights."""
    monkeypatch.setattr(acceleration, "probe_layouts", lambda *_: "channels last")
    gpu = torch.device("cuda")
    for deterministic, expected in ((False, "channels last"), (True, "contiguous")):
        monkeypatch.setattr(torch, "are_deterministic_algorithms_enabled", lambda value=deterministic: value)
        precision = Precision.of("off", gpu)
        lay_out(make_network(), "auto", SHAPE, precision)
        assert precision.layout == expected
        lay_out(make_network(), "auto", SHAPE, precision, "channels last")
        assert precision.layout == "channels last"


def test_the_probe_takes_the_faster_layout_and_leaves_the_network_alone(monkeypatch, capsys):
    network = build_model("mc3_18", 3)
    freeze(network, ["layer4", "fc"])
    network.train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    monkeypatch.setattr(acceleration, "PROBE_SECONDS", 0.0)
    assert probe_layouts(network, (1, 3, 4, 28, 28), Precision.of("off", CPU)) in LAYOUTS
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert network.training and all(parameter.grad is None for parameter in network.parameters())
    assert "with the same outputs" in capsys.readouterr().out

    for fast in LAYOUTS:

        def seconds(model, inputs, precision, fast=fast):
            return 1.0 if inputs.is_contiguous(memory_format=LAYOUTS[fast]) else 2.0

        monkeypatch.setattr(acceleration, "_step_seconds", seconds)
        assert probe_layouts(network, (2, 3, 4, 28, 28), Precision.of("off", CPU)) == fast


def test_a_layout_that_gives_other_outputs_is_not_taken(monkeypatch, capsys):
    class Wrong(nn.Module):
        """As a bad kernel would: other numbers in one of the layouts."""

        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(3, 3)

        def forward(self, clips):
            outputs = self.fc(clips.mean((2, 3, 4)))
            return outputs * (1.0 if clips.is_contiguous() else 1.2)

    monkeypatch.setattr(acceleration, "_step_seconds", lambda model, inputs, _: float(inputs.is_contiguous()))
    assert probe_layouts(Wrong(), SHAPE, Precision.of("off", CPU)) == "contiguous"
    assert "DIFFERENT outputs" in capsys.readouterr().out


def test_the_choice_is_stored_for_resume(dataset, small_options, tmp_path):
    common = [*small_options, "--data-path", str(dataset), "--cache-dir", str(tmp_path / "cache"), "--cache-dataset"]
    common += ["--output-dir", str(tmp_path)]
    assert train.main([*common, "--epochs", "1", "--channels-last", "on"]) == 0
    first = torch.load(tmp_path / "checkpoint.pth", weights_only=True)
    assert first["layout"] == "channels last"
    accumulated = ["--gradient-accumulation", "2", "--clip-grad-norm", "1"]
    assert train.main([*common, "--epochs", "2", "--resume", str(tmp_path / "checkpoint.pth"), *accumulated]) == 0
    second = torch.load(tmp_path / "checkpoint.pth", weights_only=True)
    assert second["layout"] == "channels last" and second["epoch"] == 1
    assert second["lr_scheduler"]["last_epoch"] == 4  # 9 clips in batches of 4 are 3 batches, and 2 steps of 2


def test_layouts_give_the_same_outputs():
    torch.manual_seed(0)
    network, clips = build_model("r2plus1d_18", 3).eval(), torch.randn(1, 3, 4, 28, 28)
    with torch.inference_mode():
        plain = network(clips)
        other = network.to(memory_format=torch.channels_last_3d)(clips.to(memory_format=torch.channels_last_3d))
    torch.testing.assert_close(other, plain, rtol=1e-4, atol=1e-5)


def test_a_network_is_compiled_in_place(monkeypatch):
    network = make_network()
    names, compiled = list(network.state_dict()), []
    monkeypatch.setattr(torch, "compile", lambda module: module)
    monkeypatch.setattr(network, "compile", lambda: compiled.append(True))
    compile_network(network, CPU)
    assert compiled and list(network.state_dict()) == names


def test_a_missing_compiler_is_said_at_once(monkeypatch):
    def no_compiler(module):
        raise RuntimeError("Failed to find C compiler.\nmore")

    monkeypatch.setattr(torch, "compile", no_compiler)
    with pytest.raises(
        ModelError, match=r"--compile does not work here, since it needs a C\+\+ compiler: Failed to find C c"
    ):
        compile_network(make_network(), CPU)


class MemoryInfo(ctypes.Structure):
    """glibc's struct mallinfo2; hblkhd: bytes that are mapped for single large blocks."""

    names = "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost"
    _fields_ = [(name, ctypes.c_size_t) for name in names.split()]


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallinfo2"), reason="glibc's allocator")
def test_freed_memory_is_used_again():
    mallinfo = ctypes.CDLL(None).mallinfo2
    mallinfo.restype = MemoryInfo

    def is_mapped_anew(gigabytes):
        """More than earlier tests can have left free; never written to, so that it takes no memory."""
        before = mallinfo().hblkhd
        large = torch.empty(gigabytes << 30, dtype=torch.uint8)
        return mallinfo().hblkhd - before >= large.nbytes

    assert is_mapped_anew(2)
    with freed_memory_kept("cuda"):
        assert is_mapped_anew(2)
    with freed_memory_kept():
        with freed_memory_kept():
            pass
        assert not is_mapped_anew(2)  # the outer block goes on
    assert is_mapped_anew(3)


class Event:
    """Of a GPU whose clock stands at `now` when it is recorded."""

    def __init__(self, now, waited):
        self._now, self._waited = now, waited

    def synchronize(self):
        self._waited.append(self._now)

    def elapsed_time(self, other):
        return other._now - self._now


def test_a_queue_keeps_some_steps_ahead_and_counts_what_the_gpu_waited(monkeypatch):
    # Milliseconds: at first the GPU waits 5 for a batch, later steps of 10 follow each other, then it waits 3.
    clock, waited = iter([0, 5, 15, 15, 25, 28, 38, 38, 48]), []
    monkeypatch.setattr(acceleration, "_record_event", lambda device: Event(next(clock), waited))
    meter = SimpleNamespace(data_seconds=99.0)
    queue = StepQueue(torch.device("cuda"), meter)
    told = []
    for _ in range(4):
        queue.batch_is_here()
        queue.step_is_queued()
        told.append((list(waited), round(meter.data_seconds, 6)))
    assert STEPS_AHEAD == queue.steps_ahead == 2
    assert told == [([], 0.0), ([], 0.0), ([15], 0.005), ([15, 25], 0.005)]
    queue.finish()
    assert waited == [15, 25, 38, 48] and meter.data_seconds == pytest.approx(0.008)


def test_on_a_cpu_there_is_no_queue():
    meter = SimpleNamespace(data_seconds=99.0)
    queue = StepQueue(CPU, meter)
    queue.batch_is_here()
    queue.step_is_queued()
    queue.finish()
    assert queue.steps_ahead == 0 and meter.data_seconds == 99.0
