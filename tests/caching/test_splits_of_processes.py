"""Opening splits in several processes: each makes its share, and all go on with the same videos."""

import re
from pathlib import Path

import pytest

from caching.shards import Shard
from helpers.small_datasets import make_dataset
from helpers.training_processes import run

OPENING = Path(__file__).parents[1] / "helpers" / "opening_splits.py"


def open_in_two_processes(tmp_path, fault, caches=("cache", "cache")):
    """(exit code, output); rank 1 has the fault."""
    own = [[str(tmp_path / cache), fault] for cache in caches]
    return run([str(tmp_path / "data" / "train")], 2, own=own, script=OPENING)


@pytest.fixture
def twelve(tmp_path):
    return make_dataset(tmp_path / "data", ["a", "b"], num_train=6, num_val=0)


def test_a_process_that_looks_late_divides_the_same_videos(twelve, tmp_path):
    code, output = open_in_two_processes(tmp_path, "late")
    assert code == 0 and all(f"rank {rank} reads {list(range(12))}" in output for rank in (0, 1)), output


def test_processes_with_folders_of_their_own_build_all_of_each(twelve, tmp_path):
    code, output = open_in_two_processes(tmp_path, "none", ["here", "there"])
    assert code == 0 and all(f"rank {rank} reads {list(range(12))}" in output for rank in (0, 1)), output
    assert not list(tmp_path.glob("*/*/.rank-*"))
    for cache in ("here", "there"):
        (folder,) = (tmp_path / cache).iterdir()
        assert sum(len(Shard(path)) for path in folder.glob("*.shard")) == 12


def test_what_one_process_cannot_read_is_left_out_by_all(twelve, tmp_path):
    code, output = open_in_two_processes(tmp_path, "blind", ["here", "there"])
    expected = [*range(1, 6), *range(7, 12)]
    assert code == 0 and all(f"rank {rank} reads {expected}" in output for rank in (0, 1)), output
    code, output = open_in_two_processes(tmp_path, "none", ["here", "there"])  # it has passed
    assert code == 0 and f"rank 1 reads {list(range(12))}" in output, output


def test_a_video_that_is_neither_read_nor_unreadable_is_an_error(twelve, tmp_path):
    code, output = open_in_two_processes(tmp_path, "lost")
    told = "rank 0: 12 can be read, 0 are neither .*; rank 1: 11 can be read, 1 are neither"
    assert code == 1 and len(re.findall(told, output)) == 2 and "Traceback" not in output, output


def test_a_process_that_waits_for_another_stops_when_it_is_asked_to(twelve, tmp_path):
    code, output = open_in_two_processes(tmp_path, "busy")
    assert code == 143 and "stopped by SIGTERM" in output and "rank 0 has ended" in output, output
