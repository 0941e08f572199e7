"""Every flag of every script, given a wrong value: one line that names it and says what is expected."""

import importlib
from pathlib import Path

import pytest

from helpers.extras import require_extra
from helpers.permissions import permissions_count
from helpers.template_process import SCRIPTS
from run_on_ai_hub import videos_count
from runtime import arguments

NAMES = sorted(path.stem for path in SCRIPTS.glob("*.py"))
NUMBERS = {getattr(arguments, f"{sign}_{kind}") for sign in ("positive", "non_negative") for kind in ("int", "float")}
NUMBERS |= {arguments.seed, arguments.share, videos_count}

# Arguments that each script accepts in the folder of `files`, beside which one is wrong.
RIGHT = {
    "average_checkpoints": ["a.pth", "b.pth", "--output", "new.pth"],
    "benchmark": ["decode"],
    "compare_runs": ["run", "other"],
    "evaluate_logits": ["manifest.jsonl", "logits.npz"],
    "export_onnx": ["a.pth", "--output", "new.onnx"],
    "predict": ["a.pth", "video.mp4"],
    "quickstart": [],
    "run_on_ai_hub": ["a.pth", "--data-path", "data", "--output-dir", "new", "--dry-run"],
    "train": ["--data-path", "data"],
}
NEEDED = {("train", flag): ["--test-only"] for flag in ("--save-logits", "--class-map")}
NEEDED["train", "--cache-dir"] = ["--cache-only"]
NEEDED["export_onnx", "--dump-tensors"] = ["--data-path", "data"]  # flags that one goes with
MISSING, FOLDER, LOOP, FILE = "absent", "folder", "loop", "file"
UNREADABLE, CLOSED = "unreadable", "closed/x"  # a file that may not be read, a place where nothing may be written
SHUT, BEHIND = "shut", "shut/x"  # a folder that may not be entered, and what it may hold
TO_READ, TO_WRITE = [MISSING, FOLDER, LOOP, UNREADABLE, BEHIND], [FOLDER, "file/x", CLOSED, BEHIND]
DATA = [MISSING, FILE, LOOP, SHUT, BEHIND]
# Of each flag that takes a path, what is wrong to give.
PATHS = {
    ("average_checkpoints", "checkpoints"): [*TO_READ, FILE],
    ("average_checkpoints", "--output"): TO_WRITE,
    ("average_checkpoints", "--data-path"): DATA,
    ("average_checkpoints", "--cache-dir"): [FILE, SHUT, BEHIND],
    ("benchmark", "--data-path"): [*DATA, FOLDER],
    ("benchmark", "--json"): TO_WRITE,
    ("benchmark", "--scratch"): DATA,
    ("compare_runs", "run_a"): [*TO_READ, FILE],
    ("compare_runs", "run_b"): [*TO_READ, FILE],
    ("compare_runs", "--output"): TO_WRITE,
    ("evaluate_logits", "manifest"): [*TO_READ, FILE],
    ("evaluate_logits", "logits"): TO_READ,
    ("export_onnx", "--output"): TO_WRITE,
    ("export_onnx", "--classes-file"): TO_READ,
    ("export_onnx", "--class-map"): TO_READ,
    ("export_onnx", "--data-path"): DATA,
    ("export_onnx", "--cache-dir"): [FILE, SHUT, BEHIND],
    ("export_onnx", "--dump-tensors"): [FILE, CLOSED, SHUT, BEHIND],
    ("predict", "--output"): TO_WRITE,
    ("predict", "--annotate"): [FILE, "file/x", CLOSED, SHUT, BEHIND],
    ("predict", "--classes-file"): TO_READ,
    ("quickstart", "--output-dir"): [FILE, CLOSED, SHUT, BEHIND],
    ("run_on_ai_hub", "--data-path"): DATA,
    ("run_on_ai_hub", "--output-dir"): [FILE, CLOSED, SHUT, BEHIND],
    ("run_on_ai_hub", "--cache-dir"): [FILE, SHUT, BEHIND],
    ("run_on_ai_hub", "--classes-file"): TO_READ,
    ("train", "--data-path"): [*DATA, FOLDER],
    ("train", "--cache-dir"): [FILE, CLOSED, SHUT, BEHIND],
    ("train", "--flip-map"): TO_READ,
    ("train", "--teacher-logits"): TO_READ,
    ("train", "--class-map"): TO_READ,
    ("train", "--teacher"): TO_READ,
    ("train", "--save-logits"): [FOLDER, CLOSED, BEHIND],
    ("train", "--output-dir"): [FILE, CLOSED, SHUT, BEHIND],
}
# Paths that are names of other things too, and so are text to the parser.
PATHS_AS_TEXT = {
    ("export_onnx", "checkpoint"): [*TO_READ, FILE],
    ("predict", "checkpoint"): [*TO_READ, FILE],
    ("train", "--resume"): [*TO_READ, FILE],
    ("train", "--weights"): ["./absent", FOLDER, FILE, UNREADABLE, BEHIND],
}


