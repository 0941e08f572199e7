"""Tensors for a device as `.npy` and as input sets of AI Hub: the same clips, in the order of the manifest."""

import json
from dataclasses import replace
from unittest.mock import Mock

import numpy as np
import pytest
import torch

from deployment import device_tensors
from deployment.device_tensors import drawn_videos, dump_tensors, open_official_clips
from deployment.onnx_network import DeviceFormat
from helpers.extras import require_extra
from helpers.small_models import small_checkpoint, write_coloured_videos
from network.trained_model import load_trained_model
from runtime.errors import UserError

CLASSES = ["dips", "jumping_jacks"]


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    """(model, clips of 6 videos)."""
    folder = tmp_path_factory.mktemp("videos")
    model = load_trained_model(small_checkpoint(folder / "model.pth", model=small_network(), classes=CLASSES))
    root = write_coloured_videos(folder / "data", {"val": 3}, CLASSES)
    reading = {"cache_dir": folder / "cache", "skip_unreadable": False, "num_workers": 0}
    return model, open_official_clips(root / "val", model, **reading)


def small_network():
    from helpers.small_models import SMALLEST, random_network

    return random_network(SMALLEST, len(CLASSES)).state_dict()


@pytest.mark.parametrize("layout, shape", [("NCTHW", (1, 3, 8, 28, 28)), ("NTHWC", (1, 8, 28, 28, 3))])
def test_input_sets_hold_the_tensors_in_the_order_of_the_manifest(tmp_path, opened, monkeypatch, layout, shape):
    h5py = require_extra("h5py")
    monkeypatch.setattr(device_tensors, "CHUNK_CLIPS", 4)
    (tmp_path / "inputs_002.h5").write_bytes(b"of a longer set")
    model, clips = opened
    manifest = dump_tensors(tmp_path, clips, DeviceFormat(layout), model.preprocessing)
    rows = [json.loads(line) for line in manifest.read_text().splitlines()]
    assert [row["video"] for row in rows] == [f"{name}/{number}.mp4" for name in CLASSES for number in range(3)]
    assert [path.name for path in sorted(tmp_path.glob("*.h5"))] == ["inputs_000.h5", "inputs_001.h5"]
    sets = []
    for name, count in (("inputs_000.h5", 4), ("inputs_001.h5", 2)):
        with h5py.File(tmp_path / name) as file:
            assert file["data/0"].attrs["batch_count"] == count
            sets += [file[f"data/0/batch_{number}"][()] for number in range(count)]
    for row, tensor in zip(rows, sets, strict=True):
        np.testing.assert_array_equal(tensor, np.load(tmp_path / row["tensor"]))
        assert tensor.shape == tuple(row["shape"]) == shape and tensor.dtype == row["dtype"]
    assert len({tensor.tobytes() for tensor in sets}) == 6


def test_a_dump_removes_the_earlier_one_alone(tmp_path, opened, monkeypatch):
    require_extra("h5py")
    model, clips = opened
    dump_tensors(tmp_path, clips, DeviceFormat(), model.preprocessing)
    for name in ("inputs_mine.h5", "000009.npy"):
        (tmp_path / name).touch()
    some = replace(clips, videos=clips.videos[:2])
    dump_tensors(tmp_path, some, DeviceFormat(), model.preprocessing)
    left = ["000000.npy", "000001.npy", "000009.npy", "inputs_000.h5", "inputs_mine.h5", "manifest.jsonl"]
    assert sorted(path.name for path in tmp_path.iterdir()) == left
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(device_tensors, "clip_arrays", Mock(side_effect=KeyboardInterrupt))
        dump_tensors(tmp_path, clips, DeviceFormat(), model.preprocessing)
    assert not (tmp_path / "manifest.jsonl").exists()  # it would describe tensors that are half replaced
    (tmp_path / "manifest.jsonl").write_text('{"of": "another program"}')
    with pytest.raises(UserError, match="a row needs"):
        dump_tensors(tmp_path, clips, DeviceFormat(), model.preprocessing)
    assert (tmp_path / "manifest.jsonl").read_text() == '{"of": "another program"}'


def test_videos_are_drawn_once_each_and_always_the_same(opened):
    _, clips = opened
    some, everything = drawn_videos(clips, 4), drawn_videos(clips, 100)
    assert len(set(some.tolist())) == 4 and torch.equal(some, everything[:4])
    assert sorted(everything.tolist()) == clips.videos.tolist()


def test_no_python_runs_inside_hdf5(tmp_path, monkeypatch):
    """An interrupt that came there would crash the process, with HDF5's driver of Python objects."""
    h5py = require_extra("h5py")
    drivers = []

    def tensors():
        drivers.extend(file.driver for file in opened_files)
        yield np.zeros((1, 2), np.float32)

    opened_files, real_file = [], h5py.File
    monkeypatch.setattr(h5py, "File", lambda *args: opened_files.append(real_file(*args)) or opened_files[-1])
    device_tensors.write_input_set(tmp_path / "set.h5", tensors(), 1)
    assert len(drivers) == 1 and drivers != ["fileobj"]
