import json

import pytest
import torch

from caching import splits
from clips.preprocessing import Preprocessing
from helpers.evaluations import made_up_evaluation
from reporting.run_folder import RunFolderError, RunLog, open_run_folder, read_log
from training import screen
from training.engine import EpochSummary
from training.saving import RunProgress
from training.screen import epoch_entry


def test_an_epochs_line_holds_what_it_came_to():
    results = made_up_evaluation(4, 6).results
    entry = epoch_entry(3, EpochSummary(1.5, 50.0, 20.0, 5.0, 3), results, 0.01)
    assert entry["val_video_acc1"] == results.video.top1 and entry["val_clip_acc5"] == results.clip.top5
    assert (entry["epoch"], entry["train_loss"], entry["lr"]) == (3, 1.5, 0.01)
    assert (entry["seconds"], entry["data_seconds"]) == (20.0, 5.0)
    assert (entry["val_seconds"], entry["val_data_seconds"]) == (12.5, 1.25)


def test_a_resumed_log_keeps_the_epochs_before(tmp_path):
    log = RunLog(tmp_path)
    for epoch in range(4):
        log.add({"epoch": epoch, "run": 1})
    resumed = RunLog(tmp_path)
    resumed.resume(2)
    resumed.add({"epoch": 2, "run": 2})
    expected = [{"epoch": 0, "run": 1}, {"epoch": 1, "run": 1}, {"epoch": 2, "run": 2}]
    assert resumed.entries == read_log(tmp_path) == expected
    assert [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()] == expected


@pytest.mark.parametrize(
    "text",
    [
        *(None, "no json", "[1, 2]\n", '{"other": 1}\n', '{"epoch": "x", "lr": 1}\n', '{"epoch": 0, "lr": "a"}\n'),
        *('{"epoch": true}\n', '{"epoch": 0.5}\n', '{"epoch": 0, "seconds": [1]}\n'),
    ],
)
def test_what_is_no_log_is_none(tmp_path, text):
    if text is not None:
        (tmp_path / "log.jsonl").write_text(text)
    assert read_log(tmp_path) == []


def test_lines_of_epochs_are_kept_beside_others(tmp_path):
    lines = ['{"epoch": 0, "lr": 0.1, "val_loss": NaN, "seconds": null}', '{"epoch": 1, "lr": "a"}', '{"epoch": 2}']
    (tmp_path / "log.jsonl").write_text("\n".join(lines))
    assert [entry["epoch"] for entry in read_log(tmp_path)] == [0, 2]


def test_a_folder_with_checkpoints_is_left_alone(tmp_path):
    (tmp_path / "model_3.pth").write_text("weights")
    with pytest.raises(RunFolderError, match="--overwrite"):
        open_run_folder(tmp_path, {}, resumes=False, overwrite=False)
    assert not (tmp_path / "args.json").exists()
    open_run_folder(tmp_path, {"lr": 1}, resumes=False, overwrite=True)
    assert not (tmp_path / "model_3.pth").exists() and json.loads((tmp_path / "args.json").read_text()) == {"lr": 1}


def test_a_folder_that_cannot_be_made_is_one_clear_message(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunFolderError, match="choose another --output-dir"):
        open_run_folder(tmp_path / "file" / "run", {}, resumes=False, overwrite=False)


@pytest.mark.parametrize("processes, words", [(1, None), (3, "2 clips an epoch come twice")])
def test_the_plan_tells_of_clips_that_come_twice(processes, words, monkeypatch, capsys):
    monkeypatch.setattr(screen, "world_size", lambda: processes)
    monkeypatch.setattr(splits, "world_size", lambda: processes)
    options = splits.ClipOptions(Preprocessing(4), cache_dir=None, batch_size=4, num_workers=0)
    clips = splits.Clips(None, torch.arange(7), 0, "decoded, float", options)
    screen.print_plan(torch.nn.Linear(2, 2), "a_network", clips, 2, RunProgress(), 1)
    told = capsys.readouterr().out
    assert "7 training videos" in told and (words in told if words else "twice" not in told)
