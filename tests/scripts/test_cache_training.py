"""The clip cache as train.py uses it: flags, --cache-only, unreadable files, several processes."""

import json
from pathlib import Path

import pytest

import train
from caching.shards import Shard
from helpers.small_datasets import SMALL, make_dataset
from helpers.training_processes import run, torchrun

ROOT = Path(__file__).parents[2]


@pytest.fixture
def options(dataset, tmp_path):
    return [*SMALL, "--data-path", str(dataset), "--cache-dir", str(tmp_path / "cache"), "--epochs", "1"]


def shards(tmp_path):
    return list((tmp_path / "cache").glob("*/*.shard"))


def val_line(folder):
    entry = json.loads((folder / "log.jsonl").read_text().splitlines()[-1])
    return {name: value for name, value in entry.items() if "seconds" not in name}


def test_cache_only_builds_both_splits_and_stops(options, tmp_path, capsys):
    run = [*options, "--output-dir", str(tmp_path / "run")]
    assert train.main([*run, "--cache-only"]) == 0
    assert f"The clip cache is complete in {tmp_path / 'cache'}" in capsys.readouterr().out
    assert len(shards(tmp_path)) == 2 and not (tmp_path / "run").exists()
    times = {path: path.stat().st_mtime_ns for path in shards(tmp_path)}
    assert train.main([*run, "--cache-dataset"]) == 0
    assert times == {path: path.stat().st_mtime_ns for path in shards(tmp_path)}
    assert "clip cache, uint8 (raw)" in capsys.readouterr().out


def test_without_a_cache_dir_it_lies_beside_the_data(tmp_path):
    make_dataset(tmp_path, ["a", "b"], 1, 1)
    assert train.main([*SMALL, "--data-path", str(tmp_path), "--cache-only"]) == 0
    assert len(list((tmp_path / ".clip_cache").glob("*/*.shard"))) == 2


def test_jpeg_is_a_smaller_cache_of_its_own(options, tmp_path, capsys):
    assert train.main([*options, "--cache-only"]) == 0
    raw = shards(tmp_path)
    assert train.main([*options, "--cache-only", "--cache-format", "jpeg"]) == 0
    jpeg = set(shards(tmp_path)) - set(raw)
    assert len(jpeg) == 2
    assert sum(path.stat().st_size for path in jpeg) < sum(path.stat().st_size for path in raw)
    run = [*options, "--cache-dataset", "--cache-format", "jpeg", "--output-dir", str(tmp_path / "run")]
    assert train.main(run) == 0
    assert "clip cache, uint8 (jpeg)" in capsys.readouterr().out


@pytest.mark.parametrize("flags", [["--frame-selection", "motion"], ["--val-frame-selection", "uniform"]])
def test_a_selection_beyond_the_strip_is_refused_with_the_flag_to_add(options, tmp_path, capsys, flags):
    with pytest.raises(SystemExit) as caught:
        train.main([*options, "--cache-dataset", *flags])
    assert caught.value.code == 2 and "--cache-frame-rate" in capsys.readouterr().err
    assert not (tmp_path / "cache").exists()
    assert train.main([*options, "--cache-only", *flags, "--cache-frame-rate", "8"]) == 0


def test_training_with_and_without_a_cache_comes_to_the_same(options, tmp_path):
    flags = ["--frame-selection", "segment", "--val-frame-selection", "uniform", "--cache-frame-rate", "10"]
    for name, cache in (("cached", ["--cache-dataset"]), ("uncached", [])):
        assert train.main([*options, *flags, *cache, "--output-dir", str(tmp_path / name)]) == 0
    cached, uncached = val_line(tmp_path / "cached"), val_line(tmp_path / "uncached")
    for name in ("train_loss", "val_loss"):
        assert cached[name] == pytest.approx(uncached[name], rel=0.02)


def test_unreadable_files_are_listed_when_the_build_ends(tmp_path, capsys):
    make_dataset(tmp_path / "data", ["a", "b"], 2, 1)
    bad = [tmp_path / "data" / folder / "bad.mp4" for folder in ("train/a", "train/b", "val/a")]
    for path in bad:
        path.write_bytes(b"no video")
    options = [*SMALL, "--data-path", str(tmp_path / "data"), "--cache-dir", str(tmp_path / "cache")]
    for _ in range(2):  # the second time from what the first one noted
        assert train.main([*options, "--cache-only"]) == 1
        error = capsys.readouterr().err
        assert all(str(path) in error for path in bad) and "--skip-unreadable" in error
        assert "2 of 6 videos" in error and "1 of 3 videos" in error
    assert train.main([*options, "--cache-only", "--skip-unreadable"]) == 0
    assert all(str(path) in capsys.readouterr().out for path in bad[:1])


def test_ranks_share_the_building(options, tmp_path):
    code, output = run([*options, "--cache-only", "--workers", "1"], processes=2)
    assert code == 0, output
    assert output.count("The clip cache is complete") == 1
    assert len(shards(tmp_path)) == 4  # of each split, one a rank
    times = {path: path.stat().st_mtime_ns for path in shards(tmp_path)}
    assert train.main([*options, "--cache-only"]) == 0  # and one process finds it complete
    assert times == {path: path.stat().st_mtime_ns for path in shards(tmp_path)}


def test_a_failure_on_one_rank_ends_all_of_them(dataset, tmp_path):
    """A cache folder that cannot be made: rank 0 finds out, and the others must not wait for it."""
    (tmp_path / "cache").write_bytes(b"a file where the folder should be")
    own = ["--data-path", str(dataset), "--cache-dir", str(tmp_path / "cache" / "clips"), "--cache-only"]
    code, output = torchrun([*SMALL, *own], processes=2)
    assert code != 0 and "cannot be written" in output and "--cache-dir" in output


def test_machines_without_a_common_disk_make_an_index_a_cache_and_features_each(dataset, tmp_path):
    common = [
        *SMALL,
        "--data-path",
        str(dataset),
        "--epochs",
        "1",
        "--workers",
        "0",
        "--output-dir",
        str(tmp_path / "run"),
    ]
    own = [["--cache-dir", str(tmp_path / name)] for name in ("here", "there")]
    code, output = run([*common, "--cache-dataset", "--cache-features"], 2, own=own)
    assert code == 0, output
    for name in ("here", "there"):
        videos = [len(Shard(path)) for path in (tmp_path / name).glob("*/*.shard")]
        features = [len(Shard(path)) for path in (tmp_path / name).glob("features/*/*.shard")]
        assert (sum(videos), sum(features)) == (15, 15)
    code, output = run([*common, "--overwrite"], 2, own=own)
    assert code == 0 and all(len(list((tmp_path / name).glob("*.index"))) == 2 for name in ("here", "there")), output
