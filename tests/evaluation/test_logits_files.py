import zipfile

import numpy as np
import pytest
import torch

from clips.samplers import Sample
from evaluation.logits_files import LogitsWriter, read_teacher
from runtime.errors import UserError
from videos.folder import VideoFolder

NAMES = ["a/1.mp4", "a/2.mp4", "b/1.mp4", "c/x y.mp4"]
CLASSES = ["a", "b", "c"]


@pytest.fixture
def folder(tmp_path):
    for name in NAMES:
        path = tmp_path / "train" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    return VideoFolder(tmp_path / "train")


@pytest.fixture
def write(tmp_path):
    def write_file(**changes):
        arrays = {
            "videos": np.array(NAMES),
            "clips": np.zeros(4, int),
            "logits": np.arange(12, dtype=np.float32).reshape(4, 3) ** 1.3,
            "classes": np.array(CLASSES),
        }
        arrays = {name: value for name, value in {**arrays, **changes}.items() if value is not None}
        np.savez(tmp_path / "teacher.npz", **arrays)
        return tmp_path / "teacher.npz"

    return write_file


def expected_rows(temperature):
    logits = torch.arange(12.0).reshape(4, 3) ** 1.3
    return (logits / temperature).softmax(1)


def test_rows_are_found_by_name_and_columns_by_class_whatever_their_order(folder, write):
    rows, columns = np.array([3, 1, 0, 2]), np.array([2, 0, 1])
    logits = (np.arange(12, dtype=np.float32).reshape(4, 3) ** 1.3)[rows][:, columns]
    path = write(videos=np.array(NAMES)[rows], logits=logits, classes=np.array(CLASSES)[columns], clips=None)
    found = read_teacher(path, folder, torch.arange(4), temperature=3.0)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected_rows(3.0))


def test_a_videos_clips_are_averaged_as_probabilities(folder, write):
    videos = np.array([*NAMES, NAMES[0], "d/unknown.mp4"])
    logits = np.random.default_rng(0).normal(size=(6, 3)) * 5
    found = read_teacher(
        write(videos=videos, clips=np.array([0, 0, 0, 0, 1, 0]), logits=logits), folder, torch.arange(4), 1.0
    )
    probabilities = torch.from_numpy(logits.astype(np.float32)).softmax(1)
    torch.testing.assert_close(found[0], (probabilities[0] + probabilities[4]) / 2)
    torch.testing.assert_close(found[1:], probabilities[1:4])


def test_missing_videos_are_counted_and_named_unless_they_are_not_trained_on(folder, write):
    path = write(videos=np.array(NAMES[:2]), clips=np.zeros(2, int), logits=np.ones((2, 3)))
    with pytest.raises(UserError, match=r"lacks 2 of the 4 training videos: b/1.mp4, c/x y.mp4\."):
        read_teacher(path, folder, torch.arange(4), 1.0)
    assert read_teacher(path, folder, torch.tensor([0, 1]), 1.0)[2:].abs().sum() == 0


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"classes": np.array(["a", "b", "d"])}, "lacks c; it also has d"),
        ({"classes": np.array(["a", "b", "b"])}, "lacks c"),
        ({"logits": np.full((4, 3), np.nan)}, "4 rows hold logits that are NaN or infinite"),
        ({"logits": np.full((4, 3), 1e300)}, "4 rows hold logits that are NaN or infinite, or too large for float32"),
        ({"clips": np.full(4, np.nan)}, "is not a file of logits: expected"),
        ({"clips": np.array(["0", "0", "0", "0"])}, "is not a file of logits: expected"),
        ({"logits": np.ones((4, 2))}, "is not a file of logits: expected"),
        ({"logits": np.ones((4, 3), int)}, "is not a file of logits: expected"),
        ({"videos": np.array([NAMES])}, "is not a file of logits: expected"),
        ({"videos": np.arange(4)}, "is not a file of logits: expected"),
        ({"logits": None}, "it has no `logits`"),
        ({"videos": np.array([NAMES[0]] * 4)}, "holds clip 0 of a/1.mp4 4 times"),
        ({"videos": np.array(NAMES, object)}, "without pickled objects"),
    ],
)
def test_a_file_that_would_teach_something_else_is_refused(folder, write, changes, words):
    with pytest.raises(UserError, match=words) as error:
        read_teacher(write(**changes), folder, torch.arange(4), 1.0)
    assert "teacher.npz" in str(error.value)


@pytest.mark.parametrize("content", [b"", b"no zip", b"PK\x03\x04 cut short"])
def test_what_is_no_archive_is_refused(folder, tmp_path, content):
    (tmp_path / "bad.npz").write_bytes(content)
    with pytest.raises(UserError, match=r"bad\.npz"):
        read_teacher(tmp_path / "bad.npz", folder, torch.arange(4), 1.0)
    with pytest.raises(UserError, match=r"absent\.npz"):
        read_teacher(tmp_path / "absent.npz", folder, torch.arange(4), 1.0)


@pytest.mark.parametrize("before, after", [(b"videos.npy", 20), (b"PK\x01\x02", 6)], ids=["packed data", "method"])
def test_a_damaged_archive_is_refused(folder, write, tmp_path, before, after):
    with np.load(write()) as arrays:
        np.savez_compressed(tmp_path / "teacher.npz", **arrays)
    data = bytearray((tmp_path / "teacher.npz").read_bytes())
    position = data.index(before) + len(before) + after
    data[position : position + 2] = b"\xff\xff"
    (tmp_path / "teacher.npz").write_bytes(data)
    with pytest.raises(UserError, match=r"teacher\.npz cannot be read"):
        read_teacher(tmp_path / "teacher.npz", folder, torch.arange(4), 1.0)


def test_members_that_are_no_arrays_are_refused(folder, tmp_path):
    with zipfile.ZipFile(tmp_path / "teacher.npz", "w") as archive:
        for name in ("videos", "logits", "classes"):
            archive.writestr(f"{name}.npy", "text")
    with pytest.raises(UserError, match=r"teacher\.npz cannot be read .*videos"):
        read_teacher(tmp_path / "teacher.npz", folder, torch.arange(4), 1.0)


def test_what_is_written_is_read_back(folder, tmp_path):
    path = tmp_path / "new" / "logits.npz"
    writer = LogitsWriter(path)
    assert not path.exists()
    logits = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    writer.add([Sample(2), Sample(0)], logits[[2, 0]])
    writer.add([Sample(1), Sample(3)], logits[[1, 3]])
    writer.write(folder)
    assert [path.name for path in path.parent.iterdir()] == ["logits.npz"]
    torch.testing.assert_close(read_teacher(path, folder, torch.arange(4), 1.0), logits.softmax(1))
