"""What `benchmark.py gpu` measures, measured on the CPU; and on a card, where there is one."""

from dataclasses import replace
from itertools import chain

import pytest
import torch

import benchmark
from benchmarks import gpu, training
from benchmarks.measuring import AnyVideos, BenchmarkOptions
from clips.preprocessing import Preprocessing
from helpers.small_datasets import make_dataset

# In the order in which they are printed.
FIGURES = [
    "gpu_bf16_matrix_teraflops",
    *(
        f"gpu_{kind}_{layout}_clips_per_second"
        for kind in ("bf16", "fp32")
        for layout in ("contiguous", "channels_last")
    ),
    "gpu_compiled_clips_per_second",
    *("gpu_batch_of_4_clips_per_second", "gpu_best_batch_size"),
    *("gpu_frozen_clips_per_second", "gpu_frozen_share_of_matrix_rate"),
    *("gpu_features_clips_per_second", "gpu_features_share_of_matrix_rate", "gpu_features_to_frozen_rate"),
    *("gpu_full_clips_per_second", "gpu_full_share_of_matrix_rate", "gpu_full_to_frozen_rate"),
    *(f"gpu_{kind}_waiting_percent" for kind in ("frozen", "features", "full")),
    *(f"gpu_{kind}_peak_megabytes" for kind in ("frozen", "features", "full")),
    *("gpu_validation_clips_per_second", "gpu_validation_to_model_time", "gpu_memory_growth_megabytes"),
]


@pytest.fixture
def options(tmp_path, monkeypatch):
    for name, value in {"EPOCH_SECONDS": 0.0, "MEMORY_STEPS": 3, "LARGER_BATCHES": (2,), "WORTHWHILE": 0.0}.items():
        monkeypatch.setattr(gpu, name, value)
    monkeypatch.setattr(training, "MATRIX_SIZE", 64)
    monkeypatch.setattr(training, "compile_network", lambda network, device: None)
    videos = AnyVideos(make_dataset(tmp_path / "videos", ["a", "b"], num_train=2, num_val=1))
    preprocessing = Preprocessing(4, resize_size=(32, 40), crop_size=(28, 28))
    sizes = {"workers": 1, "rounds": 1, "batch_size": 2, "steps": 2}
    return BenchmarkOptions(videos, tmp_path, "cpu", "off", preprocessing, **sizes, model="mc3_18")


def test_the_figures_come_one_after_the_other(options):
    parts = list(gpu.gpu_figures(options))
    assert list(chain(*parts)) == FIGURES and len(parts) > 15
    figures = {name: value for part in parts for name, value in part.items()}
    assert figures["gpu_best_batch_size"] == 4  # as WORTHWHILE is 0
    assert all(value > 0 for name, value in figures.items() if "waiting" not in name and "growth" not in name)


def test_what_does_not_fit_is_left_out_and_the_rest_is_measured(options, monkeypatch, capsys):
    def too_large(options, name, clips=None, run=training.TrainingRun):
        if name == "full":
            raise torch.OutOfMemoryError("CUDA out of memory.\nmore")
        return run(options, name, clips)

    monkeypatch.setattr(gpu, "TrainingRun", too_large)
    names = list(chain(*gpu.gpu_figures(options)))
    assert [name for name in FIGURES if name not in names] == [
        name for name in FIGURES if any(part in name for part in ("_full_", "bf16_c", "fp32_c", "compiled", "batch"))
    ]
    assert (
        "  2 clips, --amp off, channels last: left out, OutOfMemoryError: CUDA out of memory."
        in capsys.readouterr().out
    )


def test_a_slow_device_is_not_asked_for_more(options, monkeypatch, capsys):
    monkeypatch.setattr(gpu, "COMPILE_UNTIL", 0)
    monkeypatch.setattr(gpu, "SIZES_UNTIL", 0)
    names = list(chain(*gpu.gpu_figures(options)))
    assert [name for name in FIGURES if name not in names] == FIGURES[5:7]
    assert capsys.readouterr().out.count("left out, since what came before took too long") == 2


def test_without_a_card_there_is_one_line(capsys):
    assert benchmark.main(["gpu", "--device", "cpu"]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == "error: `gpu` measures a GPU, and the device is cpu: check nvidia-smi and the torch build\n"


@pytest.mark.gpu
def test_on_a_card(card, options, capsys):
    parts = list(gpu.benchmark_gpu(replace(options, device=str(card))))
    assert list(chain(*parts)) == FIGURES and torch.cuda.get_device_name(card) in capsys.readouterr().out
    figures = {name: value for part in parts for name, value in part.items()}
    assert abs(figures["gpu_memory_growth_megabytes"]) < 1
