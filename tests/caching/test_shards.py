import json
import os
import threading
import time

import numpy as np
import pytest

from caching import shards
from caching.shards import (
    VERIFIED,
    Shard,
    ShardError,
    ShardFile,
    ShardWriter,
    build_lock,
    note_verified,
    open_shards,
    remove_leftovers,
)
from helpers.damaging import flip_byte

BLOBS = [b"first", b"", bytes(range(256)) * 40]


@pytest.fixture
def shard(tmp_path):
    writer = ShardFile(tmp_path)
    for blob in BLOBS:
        writer.add(blob)
    shard = writer.publish({"rows": np.arange(len(BLOBS))})
    note_verified(tmp_path, [shard])
    return shard


@pytest.fixture
def verified(monkeypatch):
    """The shards whose blobs were compared with their checksums."""
    paths = []
    real = Shard.verify
    monkeypatch.setattr(Shard, "verify", lambda self: (paths.append(self.path), real(self)))
    return paths


def test_a_shard_holds_its_blobs_and_columns(tmp_path, shard, verified):
    (opened,), damage = open_shards(tmp_path)
    assert not damage and not verified
    assert len(opened) == 3 and [opened.blob(row).tobytes() for row in range(3)] == BLOBS
    assert opened.columns["rows"].tolist() == [0, 1, 2] and opened.columns.keys() == {"rows"}
    assert {path.name for path in tmp_path.iterdir()} == {shard.path.name, VERIFIED}


def test_nothing_is_there_before_publishing_and_nothing_after_discarding(tmp_path):
    writer = ShardFile(tmp_path)
    writer.add(b"blob")
    assert open_shards(tmp_path) == ([], [])
    writer.discard()
    assert list(tmp_path.iterdir()) == []
    assert open_shards(tmp_path / "absent") == ([], [])


@pytest.mark.parametrize("cut", [1, 20, 300, 10_000])
def test_a_shard_that_was_cut_short_is_found(tmp_path, shard, cut):
    os.truncate(shard.path, shard.path.stat().st_size - cut)
    opened, (damage,) = open_shards(tmp_path)
    assert not opened and damage.path == shard.path and "cut short" in str(damage)


@pytest.mark.parametrize("position", [0, 5000, -1, -10, -200, -400])
def test_a_flipped_byte_is_found_wherever_it_is(tmp_path, shard, position):
    flip_byte(shard.path, position)
    opened, (damage,) = open_shards(tmp_path)
    assert not opened and damage.path == shard.path


def test_an_empty_file_and_a_foreign_one_are_no_shards(tmp_path):
    (tmp_path / "a.shard").touch()
    (tmp_path / "b.shard").write_bytes(b"x" * 5000)
    opened, damage = open_shards(tmp_path)
    assert not opened and [error.path.name for error in damage] == ["a.shard", "b.shard"]
    with pytest.raises(ShardError):
        Shard(tmp_path / "a.shard")


def test_only_what_changed_is_compared_again(tmp_path, shard, verified):
    open_shards(tmp_path)
    assert verified == []
    os.utime(shard.path)
    open_shards(tmp_path)
    assert verified == [shard.path]
    open_shards(tmp_path)
    assert verified == [shard.path]
    for note in (b"{", b"[]", json.dumps({shard.path.name: [1, 2, 3]}).encode()):
        (tmp_path / VERIFIED).write_bytes(note)
        open_shards(tmp_path)
    assert verified == [shard.path] * 4


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="Linux tells which files are open")
def test_many_shards_do_not_use_up_the_files_that_a_process_may_open(tmp_path):
    for _ in range(5):
        ShardFile(tmp_path).publish({})
    before = len(os.listdir("/proc/self/fd"))
    opened, _ = open_shards(tmp_path)
    assert len(opened) == 5 and len(os.listdir("/proc/self/fd")) == before


def test_a_second_builder_waits_for_the_first(tmp_path, capsys):
    order = []

    def second():
        with build_lock(tmp_path):
            order.append("second")

    with build_lock(tmp_path):
        thread = threading.Thread(target=second)
        thread.start()
        deadline = time.monotonic() + 20
        while "waiting" not in (out := capsys.readouterr().out) and time.monotonic() < deadline:
            time.sleep(0.01)
        assert f"Another run is building {tmp_path}: waiting for it" in out
        order.append("first")
    thread.join(20)
    assert order == ["first", "second"]


def test_leftovers_are_removed_and_shards_are_not(tmp_path, shard):
    (tmp_path / ".writing-abc.tmp").touch()  # as ShardFile names it
    (tmp_path / f".{VERIFIED}.abc.tmp").touch()
    remove_leftovers(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {shard.path.name, VERIFIED}


def test_a_shard_has_the_rights_of_any_other_file(tmp_path, shard):
    (tmp_path / "usual").touch()
    assert shard.path.stat().st_mode == (tmp_path / "usual").stat().st_mode


def test_a_shard_that_another_run_takes_away_meanwhile_is_no_damage(tmp_path, shard, monkeypatch):
    real = Shard.__init__

    def unlink_first(self, path):
        path.unlink()
        real(self, path)

    monkeypatch.setattr(Shard, "__init__", unlink_first)
    assert open_shards(tmp_path) == ([], [])


def columns(rows):
    return {"rows": np.array(rows)}


def written(folder):
    """The rows of each shard, in no order."""
    opened, damage = open_shards(folder)
    assert not damage and not list(folder.glob(".*"))
    return sorted(shard.columns["rows"].tolist() for shard in opened)


def write(folder, rows):
    with ShardWriter(folder, columns) as writer:
        for row in rows:
            writer.add(bytes(10), row)


@pytest.mark.parametrize("limit, value", [("SHARD_ROWS", 2), ("SHARD_BYTES", 15), ("SHARD_SECONDS", -1.0)])
def test_a_shard_is_published_when_it_is_large_or_old_enough(tmp_path, monkeypatch, limit, value):
    monkeypatch.setattr(shards, limit, value)
    write(tmp_path, range(5))
    assert written(tmp_path) == ([[0], [1], [2], [3], [4]] if limit == "SHARD_SECONDS" else [[0, 1], [2, 3], [4]])


def test_nothing_to_write_is_no_shard(tmp_path):
    write(tmp_path, [])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("error, kept", [(KeyboardInterrupt, [[0, 1], [2]]), (OSError, [[0, 1]])])
def test_what_was_written_before_an_error_is_kept_unless_writing_failed(tmp_path, monkeypatch, error, kept):
    def rows():
        yield from range(3)
        raise error

    monkeypatch.setattr(shards, "SHARD_ROWS", 2)
    with pytest.raises(error):
        write(tmp_path, rows())
    assert written(tmp_path) == kept


def test_a_shard_that_cannot_be_published_leaves_nothing(tmp_path, monkeypatch):
    def full(self, columns):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(ShardFile, "publish", full)
    with pytest.raises(OSError):
        write(tmp_path, range(3))
    assert not list(tmp_path.iterdir())
