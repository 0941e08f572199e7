import hashlib
import json
import logging
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import evaluate_logits
import export_onnx
import quickstart
import train
from clips import presets
from clips.preprocessing import MEAN, STD, Preprocessing
from deployment import onnx_network, quantization
from deployment.prediction import find_videos, read_clips
from helpers.extras import require_extra
from helpers.numbered_videos import write_video
from helpers.small_models import (
    CLASSES,
    fit_head,
    legacy_checkpoint,
    small_checkpoint,
    small_preprocessing,
)
from network import trained_model
from network.trained_model import load_trained_model

onnx = require_extra("onnx")
require_extra("onnxscript")
onnxruntime = require_extra("onnxruntime")

COLOURS = ["blue", "green", "red"]
SIZES = [
    *("--clip-len", "8", "--val-resize-size", "32", "42", "--val-crop-size", "28", "28"),
    *("--device", "cpu", "--workers", "0"),
]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return small_checkpoint(tmp_path_factory.mktemp("checkpoint") / "model.pth")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """(data, checkpoint): a network whose head was trained to tell colours apart."""
    data = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    for label, name in enumerate(COLOURS):
        for split, count in (("train", 8), ("val", 4)):
            for number in range(count):
                frames = rng.integers(0, 160, (24, 6, 8, 3), dtype=np.uint8).repeat(8, 1).repeat(8, 2)
                frames[..., 2 - label] += 60
                write_video(data / split / name / f"{number}.mp4", frames, fps=12)
    paths = find_videos([str(data / "train")])
    labels = torch.tensor([COLOURS.index(Path(path).parent.name) for path in paths])
    untrained = load_trained_model(small_checkpoint(tmp_path_factory.mktemp("run") / "model.pth", classes=COLOURS))
    clips = torch.from_numpy(np.concatenate(list(read_clips(paths, untrained.preprocessing, 1, 0))))
    network = fit_head(untrained.network, presets.normalize(clips, untrained.preprocessing), labels)
    return data, small_checkpoint(Path(untrained.path), classes=COLOURS, model=network.state_dict())


def export(*argv) -> int:
    return export_onnx.main([str(arg) for arg in argv] + ["-j", "0"])


def onnx_logits(path, tensor: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    assert [entry.name for entry in session.get_inputs()] == ["video"]
    return session.run(["class_logits"], {"video": tensor})[0]


@pytest.mark.parametrize(
    "network, layout, normalize, flags",
    [
        ("r2plus1d_18", "NCTHW", "inside", ()),
        ("mc3_18", "NTHWC", "inside", ("--dynamic-batch",)),
        ("mc3_18", "NTHWC", "outside", ()),
        ("r3d_18", "NCTHW", "outside", ("--dynamic-batch", "--opset", 20)),
    ],
)
def test_the_file_computes_what_validation_computes(capsys, tmp_path, network, layout, normalize, flags):
    checkpoint, path = small_checkpoint(tmp_path / "model.pth", network), tmp_path / "model.onnx"
    assert export(checkpoint, "--output", path, "--layout", layout, "--normalize", normalize, *flags) == 0
    num_convolutions = 37 if network == "r2plus1d_18" else 20
    assert f"Conv {num_convolutions}," in capsys.readouterr().out
    clips = torch.rand(3, 8, 28, 28, 3)  # B T H W C
    with torch.inference_mode():
        expected = load_trained_model(checkpoint).network(presets.normalize(clips, Preprocessing()))
    video = clips if normalize == "inside" else (clips - torch.tensor(MEAN)) / torch.tensor(STD)
    tensor = (video if layout == "NTHWC" else video.permute(0, 4, 1, 2, 3)).numpy()
    batches = [tensor] if "--dynamic-batch" in flags else np.split(tensor, 3)
    given = np.concatenate([onnx_logits(path, batch) for batch in batches])
    np.testing.assert_allclose(given, expected, atol=1e-4)

    model = onnx.load(path)
    residual = [f"layer{stage}.{block}/Add" for stage in (1, 2, 3, 4) for block in (0, 1)]
    assert [node.name for node in model.graph.node if node.op_type == "Add"] == residual
    assert model.opset_import[0].version == (20 if "--opset" in flags else 18)
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    assert json.loads(metadata["classes"]) == CLASSES
    assert json.loads(metadata["preprocessing"]) == small_preprocessing()
    assert metadata["frame_rule"] == "official frames, 8 at 4 a second"
    assert metadata["checkpoint_sha256"] == hashlib.sha256(checkpoint.read_bytes()).hexdigest()
    assert (metadata["layout"], metadata["normalize"]) == (layout, normalize)


class WrongMean(onnx_network.DeviceNetwork):
    def __init__(self, *args) -> None:
        super().__init__(*args)
        self.mean.copy_(torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1, 1))


