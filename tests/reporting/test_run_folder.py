import json

import pytest

from reporting.run_folder import RunFolderError, RunLog, open_run_folder, read_log


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
