import json

import numpy as np
import pytest

import evaluate_logits
from helpers.extras import require_extra

LABELS = [0, 2, 1, 2]
LOGITS = np.float32([[3, 1, 0], [0, 1, 2], [5, 1, 0], [0, 0, 1]])  # right, right, wrong, right


@pytest.fixture
def manifest(tmp_path):
    rows = [
        {"video": f"c{label}/{row}.mp4", "label": label, "tensor": f"{row:06d}.npy", "shape": [1], "dtype": "float32"}
        for row, label in enumerate(LABELS)
    ]
    path = tmp_path / "manifest.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def names(kind: str) -> list[str]:
    return [{"video": f"c{label}/{row}.mp4", "tensor": f"{row:06d}.npy"}[kind] for row, label in enumerate(LABELS)]


def run(capsys, *argv) -> tuple[int, str, str]:
    code = evaluate_logits.main([str(arg) for arg in argv])
    return code, *capsys.readouterr()


@pytest.mark.parametrize("kind", ["video", "tensor"])
def test_rows_are_matched_by_name_not_by_order(capsys, tmp_path, manifest, kind):
    pairs = list(zip(names(kind), LOGITS, strict=True))
    np.savez(tmp_path / "logits.npz", **{name: logits[None] for name, logits in reversed(pairs)})
    code, out, _ = run(capsys, manifest, tmp_path / "logits.npz")
    assert code == 0
    assert " * Video Acc@1 75.000 Video Acc@5 100.000" in out and "4 videos, 4 clips" in out


def test_h5_with_groups(capsys, tmp_path, manifest):
    h5py = require_extra("h5py")
    with h5py.File(tmp_path / "logits.h5", "w") as file:
        for name, logits in zip(names("video"), LOGITS, strict=True):
            file[name] = logits
    code, out, _ = run(capsys, manifest, tmp_path / "logits.h5")
    assert code == 0 and "Video Acc@1 75.000" in out


def save(path, changes=()):
    np.savez(path, **{**dict(zip(names("video"), LOGITS, strict=True)), **dict(changes)})
    return path


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e300])
def test_logits_that_are_no_finite_numbers_are_refused_by_name(capsys, tmp_path, manifest, value):
    changes = {name: np.array([0.0, value, 0.0]) for name in names("video")[1:3]}
    code, out, err = run(capsys, manifest, save(tmp_path / "logits.npz", changes))
    assert code == 1 and "2 of 4 rows hold values that are not finite: c2/1.mp4, c1/2.mp4" in err and not out


def rewrite(manifest, **changes):
    rows = [{**json.loads(line), **changes} for line in manifest.read_text().splitlines()]
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_logits_of_another_number_of_classes_are_refused(capsys, tmp_path, manifest):
    rewrite(manifest, num_classes=3)
    assert run(capsys, manifest, save(tmp_path / "logits.npz"))[0] == 0
    rewrite(manifest, num_classes=5)
    code, out, err = run(capsys, manifest, save(tmp_path / "logits.npz"))
    assert code == 1 and "logits of 3 classes, the manifest has 5" in err and not out


@pytest.mark.parametrize("shape", [(1,), (1, 1)])
def test_one_class(capsys, tmp_path, manifest, shape):
    rewrite(manifest, label=0, num_classes=1)
    np.savez(tmp_path / "logits.npz", **{name: np.zeros(shape) for name in names("video")})
    code, out, err = run(capsys, manifest, tmp_path / "logits.npz")
    assert code == 0 and "Video Acc@1 100.000" in out, err


@pytest.mark.parametrize("key, value", [("video", "c0/0.mp4"), ("tensor", "000000.npy")])
def test_a_manifest_that_names_something_twice_is_refused(capsys, tmp_path, manifest, key, value):
    rewrite(manifest, **{key: value})
    code, _, err = run(capsys, manifest, save(tmp_path / "logits.npz"))
    assert code == 1 and f"names the {key} {value} 4 times" in err


def test_a_damaged_file_is_one_clear_message(capsys, tmp_path, manifest):
    whole = tmp_path / "whole.npz"
    np.savez_compressed(whole, **dict(zip(names("video"), LOGITS, strict=True)))
    data, damaged = whole.read_bytes(), tmp_path / "logits.npz"
    cases = [data[: len(data) // 2], data[:-5], *(data[:at] + b"\xff\xff" + data[at + 2 :] for at in range(0, 300, 7))]
    failed = 0
    for case in cases:
        damaged.write_bytes(case)
        code, _, err = run(capsys, manifest, damaged)
        failed += code
        assert code == 0 or str(damaged) in err
    assert failed > 10
    with open(damaged, "wb") as file:
        np.save(file, LOGITS)
    code, _, err = run(capsys, manifest, damaged)
    assert code == 1 and "a single array" in err


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda arrays: arrays.pop("c0/0.mp4"), "no logits for 1 videos (c0/0.mp4"),
        (lambda arrays: arrays.update(other=LOGITS[0]), "1 arrays that the manifest does not name (other"),
        (lambda arrays: arrays.update({"000000": LOGITS[0]}), "several arrays for c0/0.mp4"),
        (lambda arrays: arrays.update({"c0/0.mp4": LOGITS[0][:2]}), "c2/1.mp4 has float32 values of shape (3,)"),
        (lambda arrays: arrays.update({"c0/0.mp4": LOGITS}), "shape (4, 3)"),
        (lambda arrays: arrays.update({name: array[:2] for name, array in arrays.items()}), "names class 2"),
    ],
)
def test_logits_that_do_not_fit_are_refused(capsys, tmp_path, manifest, change, message):
    arrays = dict(zip(names("video"), LOGITS, strict=True))
    change(arrays)
    np.savez(tmp_path / "logits.npz", **arrays)
    code, out, err = run(capsys, manifest, tmp_path / "logits.npz")
    assert code == 1 and message in err and not out


@pytest.mark.parametrize(
    "text, message",
    [
        ("", "lists no tensor"),
        ("no json", "cannot be read as a manifest"),
        ('{"video": "a"}', "line 1"),
        ('{"video": "a", "tensor": "b", "label": "dips"}', "index of a class"),
    ],
)
def test_a_manifest_that_is_none_is_refused(capsys, tmp_path, manifest, text, message):
    manifest.write_text(text)
    code, _, err = run(capsys, manifest, save(tmp_path / "logits.npz"))
    assert code == 1 and message in err


@pytest.mark.parametrize("name", ["logits.npz", "logits.h5", "logits.csv"])
def test_a_file_of_another_kind_is_refused(capsys, tmp_path, manifest, name):
    if name.endswith("h5"):
        require_extra("h5py")
    (tmp_path / name).write_bytes(b"nothing")
    code, _, err = run(capsys, manifest, tmp_path / name)
    assert code == 1 and name in err
