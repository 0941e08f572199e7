"""The record of what was sent to AI Hub, and its `.h5` files beside those of its client."""

import json
import shutil

import numpy as np
import pytest

import evaluate_logits
from deployment.ai_hub import Record
from deployment.device_run import Target
from deployment.device_tensors import write_input_set
from helpers.extras import require_extra
from runtime.errors import UserError
from runtime.files import printable

SETTINGS = {"device": "a", "videos": 3}


def filled(folder) -> Record:
    record = Record(folder, SETTINGS)
    record.uploads["model"] = {"id": "m0", "sha256": "0", "bytes": 1}
    record.jobs = {name: {"id": name[0], "url": "u"} for name in ("quantize", "compile", "profile", "inference_000")}
    record.shared_with = ["jury@example.org"]
    record.save()
    return record


def test_a_record_is_read_back(tmp_path):
    record, again = filled(tmp_path), Record(tmp_path, SETTINGS)
    assert vars(again) == vars(record)


@pytest.mark.parametrize(
    "name, left, shared",
    [
        ("quantize", [], []),
        ("compile", ["quantize"], []),
        ("profile", ["quantize", "compile", "inference_000"], ["jury@example.org"]),
    ],
)
def test_a_failed_job_is_forgotten_with_those_that_depend_on_it(tmp_path, name, left, shared):
    filled(tmp_path).forget(name)
    record = Record(tmp_path, SETTINGS)
    assert list(record.jobs) == left and record.shared_with == shared
    assert len(record.failed) == 4 - len(left) and record.uploads["model"]["id"] == "m0"


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", "5", "null", '{"settings": {"device": "a", "videos": 3}}', '{"settings": 1}']
)
def test_a_damaged_record_is_one_message(tmp_path, content):
    (tmp_path / "jobs.json").write_text(content)
    with pytest.raises(UserError, match=r"jobs\.json cannot be read"):
        Record(tmp_path, SETTINGS)


def test_a_record_of_other_settings_is_refused(tmp_path):
    filled(tmp_path)
    with pytest.raises(UserError, match="device was a, is b.*another --output-dir"):
        Record(tmp_path, {**SETTINGS, "device": "b"})


def test_options_of_the_compile_job():
    assert Target("d", "onnx").compile_options == "--target_runtime onnx"
    quantized = Target("d", "qnn_dlc", "w8a16", 8, channel_last=True).compile_options
    assert quantized == "--target_runtime qnn_dlc --quantize_io --force_channel_last_input video"


def contents(file) -> dict:
    """Everything in an `.h5` file: arrays, their compression, and attributes."""
    h5py = require_extra("h5py")
    found = {}

    def add(name, item) -> None:
        array = (item[()].tolist(), str(item.dtype), item.compression) if isinstance(item, h5py.Dataset) else None
        found[name] = array, dict(item.attrs)

    file.visititems(add)
    return found


def test_an_input_set_is_what_the_client_writes(tmp_path):
    require_extra("qai_hub")
    h5py = require_extra("h5py")
    from qai_hub.util.dataset_entries_converters import dataset_entries_to_h5, h5_to_dataset_entries

    clips = [np.random.default_rng(seed).random((1, 3, 4, 5, 6), np.float32) for seed in range(12)]
    write_input_set(tmp_path / "ours.h5", iter(clips), len(clips))
    with h5py.File(tmp_path / "theirs.h5", "w") as theirs, h5py.File(tmp_path / "ours.h5") as ours:
        assert contents(ours) == contents(dataset_entries_to_h5({"video": clips}, theirs))
        np.testing.assert_array_equal(np.stack(h5_to_dataset_entries(ours)["video"]), np.stack(clips))


def test_an_input_set_appears_whole_or_not_at_all(tmp_path):
    require_extra("h5py")
    with pytest.raises(RuntimeError, match="1 clips instead of 2"):
        write_input_set(tmp_path / "inputs.h5", [np.zeros(3, np.float32)], 2)
    assert not list(tmp_path.iterdir())


def test_an_input_set_on_a_full_disk(tmp_path, monkeypatch):
    require_extra("h5py")
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=16 << 20))
    with pytest.raises(OSError, match="No space left on device.*inputs.h5"):
        write_input_set(tmp_path / "inputs.h5", [np.zeros(3, np.float32)], 1)
    assert not list(tmp_path.iterdir())


