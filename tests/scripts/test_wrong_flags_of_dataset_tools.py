"""Every flag of the two dataset scripts, given a wrong value: one line that names it, and nothing is written."""

import os
from pathlib import Path

import pytest

import check_videos
import refactor_dataset
from helpers.permissions import permissions_count

RIGHT = {
    refactor_dataset: ["--src", "src", "--labels", "labels.json", "--dest", "dest"],
    check_videos: ["--root", "root", "--jobs", "1"],
}
MISSING, FOLDER, LOOP, FILE, INSIDE = "absent", "folder", "loop", "file", "file/x"
UNREADABLE, CLOSED = "unreadable", "closed/x"  # a file that may not be read, a place where nothing may be written
SHUT, BEHIND = "shut", "shut/x"  # a folder that may not be entered, and what it may hold
WHOLE_NUMBER, NUMBER = ["x", "-1", "1.5", ""], ["x", "-1", "nan", ""]
TO_READ, TO_WRITE = [MISSING, FOLDER, LOOP, UNREADABLE, BEHIND], [FOLDER, INSIDE, CLOSED, BEHIND]
WRONG = {
    (refactor_dataset, "--src"): [MISSING, FILE, LOOP, SHUT, BEHIND],
    (refactor_dataset, "--labels"): [*TO_READ, FILE],
    (refactor_dataset, "--dest"): [FILE, INSIDE, LOOP, CLOSED, SHUT, BEHIND],
    (refactor_dataset, "--rename-split"): ["x", "=", "test=", "test=dev"],
    (refactor_dataset, "--classes-file"): TO_READ,
    (refactor_dataset, "--max-per-class"): [*WHOLE_NUMBER, "0"],
    (refactor_dataset, "--val-fraction"): [*NUMBER, "0", "1", "1.5"],
    (refactor_dataset, "--seed"): WHOLE_NUMBER,
    (refactor_dataset, "--mode"): ["x", ""],
    (refactor_dataset, "--jobs"): [*WHOLE_NUMBER, "0"],
    (refactor_dataset, "--report-dir"): [FILE, INSIDE, LOOP, CLOSED, SHUT, BEHIND],
    (check_videos, "--root"): [MISSING, FILE, LOOP, SHUT, BEHIND],
    (check_videos, "--ext"): ["mp4,avi", ""],
    (check_videos, "--jobs"): [*WHOLE_NUMBER, "0"],
    (check_videos, "--report"): [*TO_WRITE, FILE, UNREADABLE],
    (check_videos, "--state"): [*TO_WRITE, FILE, UNREADABLE],
    (check_videos, "--shard"): ["x", "3/2", "1/0", "1", ""],
    (check_videos, "--prober"): ["x", ""],
    (check_videos, "--max-corrupt-frames"): WHOLE_NUMBER,
    (check_videos, "--min-frames"): [*WHOLE_NUMBER, "0"],
    (check_videos, "--timeout"): [*NUMBER, "0"],
    (check_videos, "--quarantine"): [FILE, INSIDE, LOOP, CLOSED, SHUT, BEHIND],
}


@pytest.fixture
def files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("src", "root/train/a", FOLDER, "closed", SHUT):
        Path(name).mkdir(parents=True)
    Path("labels.json").write_text('[{"video_path": "./1.mp4", "label": "a", "split": "train"}]')
    for name in ("src/1.mp4", "root/train/a/1.mp4", FILE, UNREADABLE):
        Path(name).write_text("no video")
    Path(LOOP).symlink_to(LOOP)
    Path(UNREADABLE).chmod(0)
    Path("closed").chmod(0o555)
    Path(SHUT).chmod(0)
    yield
    Path(SHUT).chmod(0o700)


def tree():
    return sorted((str(path), os.lstat(path).st_mtime_ns) for path in Path(".").rglob("*"))


@pytest.mark.parametrize("script", RIGHT)
def test_every_flag_with_a_value_is_here(script):
    flags = {action.option_strings[-1] for action in script.get_args_parser()._actions if action.nargs != 0}
    assert flags == {flag for tried, flag in WRONG if tried is script}


@pytest.mark.parametrize("script, flag, value", [(*key, value) for key, values in WRONG.items() for value in values])
def test_it_is_named_in_one_line(script, flag, value, files, capsys):
    before = tree()
    with permissions_count():
        try:
            code = script.main([*RIGHT[script], f"{flag}={value}"])
        except SystemExit as end:
            code = end.code
    err = capsys.readouterr().err
    (error,) = [line for line in err.splitlines() if "error: " in line]
    assert code == (1 if (flag, value) == ("--labels", FILE) or flag in ("--report", "--state") else 2)
    assert "Traceback" not in err and "Errno" not in err and value in error
    assert flag in error or error == "error: file: is not JSON: Expecting value: line 1 column 1 (char 0)"
    assert tree() == before


@pytest.mark.parametrize("link", [None, os.symlink, os.link])
@pytest.mark.parametrize("content", ["no video", ""])
@pytest.mark.parametrize("flag", ["--report", "--state"])
def test_a_result_replaces_no_video(flag, content, link, files, capsys):
    output = "root/train/a/1.mp4"
    Path(output).write_text(content)
    if link is not None:
        link(os.path.abspath(output), "another name")
        output = "another name"
    assert check_videos.main([*RIGHT[check_videos], flag, output]) == 1
    (error,) = capsys.readouterr().err.splitlines()
    assert error.startswith(f"error: {flag} {output}: is ")
    assert Path("root/train/a/1.mp4").read_text() == content


def test_a_state_is_no_report(files, capsys):
    with pytest.raises(SystemExit) as stop:
        check_videos.main([*RIGHT[check_videos], "--report", "folder/../new", "--state", "new"])
    assert stop.value.code == 2 and "--report folder/../new: is --state" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["audit.json", "manifest.csv"])
def test_a_report_folder_keeps_the_files_of_others(name, files, capsys):
    Path("folder", name).write_text('{"of": "another program"}')
    with pytest.raises(SystemExit) as stop:
        refactor_dataset.main([*RIGHT[refactor_dataset], "--report-dir", "folder"])
    assert stop.value.code == 2 and not Path("dest").exists()
    assert f"--report-dir folder/{name}: is a file that this script did not write" in capsys.readouterr().err
    assert Path("folder", name).read_text() == '{"of": "another program"}'


def test_a_report_replaces_an_earlier_one(files):
    for _ in range(2):
        assert check_videos.main([*RIGHT[check_videos], "--report", "report.csv"]) == 1
        assert refactor_dataset.main([*RIGHT[refactor_dataset], "--report-dir", "folder"]) == 0


@pytest.mark.parametrize("script", RIGHT)
def test_what_is_right_is_accepted(script, files):
    """Else the test above would show nothing."""
    with permissions_count():
        assert script.main([*RIGHT[script], "--dry-run"]) == (1 if script is check_videos else 0)


def test_a_folder_in_a_source_that_may_not_be_listed_is_named_with_the_remedy(files, capsys):
    Path("src/inner").mkdir(0)
    with permissions_count():
        assert refactor_dataset.main(RIGHT[refactor_dataset]) == 1
    Path("src/inner").chmod(0o700)
    (error,) = capsys.readouterr().err.splitlines()
    assert error.endswith("src/inner: Permission denied; change its permissions, or name another place")
