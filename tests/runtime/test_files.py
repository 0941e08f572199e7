import csv
import json
import os
import stat

import pytest

from references.dataset_tools import names
from runtime import files
from runtime.files import printable, replaced_file, sha256_of, write_csv, write_json


def test_a_file_appears_whole(tmp_path):
    path = tmp_path / "folder" / "file"
    with replaced_file(path) as file:
        file.write(b"content")
        assert not path.exists()
    assert path.read_bytes() == b"content" and os.listdir(path.parent) == ["file"]


def test_a_failure_keeps_the_old_file(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with pytest.raises(ZeroDivisionError), replaced_file(path) as file:
        file.write(b"new")
        raise ZeroDivisionError
    assert path.read_bytes() == b"old" and os.listdir(tmp_path) == ["file"]


def test_others_may_read_it(tmp_path):
    with replaced_file(tmp_path / "replaced"):
        pass
    (tmp_path / "usual").touch()
    modes = {name: stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("replaced", "usual")}
    assert modes["replaced"] == modes["usual"]


def test_errors_name_the_file_that_was_asked_for(tmp_path):
    with pytest.raises(OSError) as unnamed, replaced_file(tmp_path / "file"):
        raise OSError(28, "No space left on device")
    assert unnamed.value.filename == str(tmp_path / "file")
    with pytest.raises(OSError) as named, replaced_file(tmp_path / "file"):
        raise FileNotFoundError(2, "No such file", "another")
    assert named.value.filename == "another"
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError) as replaced, replaced_file(tmp_path / "folder"):
        pass
    assert replaced.value.filename == str(tmp_path / "folder") and ".tmp'" not in str(replaced.value)
    assert os.listdir(tmp_path) == ["folder"]


@pytest.mark.parametrize(
    "name, shown",
    [
        ("Übung 1.mp4", "Übung 1.mp4"),
        (os.fsdecode(b"x\xff\x80.mp4"), r"x\xff\x80.mp4"),
        ("\ud800", r"\ud800"),
        (b"bytes", "b'bytes'"),
    ],
)
def test_every_name_can_be_printed(name, shown):
    assert printable(name) == shown
    printable(name).encode()


def test_json(tmp_path):
    write_json(tmp_path / "a.json", {"a": [1, 2]})
    assert json.loads((tmp_path / "a.json").read_text()) == {"a": [1, 2]}


def test_csv_keeps_names_that_are_not_utf8(tmp_path):
    name = os.fsdecode(b'x\xff, "y"\n.mp4')
    write_csv(tmp_path / "a.csv", [("path", "label"), (name, 1)])
    with open(tmp_path / "a.csv", encoding="utf-8", errors="surrogateescape", newline="") as file:
        assert list(csv.reader(file)) == [["path", "label"], [name, "1"]]


def test_sha256(tmp_path):
    (tmp_path / "abc").write_bytes(b"abc")
    # FIPS 180-2, appendix B.1.
    assert sha256_of(tmp_path / "abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_names_are_texts_under_every_locale_as_the_dataset_tools_have_them(monkeypatch, encoding):
    for module in (files, names):
        monkeypatch.setattr(module, "IS_UTF8", encoding == "utf-8")
    monkeypatch.setattr(os, "fsencode", lambda name: name.encode(encoding, "surrogateescape"))
    monkeypatch.setattr(os, "fsdecode", lambda data: data.decode(encoding, "surrogateescape"))
    for data in (b"squats", "Übung 深蹲".encode(), b"x\xff \xc3\xa9"):
        name, text = data.decode(encoding, "surrogateescape"), data.decode("utf-8", "surrogateescape")
        assert files.text_of(name) == names.to_text(name) == text
        assert files.name_of(text) == names.to_name(text) == name
