from types import SimpleNamespace

from benchmarks.model import RUNTIMES, benchmark_model
from clips.preprocessing import Preprocessing
from helpers.extras import require_extra

for package in ("onnx", "onnxscript", "onnxruntime"):
    require_extra(package)


def test_figures_of_small_clips(tmp_path):
    preprocessing = Preprocessing(clip_len=8, resize_size=(32, 42), crop_size=(28, 28))
    sizes = {"steps": 2, "rounds": 1, "workers": 1}
    options = SimpleNamespace(preprocessing=preprocessing, **sizes, scratch=tmp_path, model="r2plus1d_18")
    figures = benchmark_model(options)
    # 31,300,125 of r2plus1d_18 without its last layer (torchvision), and 512 weights and a bias for each class.
    assert figures.pop("model_parameters") == 31_300_125 + 513 * 100
    assert all(value > 0 for value in figures.values())
    assert len(figures) == 1 + 3 * len(RUNTIMES)
    for runtime in RUNTIMES:
        assert figures[f"model_{runtime}_median_ms"] <= figures[f"model_{runtime}_p95_ms"]
