"""Torchvision's other video models, fed as their weights expect: trained, validated, used to predict, not exported."""

import json

import numpy as np
import pytest

import export_onnx
import predict
import train
from helpers.extras import require_extra
from helpers.numbered_videos import write_video
from helpers.small_models import CLASSES as SMALL_CLASSES
from helpers.small_models import write_coloured_videos
from network.trained_model import load_trained_model

SLOW = pytest.mark.slow  # half a minute each
CLASSES = ["planks", "squats"]
# The head alone is trained: the rest would take minutes on a CPU. Frames: the fewest that the network takes.
MODELS = {"mvit_v2_s": ("head", 16, (256,)), "swin3d_t": ("head", 2, (256,)), "s3d": ("classifier", 14, (256, 256))}


@pytest.fixture(scope="module")
def wide_videos(tmp_path_factory):
    """Two classes, one video each in train/ and val/, twice as wide as high."""
    root = tmp_path_factory.mktemp("wide")
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        for name in CLASSES:
            frames = rng.integers(0, 255, (8, 48, 96, 3), dtype=np.uint8)
            write_video(root / split / name / "1.mp4", frames, fps=4)
    return root


@pytest.mark.parametrize("name", [name if name == "swin3d_t" else pytest.param(name, marks=SLOW) for name in MODELS])
def test_a_model_goes_from_training_to_a_prediction_as_its_weights_expect(name, wide_videos, tmp_path, capsys):
    head, clip_len, resize_size = MODELS[name]
    options = ["--data-path", str(wide_videos), "--cache-dir", str(tmp_path / "cache"), "--device", "cpu"]
    options += ["--model", name, "--clip-len", str(clip_len), "--batch-size", "1", "--workers", "0"]
    run = tmp_path / "run"
    train_head = ["--trainable", head, "--epochs", "1", "--output-dir", str(run), "--lr", "0.001"]
    assert train.main([*options, *train_head]) == 0
    checkpoint = str(run / "checkpoint.pth")
    stored = load_trained_model(checkpoint).preprocessing
    assert (stored.resize_size, stored.crop_size) == (resize_size, (224, 224))
    log = json.loads((run / "log.jsonl").read_text())
    capsys.readouterr()
    logits = tmp_path / "logits.npz"
    assert train.main([*options, "--resume", checkpoint, "--test-only", "--save-logits", str(logits)]) == 0
    out = capsys.readouterr().out
    assert f" * Video Acc@1 {log['val_video_acc1']:.3f}" in out and f"loss {log['val_loss']:.4f}" in out
    assert "validation differs" not in out
    videos = [str(wide_videos / "val" / label / "1.mp4") for label in CLASSES]
    assert predict.main([checkpoint, *videos, "--format", "json", "--device", "cpu", "--workers", "0"]) == 0
    predictions = json.loads(capsys.readouterr().out)
    with np.load(logits) as file:
        rows = np.exp(file["logits"][np.argsort(file["videos"])].astype(np.float64))
    expected = rows / rows.sum(1, keepdims=True)
    for row, prediction in zip(expected, predictions, strict=True):
        top = {entry["label"]: entry["probability"] for entry in prediction["top"]}
        np.testing.assert_allclose([top[label] for label in CLASSES], row, atol=1e-5)
    for extra in ("onnx", "onnxscript", "onnxruntime"):
        require_extra(extra)
    assert export_onnx.main([checkpoint, "--output", str(tmp_path / "model.onnx")]) == 1
    error = capsys.readouterr().err
    assert "export supports r2plus1d_18, r2plus1d_34, r3d_18, mc3_18" in error and name in error
    assert not (tmp_path / "model.onnx").exists()


@pytest.mark.slow
def test_the_34_goes_all_the_way_to_int8_as_the_18_does(tmp_path, capsys):
    for extra in ("onnx", "onnxscript", "onnxruntime"):
        require_extra(extra)
    data = write_coloured_videos(tmp_path / "data", {"train": 2, "val": 1})
    options = ["--data-path", str(data), "--cache-dir", str(tmp_path / "cache"), "--device", "cpu", "--workers", "0"]
    sizes = [f"--{split}-{what}-size" for what in ("resize", "crop") for split in ("train", "val")]
    small = ["--clip-len", "8", "--batch-size", "2"]
    for flag, size in zip(sizes, ("32 42", "32 42", "28 28", "28 28"), strict=True):
        small += [flag, *size.split()]
    run = ["--model", "r2plus1d_34", "--cache-features", "--epochs", "1", "--output-dir", str(tmp_path / "run")]
    assert train.main([*options, *small, *run]) == 0
    assert "r2plus1d_34, random weights" in capsys.readouterr().out
    class_map = tmp_path / "class_map.json"
    class_map.write_text(json.dumps({name: index for index, name in enumerate(sorted(SMALL_CLASSES))}))
    int8 = ["--quantize", "int8", "--max-drop", "100", "--class-map", str(class_map), "--data-path", str(data)]
    export = [str(tmp_path / "run" / "checkpoint.pth"), "--output", str(tmp_path / "model.onnx"), "--workers", "0"]
    assert export_onnx.main([*export, *int8, "--cache-dir", str(tmp_path / "cache")]) == 0
    out = capsys.readouterr().out
    assert "int8: video Acc@1" in out and "ONNX checker passed" in out
    sizes = [(tmp_path / name).stat().st_size for name in ("model.onnx", "model_float.onnx")]
    assert 60e6 < sizes[0] < 80e6 and 250e6 < sizes[1] < 260e6  # 63.6 million weights of 1 byte, and of 4
