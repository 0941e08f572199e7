"""Each benchmark runs on tiny videos and gives the figures that it promises."""

import json
import re

import pytest

import benchmark
from benchmarks import cache, dataset_tools, input
from helpers.small_datasets import make_dataset
from videos.decoding import VideoError

SMALL = ["--device", "cpu", "--workers", "2", "--rounds", "1", "--steps", "2", "--batch-size", "2", "--clip-len", "4"]
SMALL += ["--resize-size", "32", "40", "--crop-size", "28", "28"]
FIGURES = {
    "refactor": {"refactor_place_to_bare_ratio", "refactor_rerun_to_bare_ratio"},
    "check": {"check_check_to_bare_rate_ratio"},
    "decode": {"decode_videos_per_second", "decode_frames_per_second"},
    "motion": {"motion_overhead_percent"},
    "cache": {"cache_build_raw_share_of_decode", "cache_build_jpeg_share_of_decode", "cache_raw_megabytes_per_video"},
    "loader": {
        f"loader_{kind}_{figure}"
        for kind in ("cold", "warm_raw", "warm_jpeg")
        for figure in ("clips_per_second", "bare_clips_per_second", "share_of_bare")
    },
    "startup": {"startup_100k_seconds", "startup_190k_megabytes"},
    "step": {"step_frozen_clips_per_second", "step_full_clips_per_second", "step_frozen_peak_megabytes"},
    "epoch": {
        *("epoch_frozen_clips_per_second", "epoch_frozen_model_share_of_time", "epoch_frozen_waiting_percent"),
        *("epoch_full_seconds", "epoch_taught_seconds", "epoch_taught_to_full_time"),
    },
}


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    return make_dataset(tmp_path_factory.mktemp("videos"), ["a"], num_train=2, num_val=1)


@pytest.mark.parametrize("name", FIGURES)
def test_each_benchmark_prints_and_writes_its_figures(name, videos, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(dataset_tools, "ENTRIES_TO_PLACE", 200)
    monkeypatch.setattr("references.dataset_tools.benchmarks.NUM_FILES_FOR_MEMORY", 40)
    monkeypatch.setattr(cache, "STARTUP_VIDEOS", {"startup_100k": 30, "startup_190k": 40})
    file = tmp_path / "figures.json"
    options = ["--data-path", str(videos), "--json", str(file), "--scratch", str(tmp_path)]
    assert benchmark.main([name, *SMALL, *options]) == 0
    figures = json.loads(file.read_text())
    assert FIGURES[name] <= figures.keys()
    assert all(isinstance(value, int | float) for value in figures.values())
    assert all(value > 0 for key, value in figures.items() if not re.search("overhead|waiting|_megabytes$", key))
    out = capsys.readouterr().out
    assert all(re.search(rf"^  {key} +[-\d]", out, re.MULTILINE) for key in figures)
    assert [path.name for path in tmp_path.iterdir()] == ["figures.json"]


def test_several_benchmarks_write_one_flat_object(videos, tmp_path):
    file = tmp_path / "figures.json"
    assert benchmark.main(["decode", "motion", *SMALL, "--data-path", str(videos), "--json", str(file)]) == 0
    assert FIGURES["decode"] | FIGURES["motion"] <= json.loads(file.read_text()).keys()


def test_figures_that_were_known_before_a_failure_are_printed_and_written(videos, tmp_path, capsys, monkeypatch):
    def some(options):
        yield {"decode_first": 1.5}
        raise VideoError("a.mp4", "it is gone")

    monkeypatch.setattr(input, "benchmark_decode", some)
    file = tmp_path / "figures.json"
    assert benchmark.main(["decode", *SMALL, "--data-path", str(videos), "--json", str(file)]) == 1
    assert json.loads(file.read_text()) == {"decode_first": 1.5}
    assert capsys.readouterr().out == "decode:\n  decode_first  1.5\n"


def test_a_folder_without_videos_is_one_clear_error(tmp_path, capsys):
    assert benchmark.main(["decode", *SMALL, "--data-path", str(tmp_path)]) == 1
    assert capsys.readouterr().err == f"error: {tmp_path} holds no videos to measure on\n"


def test_wrong_usage_is_refused(capsys):
    for wrong in (["teleport"], ["decode", "--rounds", "0"], ["decode", "--device", "abacus"]):
        with pytest.raises(SystemExit) as caught:
            benchmark.main(wrong)
        assert caught.value.code == 2


def test_every_benchmark_is_tested():
    measured_elsewhere = {"model", "gpu"}
    assert set(FIGURES) == set(benchmark.BENCHMARKS) - measured_elsewhere


@pytest.mark.slow
def test_without_a_data_path_videos_are_generated(capsys):
    assert benchmark.main(["decode", *SMALL]) == 0
    assert "decode_videos" in capsys.readouterr().out
