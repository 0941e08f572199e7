"""The README is true: its commands exist and take the flags shown, its tree is the tree, its flags are all of them."""

import re
from functools import lru_cache
from pathlib import Path

import pytest

from helpers.template_process import Run

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```bash\n(.*?)```", README, re.DOTALL)
COMMANDS = [
    command
    for block in BLOCKS
    for command in re.sub(r"\\\n\s*", "", block).splitlines()
    if re.search(r"\.py\b", command) and not command.startswith("#")
]
SCRIPTS = sorted({script for command in COMMANDS for script in re.findall(r"[\w/]+\.py\b", command)})


@lru_cache
def help_of(script):
    wide = {"COLUMNS": "1000"}  # argparse breaks lines at hyphens, in the middle of flags too
    code, output = Run([ROOT / script, "--help"], wide).wait()
    assert code == 0, output
    return output


def test_there_are_commands():
    assert {"refactor_dataset.py", "check_videos.py", "references/video_classification/train.py"} <= set(SCRIPTS)


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_command_has_help(script):
    assert "usage:" in help_of(script)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_flag_of_a_command_is_in_its_help(command):
    script = re.findall(r"[\w/]+\.py\b", command)[-1]
    after = command.split(script, 1)[1].split("#")[0]
    for flag in re.findall(r"(?<!\S)--[\w-]+", after):
        assert re.search(rf"(?<!\S){flag}\b", help_of(script)), f"{script} has no {flag}"


@pytest.mark.parametrize(
    "script, section",
    [
        ("references/video_classification/train.py", "## Flags of `train.py`"),
        ("refactor_dataset.py", "### 1. Place the videos by class"),
        ("check_videos.py", "### 2. Check every video"),
    ],
)
def test_the_flag_tables_are_complete(script, section):
    known = set(re.findall(r"(?<!\S)--[\w-]+", help_of(script))) - {"--help"}
    rows = [line for line in re.split(r"\n##+ ", README.split(section)[1])[0].splitlines() if line.startswith("| `--")]
    shown = {flag for row in rows for flag in re.findall(r"`(--[\w-]+)", row.split(" | ")[0])}
    assert shown == known


def test_every_file_is_in_the_tree():
    tree = README.split("## Files")[1].split("```")[1]
    scripts = [*ROOT.glob("*.py"), *(ROOT / "references").glob("*/*.py")]
    assert not [path.name for path in scripts if path.name not in tree]
    for name in re.findall(r"[\w/]+\.py\b", tree):
        assert list(ROOT.rglob(name)), f"{name} is in the tree only"


def test_every_path_that_is_linked_exists():
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", README):
        assert (ROOT / target).exists(), target