@pytest.fixture
def scored(tmp_path, capsys):
    """(manifest, logits (V, 3), what evaluate_logits prints of them as .npz)."""
    values = np.random.default_rng(0).normal(size=(12, 3)).astype(np.float32)
    rows = [{"video": f"c/{row}.mp4", "label": row % 3, "tensor": f"{row:06d}.npy"} for row in range(12)]
    manifest = tmp_path / "manifest.jsonl"
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
    np.savez(tmp_path / "logits.npz", **{row["tensor"]: logits for row, logits in zip(rows, values, strict=True)})
    assert evaluate_logits.main([str(manifest), str(tmp_path / "logits.npz")]) == 0
    return manifest, values, capsys.readouterr().out.splitlines()[:2]


def write_outputs(path, values):
    """As AI Hub gives back what a network with one output computed."""
    require_extra("qai_hub")
    h5py = require_extra("h5py")
    from qai_hub.util.dataset_entries_converters import dataset_entries_to_h5

    with h5py.File(path, "w") as file:
        dataset_entries_to_h5({"class_logits": [logits[None] for logits in values]}, file)
    return path


def evaluate(capsys, manifest, *files) -> tuple[int, str, str]:
    code = evaluate_logits.main([str(manifest), *map(str, files)])
    out, err = capsys.readouterr()
    return code, out, printable(err)


def test_outputs_of_ai_hub_score_as_their_npz_does(capsys, tmp_path, scored):
    manifest, values, expected = scored
    whole = write_outputs(tmp_path / "whole.h5", values)  # 12 outputs: batch_10 comes after batch_9
    chunks = [write_outputs(tmp_path / f"{start}.h5", values[start:][:5]) for start in (0, 5, 10)]
    for files in ([whole], chunks):
        code, out, err = evaluate(capsys, manifest, *files)
        assert code == 0 and out.splitlines()[:2] == expected, err
    code, out, _ = evaluate(capsys, manifest, *reversed(chunks))
    assert code == 0 and out.splitlines()[:2] != expected  # the order says which video is which


def test_too_few_or_too_many_outputs(capsys, tmp_path, scored):
    manifest, values, _ = scored
    some, all_of_them = write_outputs(tmp_path / "a.h5", values[:5]), write_outputs(tmp_path / "b.h5", values)
    code, out, err = evaluate(capsys, manifest, some)
    assert code == 1 and "the manifest lists 12 videos, and there are 5 outputs" in err and not out
    code, _, err = evaluate(capsys, manifest, all_of_them, some)
    assert code == 1 and "there are 17 outputs" in err and "a.h5 5" in err and "b.h5 12" in err


def test_outputs_that_are_not_one_per_clip(capsys, tmp_path, scored):
    h5py = require_extra("h5py")
    manifest, values, _ = scored
    for name, broken in (("data/1/batch_0", "several outputs"), ("data/0/batch_13", "lacks the output of clip 12")):
        path = write_outputs(tmp_path / "broken.h5", values)
        with h5py.File(path, "a") as file:
            file[name] = values[0]
        code, _, err = evaluate(capsys, manifest, path)
        assert code == 1 and "broken.h5 " in err and broken in err


def test_several_named_files(capsys, tmp_path, scored):
    manifest, values, expected = scored
    parts = [tmp_path / "a.npz", tmp_path / "b.npz"]
    for path, rows in zip(parts, (range(0, 7), range(7, 12)), strict=True):
        np.savez(path, **{f"c/{row}.mp4": values[row] for row in rows})
    code, out, _ = evaluate(capsys, manifest, *reversed(parts))
    assert code == 0 and out.splitlines()[:2] == expected
    code, _, err = evaluate(capsys, manifest, *parts, parts[0])
    assert code == 1 and "c/0.mp4 is in 2 of" in err
    outputs = write_outputs(tmp_path / "outputs.h5", values)
    code, _, err = evaluate(capsys, manifest, outputs, parts[0])
    assert code == 1 and f"{parts[0]} is not an .h5 file of AI Hub" in err
