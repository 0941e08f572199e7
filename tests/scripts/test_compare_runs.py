import csv
import os
import subprocess
import sys

import pytest

import compare_runs


def write_run(folder, rows):
    """`rows`: (path, label, prediction)."""
    folder.mkdir()
    with open(folder / "predictions.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("path", "label", "prediction", "probability", "rank", "clips"))
        writer.writerows((*row, 0.75, 1, 1) for row in rows)
    return str(folder)


def runs(tmp_path, both, only_a, only_b, neither=0):
    """Two runs over classes x and y that are right on so many videos."""
    outcomes = [(1, 1)] * both + [(1, 0)] * only_a + [(0, 1)] * only_b + [(0, 0)] * neither
    labels = ["x", "y"] * len(outcomes)
    rows = [
        [(f"{label}/{i}.mp4", label, label if outcome[run] else "z") for i, (label, outcome) in enumerate(pairs)]
        for run in (0, 1)
        for pairs in [list(zip(labels, outcomes, strict=False))]
    ]
    return write_run(tmp_path / "a", rows[0]), write_run(tmp_path / "b", rows[1][::-1])


def test_a_real_difference_is_called_one(tmp_path, capsys):
    a, b = runs(tmp_path, both=60, only_a=4, only_b=30, neither=6)
    assert compare_runs.main([a, b]) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"RUN_A is {a}, RUN_B is {b}\n")
    assert "RUN_A: Video Acc@1 64.000 %" in out and "RUN_B: Video Acc@1 90.000 %" in out
    assert "+26.000 points" in out and "Gained 30, lost 4" in out and "RUN_B is better" in out


def test_a_chance_difference_is_not(tmp_path, capsys):
    assert compare_runs.main(list(runs(tmp_path, both=60, only_a=4, only_b=6))) == 0
    out = capsys.readouterr().out
    assert "No difference is shown" in out and "is better" not in out


def test_interval_and_test_may_disagree_and_it_says_so(tmp_path, capsys):
    assert compare_runs.main(list(runs(tmp_path, both=19, only_a=0, only_b=5))) == 0
    assert "Undecided" in capsys.readouterr().out


@pytest.mark.parametrize("metrics, is_said", [('{"seen_in_training": true}', True), ("{}", False), ("[", False)])
def test_a_run_that_was_trained_on_these_videos_is_named(tmp_path, capsys, metrics, is_said):
    a, b = runs(tmp_path, both=10, only_a=1, only_b=2)
    (tmp_path / "b" / "metrics.json").write_text(metrics)
    assert compare_runs.main([a, b]) == 0
    out = capsys.readouterr().out
    assert ("RUN_B was trained on these videos" in out) == is_said and "RUN_A was trained" not in out


def test_a_loss_is_a_loss(tmp_path, capsys):
    assert compare_runs.main(list(runs(tmp_path, both=60, only_a=30, only_b=4))) == 0
    out = capsys.readouterr().out
    assert "-27.660 points" in out and "RUN_A is better" in out


def test_classes_and_videos_that_changed_are_listed(tmp_path, capsys):
    a = [("x/1", "x", "x"), ("x/2", "x", "y"), ("y/1", "y", "x"), ("y/2", "y", "y"), ("y/3", "y", "x")]
    b = [("x/1", "x", "y"), ("x/2", "x", "x"), ("y/1", "y", "y"), ("y/2", "y", "y"), ("y/3", "y", "z")]
    output = tmp_path / "changes.csv"
    arguments = [write_run(tmp_path / "a", a), write_run(tmp_path / "b", b), "--list", "1", "--output", str(output)]
    assert compare_runs.main(arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    table = [line.split() for line in lines]
    assert ["y", "3", "1", "0", "+1"] in table and ["x", "2", "1", "1", "+0"] in table
    assert "Gained (2):" in lines and "  x/2: y 75.0 % -> x 75.0 %" in lines and "Lost (1):" in lines
    assert any("1 more" in line for line in lines) and "Other mistake (1):" in lines
    with open(output, newline="") as file:
        changes = {row["path"]: row["change"] for row in csv.DictReader(file)}
    assert changes == {"x/1": "lost", "x/2": "gained", "y/1": "gained", "y/3": "other mistake"}


def test_a_run_against_itself(tmp_path, capsys):
    a, _ = runs(tmp_path, both=3, only_a=2, only_b=1)
    assert compare_runs.main([a, a + "/predictions.csv"]) == 0
    out = capsys.readouterr().out
    assert "+0.000 points" in out and "p = 1" in out and "Gained 0, lost 0" in out


def test_a_file_that_a_spreadsheet_saved_is_read(tmp_path, capsys):
    a, b = runs(tmp_path, both=2, only_a=1, only_b=1)
    (tmp_path / "b" / "predictions.csv").write_text((tmp_path / "b" / "predictions.csv").read_text(), "utf-8-sig")
    assert compare_runs.main([a, b]) == 0 and "Gained 1, lost 1" in capsys.readouterr().out


def test_a_reader_that_has_seen_enough_ends_it_quietly(tmp_path):
    reader, writer = os.pipe()
    os.close(reader)  # as `| head` does, only sooner
    command = [sys.executable, compare_runs.__file__, *runs(tmp_path, both=2, only_a=1, only_b=1)]
    process = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True)
    os.close(writer)
    assert process.returncode == 1 and process.stderr == ""


@pytest.mark.parametrize(
    "b, words",
    [
        ([("x/1", "x", "x")], "1 videos are in RUN_A only, such as x/2"),
        ([("x/1", "x", "x"), ("x/2", "x", "x"), ("x/3", "x", "x")], "1 videos are in RUN_B only, such as x/3"),
        ([("x/1", "x", "x"), ("x/2", "y", "x")], "another label"),
        ([], "holds no predictions"),
    ],
)
def test_other_videos_are_refused(tmp_path, capsys, b, words):
    a = write_run(tmp_path / "a", [("x/1", "x", "x"), ("x/2", "x", "x")])
    assert compare_runs.main([a, write_run(tmp_path / "b", b)]) == 1
    captured = capsys.readouterr()
    assert words in captured.err and captured.out == "" and "Traceback" not in captured.err


def test_a_file_that_cannot_be_written_is_one_clear_message(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    arguments = [*runs(tmp_path, 2, 1, 1), "--output", str(tmp_path / "file" / "changes.csv")]
    assert compare_runs.main(arguments) == 1
    captured = capsys.readouterr()
    assert "changes.csv cannot be written" in captured.err and captured.out == ""


def test_wrong_usage(tmp_path, capsys):
    for arguments in (["a"], ["a", "b", "--list", "-1"]):
        with pytest.raises(SystemExit) as stopped:
            compare_runs.main(arguments)
        assert stopped.value.code == 2