def actions(script):
    return importlib.import_module(script).get_args_parser()._actions


def flag_of(action):
    return max(action.option_strings, key=len, default=action.dest)


def end_of(script, argv):
    try:
        return importlib.import_module(script).main(argv)
    except SystemExit as end:
        return end.code


@pytest.fixture
def files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a.pth", "b.pth", "manifest.jsonl", "logits.npz", "video.mp4", FILE):
        Path(name).write_text("nothing that any script can use")
    for name in ("run", "other", FOLDER, "closed", SHUT, "data/train/a", "data/val/a"):
        Path(name).mkdir(parents=True)
    for split in ("train", "val"):
        Path(f"data/{split}/a/1.mp4").write_text("no video")
    Path(LOOP).symlink_to(LOOP)
    Path(UNREADABLE).touch(0)
    Path("closed").chmod(0o555)
    Path(SHUT).chmod(0)
    Path("run/predictions.csv").write_text("path,label,prediction,probability\na/1.mp4,a,a,0.5\n")
    yield
    Path(SHUT).chmod(0o700)


def test_every_path_has_its_wrong_values_here():
    paths = {(script, flag_of(action)) for script in NAMES for action in actions(script) if action.type is Path}
    assert paths == PATHS.keys()


@pytest.mark.parametrize("script", NAMES)
def test_numbers_and_choices(script, files, capsys):
    tried = 0
    for action in actions(script):
        if action.type in NUMBERS:
            wrong = ["x", "-1", "nan", "inf", ""]
        elif action.choices is not None:
            wrong = ["x", ""]
        else:
            assert action.type in (None, str, Path), f"{flag_of(action)} has a type that is not tried here"
            continue
        count = action.nargs if isinstance(action.nargs, int) else 1
        for value in wrong:
            given = [value] * count
            argv = [*RIGHT[script], flag_of(action), *given] if action.option_strings else given
            assert end_of(script, argv) == 2, argv
            err = capsys.readouterr().err.splitlines()[-1]
            assert f"error: argument {'/'.join(action.option_strings) or action.metavar}: " in err, err
            assert f"{value!r} is not a" in err or f"invalid choice: {value!r} (choose from" in err, err
            tried += 1
    assert tried or script in ("evaluate_logits",)


@pytest.mark.parametrize(
    "script, flag, wrong", [(*key, value) for key, values in (PATHS | PATHS_AS_TEXT).items() for value in values]
)
def test_paths(script, flag, wrong, files, capsys):
    if (wrong == FILE and script == "export_onnx") or (wrong in (FILE, CLOSED) and script == "run_on_ai_hub"):
        require_extra("onnx")  # asked for before the file is looked at
    argv = RIGHT[script]
    if flag.startswith("-"):
        argv = [*argv, flag, wrong, *NEEDED.get((script, flag), [])]
    else:
        place = [action.dest for action in actions(script) if not action.option_strings].index(flag)
        argv = [wrong if number == place else word for number, word in enumerate(argv)]
    with permissions_count():
        assert end_of(script, argv) in (1, 2)
    err = capsys.readouterr().err
    errors = [line for line in err.splitlines() if "error: " in line]
    assert len(errors) == 1 and "Traceback" not in err and "None" not in errors[0], err
    assert wrong in errors[0] and (flag in errors[0] or not flag.startswith("--") or f"{wrong} " in errors[0]), err


@pytest.mark.parametrize("script", NAMES)
def test_wrong_words(script, files, capsys):
    assert end_of(script, [*RIGHT[script], "--nonsense"]) == 2
    assert "--nonsense" in capsys.readouterr().err.splitlines()[-1]
    if any(action.required for action in actions(script)):
        assert end_of(script, []) == 2
        assert "the following arguments are required: " in capsys.readouterr().err.splitlines()[-1]


def test_a_class_that_may_not_be_listed_is_named_with_the_remedy(files, capsys):
    Path("data/train/a").chmod(0)
    with permissions_count():
        assert end_of("train", ["--data-path", "data", "--trainable", "all"]) == 1
    Path("data/train/a").chmod(0o700)
    (error,) = capsys.readouterr().err.splitlines()
    assert error == "error: data/train/a: Permission denied: change its permissions, or name another place"
