import os

import pytest

from references.dataset_tools import comparing
from references.dataset_tools.comparing import find_differing, find_duplicates, is_second_copy, same_bytes


@pytest.fixture
def write(tmp_path, monkeypatch):
    """A function that writes a file and returns its path; files are read four bytes at a time."""
    monkeypatch.setattr(comparing, "CHUNK_BYTES", 4)

    def write_bytes(name: str, data: bytes) -> str:
        (tmp_path / name).write_bytes(data)
        return str(tmp_path / name)

    return write_bytes


@pytest.mark.parametrize(
    "first, second, same",
    [
        (b"", b"", True),
        (b"12345678", b"12345678", True),
        (b"1234567", b"1234567", True),
        (b"12345678", b"1234567x", False),
        (b"x2345678", b"12345678", False),
        (b"12345678", b"123456789", False),
        (b"12345678", b"1234", False),
        (b"", b"1", False),
    ],
)
def test_the_same_bytes(write, first, second, same):
    paths = write("first", first), write("second", second)
    assert same_bytes(*paths) is same and same_bytes(*paths[::-1]) is same


def test_a_file_that_grows_while_it_is_read_is_another(write, monkeypatch):
    paths = write("first", b"1234"), write("second", b"12345678")
    monkeypatch.setattr(os.path, "getsize", lambda path: 4)
    assert not same_bytes(*paths) and not same_bytes(*paths[::-1])


def test_one_file_is_not_read(write, monkeypatch):
    path = write("first", b"1")
    os.link(path, path + " again")
    monkeypatch.setattr(comparing, "open", None, raising=False)
    assert same_bytes(path, path) and same_bytes(path, path + " again")


def test_a_second_copy_holds_without_the_first(write, tmp_path):
    path, other = write("first", b"1"), write("second", b"1")
    assert is_second_copy(path, other) and not is_second_copy(path, write("third", b"2"))
    assert not is_second_copy(path, path)
    (tmp_path / "link").symlink_to("first")
    assert not is_second_copy(str(tmp_path / "link"), path) and not is_second_copy(path, str(tmp_path / "link"))
    os.link(path, tmp_path / "hard")
    assert is_second_copy(path, str(tmp_path / "hard"))


def test_two_mounts_of_one_name_are_no_second_copy(write, monkeypatch):
    """As a bind mount has it: one inode under two paths, of which neither is a link."""
    path, other = write("first", b"1"), write("second", b"1")
    monkeypatch.setattr(os.path, "samefile", lambda first, second: True)
    assert not is_second_copy(path, other)


def test_files_that_differ_or_cannot_be_read(write, tmp_path):
    same, other = write("first", b"1"), write("second", b"2")
    pairs = [(same, same), (same, other), (str(tmp_path / "gone"), other)]
    (first, second) = find_differing(pairs, jobs=2)
    assert first == (same, f"its bytes differ from those of {other}")
    assert second[0] == str(tmp_path / "gone") and second[1].startswith("cannot be compared: ")


def test_duplicates(write, tmp_path):
    contents = {"f": b"12345", "b": b"12345", "a": b"12345", "x": b"1234x", "e": b"", "d": b"", "z": b"99", "y": b"99"}
    files = [(name, write(name, data), len(data)) for name, data in contents.items()]
    files += [("gone", str(tmp_path / "gone"), 2), ("alone", str(tmp_path / "alone"), 77)]
    found = find_duplicates(files, jobs=3)
    assert found == ([["a", "b", "f"], ["y", "z"]], {"gone": "No such file or directory"})