class SwappedChannels(onnx_network.DeviceNetwork):
    def __init__(self, *args) -> None:
        super().__init__(*args)
        first = self.network.get_submodule("stem.0")
        first.weight = nn.Parameter(first.weight.flip(1))


@pytest.mark.parametrize("broken", [WrongMean, SwappedChannels])
def test_the_proof_refuses_a_broken_export(capsys, tmp_path, checkpoint, monkeypatch, broken):
    monkeypatch.setattr(onnx_network, "DeviceNetwork", broken)
    assert export(checkpoint, "--output", tmp_path / "model.onnx") == 1
    assert "differ" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_int8_and_tensors_of_a_trained_network(capsys, tmp_path, trained):
    data, checkpoint = trained
    path, tensors = tmp_path / "model.onnx", tmp_path / "tensors"
    argv = ["--output", path, "--data-path", data, "--quantize", "int8", "--calibration-clips", 16]
    assert export(checkpoint, *argv, "--dump-tensors", tensors, "--keep-float", "fc", "layer1") == 0
    out = capsys.readouterr().out
    assert "12 validation videos" in out and "interval, paired" in out
    nodes = onnx.load(path).graph.node
    dequantized = {output for node in nodes if node.op_type == "DequantizeLinear" for output in node.output}
    assert len(dequantized) > 50
    inputs = {node.name: set(node.input) for node in nodes}
    assert not inputs["layer1.1/Add"] & dequantized and inputs["layer2.1/Add"] <= dequantized
    int8_bytes, float_bytes = (file.stat().st_size for file in (path, tmp_path / "model_float.onnx"))
    assert int8_bytes < 0.3 * float_bytes

    rows = [json.loads(line) for line in (tensors / "manifest.jsonl").read_text().splitlines()]
    assert len(rows) == 12 and rows[0]["video"] == "blue/0.mp4" and rows[0]["shape"] == [1, 3, 8, 28, 28]
    session = onnxruntime.InferenceSession(tmp_path / "model_float.onnx", providers=["CPUExecutionProvider"])
    logits = {row["tensor"]: session.run(None, {"video": np.load(tensors / row["tensor"])})[0] for row in rows}
    np.savez(tmp_path / "logits.npz", **logits)
    assert evaluate_logits.main([str(tensors / "manifest.jsonl"), str(tmp_path / "logits.npz")]) == 0
    device_lines = capsys.readouterr().out.splitlines()[:2]
    test_only = ["--data-path", data, "--weights", checkpoint, "--test-only", "--model", "mc3_18", *SIZES]
    test_only += ["--output-dir", tmp_path / "test"]
    assert train.main([str(arg) for arg in test_only]) == 0
    own_lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith(" * ")]
    assert device_lines == own_lines
    assert float(own_lines[1].split()[3]) > 80  # else equal accuracies would prove little


