import io
import os
import stat
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import numpy as np
import pytest

from runtime import columns
from runtime.columns import Ragged, pack_columns, read_arrays, unpack_columns
from runtime.files import replaced_file


def test_ragged_rows_come_back_in_any_order(monkeypatch):
    monkeypatch.setattr(columns, "ROWS_AT_ONCE", 2)
    rows = [[1, 2, 3], [], [4], [5, 6], []]
    ragged = Ragged.of(rows, np.int32)
    assert len(ragged) == 5 and [row.tolist() for row in ragged] == rows and ragged[3].dtype == np.int32
    order = np.array([3, 3, 1, 0, 4, 2, 0])
    assert [row.tolist() for row in ragged.take(order)] == [rows[i] for i in order]
    assert len(ragged.take(np.array([], np.int64))) == 0
    both = Ragged.concatenate([ragged, Ragged.of([[7]], np.int32)])
    assert [row.tolist() for row in both] == [*rows, [7]]


def test_file_names_survive_even_those_that_are_not_utf8():
    names = ["a/b.mp4", "", "squats/Übung 1.mp4", os.fsdecode(b"x/\xff\xfe.mp4")]
    packed = Ragged.of_strings(names)
    assert packed.strings() == names and packed.string(3) == names[3]
    assert Ragged.of_strings([]).strings() == []


def test_columns_are_packed_and_nothing_else_is_unpacked():
    columns = {"names": Ragged.of_strings(["a", "bc"]), "sizes": np.array([1, 2]), "empty": Ragged.of([], np.uint8)}
    unpacked = unpack_columns(pack_columns(columns))
    assert unpacked.keys() == columns.keys()
    assert unpacked["names"].strings() == ["a", "bc"] and unpacked["sizes"].tolist() == [1, 2]
    assert len(unpacked["empty"]) == 0
    for data in (b"", b"no columns", pack_columns({"objects": np.array([{}], object)})):
        with pytest.raises((ValueError, OSError)):
            unpack_columns(data)


def test_a_flipped_bit_never_gives_other_values():
    columns = {"names": Ragged.of_strings(["a", "bc"]), "sizes": np.arange(50)}
    packed = pack_columns(columns)
    found = 0
    for bit in range(0, 8 * len(packed), 7):
        damaged = bytearray(packed)
        damaged[bit // 8] ^= 1 << bit % 8
        try:
            unpacked = unpack_columns(bytes(damaged))
        except ValueError:
            found += 1
        else:
            assert unpacked["names"].strings() == ["a", "bc"]
            assert unpacked.get("sizes", np.arange(50)).tolist() == list(range(50))  # a column may be lost
    assert found > 900


def test_a_replaced_file_appears_whole_or_not_at_all(tmp_path):
    path = tmp_path / "folder" / "file"
    with replaced_file(path) as file:
        file.write(b"first")
        assert not path.exists()
    assert path.read_bytes() == b"first"
    with pytest.raises(ZeroDivisionError), replaced_file(path) as file:
        file.write(b"second")
        raise ZeroDivisionError
    assert path.read_bytes() == b"first" and os.listdir(path.parent) == ["file"]


def test_a_replaced_file_has_the_rights_of_any_other(tmp_path):
    (tmp_path / "usual").touch()
    with replaced_file(tmp_path / "replaced"):
        pass
    usual, replaced = ((tmp_path / name).stat().st_mode for name in ("usual", "replaced"))
    assert stat.S_IMODE(usual) == stat.S_IMODE(replaced)


def test_threads_read_headers_one_after_the_other(monkeypatch):
    """CPython 3.11.7's parser, which numpy reads headers with, fails when two threads are in it."""
    both_inside, real = threading.Barrier(2), np.lib.format.read_array
    met = []

    def read_array(*args, **options):
        with suppress(threading.BrokenBarrierError):  # alone in here
            met.append(both_inside.wait(0.2))
        return real(*args, **options)

    monkeypatch.setattr(np.lib.format, "read_array", read_array)
    packed = pack_columns({"rows": np.arange(3)})
    with ThreadPoolExecutor(2) as pool:
        results = list(pool.map(lambda _: read_arrays(io.BytesIO(packed)), range(2)))
    assert [result["rows"].tolist() for result in results] == [[0, 1, 2]] * 2 and not met
