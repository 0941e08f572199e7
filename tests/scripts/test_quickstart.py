import importlib
import json
import re
import shlex
import subprocess
import sys
import time
from pathlib import Path

import pytest

import quickstart


def parse(command):
    """The arguments of a printed command, by the parser of the script that it names."""
    script, *arguments = command
    assert Path(script).is_file()
    return importlib.import_module(Path(script).stem).get_args_parser().parse_args(arguments)


def test_commands_parse_and_hand_on_to_each_other(tmp_path):
    output_dir = tmp_path / "with a space"
    refactor, check, train, test = (parse(command) for command in quickstart.commands(output_dir, None, 3))
    assert [part.name for part in refactor.src] == [f"QEVD-FIT-300k-Part-{n}" for n in range(1, 5)]
    assert refactor.labels == output_dir / "release" / "fine_grained_labels_release.json"
    assert refactor.allow_missing
    assert refactor.dest == check.root == train.data_path == test.data_path
    assert check.remux
    assert check.replace
    assert train.seed == 3
    assert train.weights is None
    assert train.resume == "auto"
    assert Path(test.resume) == train.output_dir / "checkpoint.pth"
    assert test.test_only
    for setting in ("clip_len", "frame_rate", "val_resize_size", "val_crop_size", "cache_dataset"):
        assert getattr(train, setting) == getattr(test, setting)


def test_weights_are_handed_to_the_training(tmp_path):
    train = parse(quickstart.commands(tmp_path, "KINETICS400_V1", 0)[2])
    assert train.weights == "KINETICS400_V1"


def test_run_of_other_weights_is_not_continued(tmp_path, capsys):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "args.json").write_text(json.dumps({"weights": None}))
    assert quickstart.main(["--output-dir", str(tmp_path), "--weights", "KINETICS400_V1"]) == 1
    assert "choose another --output-dir" in capsys.readouterr().err


def test_failing_step_stops_the_rest_and_sets_the_exit_code(tmp_path, capfd, monkeypatch):
    ran = tmp_path / "second_step_ran"
    failing, second = [["-c", "raise SystemExit(3)"], ["-c", f"open({str(ran)!r}, 'w')"]]
    monkeypatch.setattr(quickstart, "generate", lambda release, seed: None)
    monkeypatch.setattr(quickstart, "commands", lambda *_: [failing, second])
    assert quickstart.main(["--output-dir", str(tmp_path / "out")]) == 1
    assert "exit code 3" in capfd.readouterr().err
    assert not ran.exists()


def test_step_is_printed_as_a_user_types_it_and_its_output_is_shown(tmp_path, capfd):
    script = tmp_path / "say it.py"
    script.write_text("print('the output')")
    assert quickstart.run([str(script), "a b"]) == "the output\n"
    assert capfd.readouterr().out == f"\n$ python '{script}' 'a b'\nthe output\n"


def test_the_next_commands_parse_and_have_real_paths(tmp_path):
    report, predict, plan = quickstart.next_commands(tmp_path)
    assert report[:2] == ["-m", "webbrowser"] and report[2] == (tmp_path / "run" / "report.html").as_uri()
    predicted = parse(predict)
    assert Path(predicted.checkpoint) == tmp_path / "run" / "model_best.pth"
    exercise = quickstart.EXERCISES[0].replace(" ", "_")
    assert predicted.videos == [str(tmp_path / "full_dataset" / "val" / exercise)]
    planned = parse(plan)
    assert planned.plan and planned.data_path == tmp_path / "full_dataset"


def test_a_long_command_is_one_for_the_shell_and_fits_the_screen():
    command = ["say.py", *(f"--flag-{number}" for number in range(30)), "a b"]
    text = quickstart.shell_command(command)
    lines = text.splitlines()
    assert len(lines) > 2 and max(map(len, lines)) <= 98
    assert shlex.split(text.replace("\\\n", "")) == ["python", *command]


def test_summary_tells_accuracy_chance_and_what_is_small():
    text = quickstart.summary(
        " * Clip Acc@1 90.000 Clip Acc@5 100.000\n * Video Acc@1 91.000 Video Acc@5 100.000\n   100 videos, 100 clips",
        12.3,
    )
    for part in ("Video Acc@1 91.000", "100 videos", "chance: 25.000", "12 seconds", "20x20 pixels", "8 frames"):
        assert part in text


@pytest.mark.slow
def test_quickstart_learns_what_it_promises(tmp_path):
    start = time.monotonic()
    command = [sys.executable, quickstart.__file__, "--output-dir", "output"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    commands = re.findall(r"^\$ python (.*)$", result.stdout, re.MULTILINE)
    assert [Path(command.split()[0]).name for command in commands] == [
        *("refactor_dataset.py", "check_videos.py", "train.py", "train.py")
    ]
    accuracy = float(re.findall(r"Video Acc@1 (\S+)", result.stdout)[-1])
    assert accuracy >= 85
    assert time.monotonic() - start < 600  # 300 on two cores that do nothing else
    assert len(list((tmp_path / "output" / "bad_videos").rglob("*.mp4"))) == 1