def test_int8_that_loses_too_much_is_not_written(capsys, tmp_path, trained, monkeypatch):
    data, checkpoint = trained

    def ruin(proto, tensors, keep_float):
        ruined = onnx.ModelProto()
        ruined.CopyFrom(proto)
        for entry in ruined.graph.initializer:
            if entry.name.endswith("fc.bias"):
                entry.CopyFrom(onnx.numpy_helper.from_array(np.float32([1e3, 0, 0]), entry.name))
        return ruined

    monkeypatch.setattr(quantization, "quantize_int8", ruin)
    output = tmp_path / "model.onnx"
    assert export(checkpoint, "--output", output, "--data-path", data, "--quantize", "int8") == 1
    assert "--max-drop" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_missing_package_is_named(capsys, tmp_path, checkpoint, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    assert export(checkpoint, "--output", tmp_path / "model.onnx") == 1
    assert "requirements-extras.txt" in capsys.readouterr().err


def test_an_opset_that_torch_cannot_write_is_one_clear_message(capfd, tmp_path, checkpoint, monkeypatch):
    def fail(*args, **kwargs):
        logging.getLogger("torch.onnx").error("Traceback")
        raise KeyError("no adapter")

    monkeypatch.setattr(torch.onnx, "export", fail)
    assert export(checkpoint, "--output", tmp_path / "model.onnx", "--opset", 20) == 1
    err = capfd.readouterr().err
    assert "to opset 20" in err and "no adapter" in err and "Traceback" not in err


def test_a_file_that_cannot_be_read_is_not_called_unwritable(capsys, tmp_path, checkpoint, monkeypatch):
    def gone(*args):
        raise FileNotFoundError(2, "No such file or directory", "gone.pth")

    monkeypatch.setattr(trained_model, "load_trained_model", gone)
    assert export(checkpoint, "--output", tmp_path / "model.onnx") == 1
    assert capsys.readouterr().err == "error: gone.pth: No such file or directory\n"


def test_a_legacy_checkpoint_needs_names(capsys, tmp_path):
    assert export(legacy_checkpoint(tmp_path / "legacy.pth"), "--output", tmp_path / "model.onnx") == 1
    assert "--classes-file" in capsys.readouterr().err


@pytest.mark.parametrize(
    "flags",
    [
        ["--quantize", "int8"],
        ["--dump-tensors", "out"],
        ["--opset", "13"],
        ["--opset", "99"],
        ["--data-path", "data", "--keep-float", "fc"],
        ["--output", "."],
    ],
)
def test_wrong_usage_exits_2(checkpoint, flags):
    with pytest.raises(SystemExit) as stop:
        export(checkpoint, "--output", "model.onnx", *flags)
    assert stop.value.code == 2


def test_another_order_of_classes_is_refused_before_the_export(checkpoint, tmp_path, capsys):
    path = tmp_path / "class_map.json"
    path.write_text(json.dumps({name: index for index, name in enumerate(reversed(CLASSES))}))
    assert export(checkpoint, "--output", tmp_path / "model.onnx", "--class-map", path) == 1
    error = capsys.readouterr().err
    assert "class 0 is 'dips' there and 'left lunge' in the map" in error and not (tmp_path / "model.onnx").exists()


@pytest.mark.slow
def test_at_full_size(capsys, tmp_path):
    preprocessing = small_preprocessing(clip_len=16, resize_size=(128, 171), crop_size=(112, 112))
    checkpoint = small_checkpoint(tmp_path / "model.pth", "r2plus1d_18", preprocessing=preprocessing)
    path = tmp_path / "model.onnx"
    assert export(checkpoint, "--output", path) == 0
    [entry] = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]).get_inputs()
    assert entry.shape == [1, 3, 16, 112, 112] and entry.type == "tensor(float)"


@pytest.mark.slow
def test_int8_of_a_network_trained_on_generated_exercises(capsys, tmp_path):
    assert quickstart.main(["--output-dir", str(tmp_path)]) == 0
    capsys.readouterr()
    argv = ["--data-path", tmp_path / "full_dataset", "--quantize", "int8"]
    code = export(tmp_path / "run" / "model_best.pth", "--output", tmp_path / "model.onnx", *argv)
    out, err = capsys.readouterr()
    assert code == 0, err
    print(out)
    assert float(re.search(r"Acc@1 ([\d.]+) by PyTorch", out)[1]) > 60  # a trained one, by far: chance is 25
