import json

import pytest

from reporting.run_folder import RunLog, continues, open_run_folder, read_log, sole_run
from runtime.errors import UserError


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


def test_one_run_at_a_time_works_in_a_folder(tmp_path):
    folder = tmp_path / "runs" / "first"
    for _ in range(2):  # the lock ends with the run
        refused = pytest.raises(UserError, match=f"another run is at work in {folder}: wait")
        with sole_run(folder), sole_run(tmp_path / "runs" / "second"), refused, sole_run(folder):
            pass
        assert not (tmp_path / "runs").exists()  # nothing was written
    with sole_run(folder):
        (folder / "log.jsonl").touch()
    assert [path.name for path in (tmp_path / "runs").rglob("*")] == ["first", "log.jsonl"]


def test_a_folder_with_checkpoints_is_left_alone(tmp_path):
    (tmp_path / "model_3.pth").write_text("weights")
    with pytest.raises(UserError, match="--overwrite"):
        open_run_folder(tmp_path, {}, continues=False, overwrite=False)
    assert not (tmp_path / "args.json").exists()
    open_run_folder(tmp_path, {"lr": 1}, continues=False, overwrite=True)
    assert not (tmp_path / "model_3.pth").exists() and json.loads((tmp_path / "args.json").read_text()) == {"lr": 1}


def test_a_folder_that_cannot_be_made_is_one_clear_message(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="choose another --output-dir"):
        open_run_folder(tmp_path / "file" / "run", {}, continues=False, overwrite=False)


OWN = ["checkpoint.pth", "model_best.pth", "model_0.pth", "model_12.pth", "log.jsonl", "report.html", "metrics.json"]
OWN += ["predictions.csv", "per_class.csv", "confusion.csv", "non_finite_loss_rank3.json", ".model_7.pth.k2_x.tmp"]
OWN += ["tensorboard/events.out.tfevents.1.host"]
USERS = ["model_soup.pth", "model_best_old.pth", "model_3.pth.bak", "old_model_3.pth", "notes.json", "report2.html"]
USERS += ["non_finite_loss_rankx.json", ".model_soup.pth.tmp", "tensorboard/notes.txt", "eval_model_0/metrics.json"]


def test_overwriting_removes_what_a_run_writes_and_nothing_else(tmp_path):
    for name in OWN + USERS:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    open_run_folder(tmp_path, {}, continues=False, overwrite=True)
    assert not [name for name in OWN if (tmp_path / name).exists()]
    assert [name for name in USERS if not (tmp_path / name).exists()] == []


@pytest.mark.parametrize("name", ["report.html", "predictions.csv", "checkpoint.pth"])
def test_results_without_checkpoints_are_a_run_too(tmp_path, name):
    (tmp_path / name).write_text("")
    with pytest.raises(UserError, match=rf"another run already \({name}\)"):
        open_run_folder(tmp_path, {}, continues=False, overwrite=False)


def test_files_of_a_run_that_saved_nothing_are_no_run(tmp_path):
    for name in ("args.json", "non_finite_loss_rank0.json", "log.jsonl", "model_soup.pth"):
        (tmp_path / name).write_text("")
    open_run_folder(tmp_path, {}, continues=False, overwrite=False)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["args.json", "model_soup.pth"]


def test_a_further_epoch_removes_the_results_of_those_before(tmp_path):
    for name in ("report.html", "metrics.json"):
        (tmp_path / name).write_text("")
    log = RunLog(tmp_path)
    log.resume(1)
    assert (tmp_path / "report.html").exists()
    log.add({"epoch": 1})
    assert [path.name for path in tmp_path.iterdir()] == ["log.jsonl"]


def test_a_run_continues_only_its_own_checkpoints_in_its_own_folder(tmp_path):
    run, other = tmp_path / "run", tmp_path / "other"
    for folder in (run, other):
        folder.mkdir()
        (folder / "checkpoint.pth").write_text("")
    (tmp_path / "link").symlink_to(run)
    (tmp_path / "checkpoint.pth").symlink_to(run / "checkpoint.pth")
    assert continues(run / "model_3.pth", run) and continues(tmp_path / "link" / "model_3.pth", run)
    assert continues(tmp_path / "checkpoint.pth", run) and continues(run / "checkpoint.pth", tmp_path / "link")
    assert not continues(other / "checkpoint.pth", run) and not continues(None, run)
    assert not continues(run / "model_soup.pth", run)
