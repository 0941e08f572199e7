"""The READMEs are true: commands exist and take the flags shown, tables of flags and lists of files are complete."""

import ast
import re
from functools import lru_cache
from pathlib import Path

import pytest

from helpers.template_process import Run

ROOT = Path(__file__).parents[2]
READMES = {
    path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
    for path in (ROOT / "README.md", *sorted((ROOT / "references").glob("*/README.md")))
}


def commands_of(text: str) -> list[str]:
    """The lines of its blocks for a shell that run a script."""
    return [
        command
        for block in re.findall(r"```bash\n(.*?)```", text, re.DOTALL)
        for command in re.sub(r"\\\n\s*", "", block).splitlines()
        if re.search(r"\.py\b", command) and not command.startswith("#")
    ]


COMMANDS = [command for text in READMES.values() for command in commands_of(text)]
SCRIPTS = sorted({script for command in COMMANDS for script in re.findall(r"[\w/]+\.py\b", command)})


@lru_cache
def help_of(script):
    wide = {"COLUMNS": "1000"}  # argparse breaks lines at hyphens, in the middle of flags too
    code, output = Run([ROOT / script, "--help"], wide).wait()
    assert code == 0, output
    return output


def test_there_are_commands():
    assert {"refactor_dataset.py", "check_videos.py", "references/video_classification/train.py"} <= set(SCRIPTS)
    assert {"README.md", "references/dataset_tools/README.md"} <= READMES.keys()


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_command_has_help(script):
    assert "usage:" in help_of(script)


@pytest.mark.parametrize("command", dict.fromkeys(COMMANDS))
def test_every_flag_of_a_command_is_in_its_help(command):
    script = re.findall(r"[\w/]+\.py\b", command)[-1]
    after = command.split(script, 1)[1].split("#")[0]
    for flag in re.findall(r"(?<!\S)--[\w-]+", after):
        assert re.search(rf"(?<!\S){flag}\b", help_of(script)), f"{script} has no {flag}"


@pytest.mark.parametrize(
    "script, readme, section",
    [
        (
            "references/video_classification/train.py",
            "references/video_classification/README.md",
            "## Flags of `train.py`",
        ),
        ("refactor_dataset.py", "references/dataset_tools/README.md", "## Place the videos by class"),
        ("check_videos.py", "references/dataset_tools/README.md", "## Check every video"),
    ],
)
def test_the_flag_tables_are_complete(script, readme, section):
    known = set(re.findall(r"(?<!\S)--[\w-]+", help_of(script))) - {"--help"}
    text = READMES[readme].split(f"\n{section}\n")[1]
    rows = [line for line in re.split(r"\n##+ ", text)[0].splitlines() if line.startswith("| `--")]
    shown = {flag for row in rows for flag in re.findall(r"`(--[\w-]+)", row.split(" | ")[0])}
    assert shown == known


@pytest.mark.parametrize("readme", READMES)
def test_every_flag_that_is_named_exists(readme):
    known = set().union(*(re.findall(r"(?<!\S)--[\w-]+", help_of(script)) for script in SCRIPTS))
    prose = re.sub(r"```.*?```", "", READMES[readme], flags=re.DOTALL)
    named = {flag for code in re.findall(r"`([^`]+)`", prose) for flag in re.findall(r"(?<!\S)--[a-z][\w-]*", code)}
    assert named <= known | OTHER_PROGRAMS


# Flags of torchrun, TensorBoard and docker, which are named beside ours.
OTHER_PROGRAMS = {"--nproc_per_node", "--node_rank", "--max-restarts", "--shutdown-timeout", "--logdir", "--shm-size"}


def test_every_script_and_package_has_its_place_in_a_readme():
    """Of the dataset tools every file; of the training scripts every script and every package."""
    tools, training = ROOT / "references" / "dataset_tools", ROOT / "references" / "video_classification"
    expected = {
        "references/dataset_tools/README.md": {path.name for path in tools.glob("*.py")},
        "references/video_classification/README.md": {path.name for path in training.glob("*.py")}
        | {f"{path.parent.name}/" for path in training.glob("*/__init__.py")},
    }
    for readme, names in expected.items():
        listed = re.split(r"\n## ", READMES[readme].split("\n## Where things are\n")[1])[0]
        assert {name for name in names if not re.search(rf"\b{re.escape(name)}", listed)} == set(), readme
        for name in re.findall(r"\w+\.py\b", listed):
            assert (ROOT / readme).with_name(name).exists(), f"{readme} lists {name}"


@pytest.mark.parametrize("readme", READMES)
def test_every_path_that_is_linked_exists(readme):
    for target, anchor in re.findall(r"\]\((?!http)([^)#]*)(#[^)]+)?\)", READMES[readme]):
        path = (ROOT / readme).parent / target if target else ROOT / readme
        assert path.exists(), target
        if anchor:
            page = (path / "README.md" if path.is_dir() else path).read_text(encoding="utf-8")
            titles = re.findall(r"^#+ (.+)$", page, re.MULTILINE)
            assert anchor[1:] in [re.sub(r"[^\w\- ]", "", title).lower().replace(" ", "-") for title in titles]


def test_the_messages_that_are_explained_are_those_of_the_code():
    scripts = [*ROOT.glob("*.py"), *(ROOT / "references").rglob("*.py")]
    nodes = [node for path in scripts for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))]
    docstrings = {id(node.value) for node in nodes if isinstance(node, ast.Expr)}
    constants = [node for node in nodes if isinstance(node, ast.Constant) and id(node) not in docstrings]
    spoken = "\n".join(str(constant.value) for constant in constants)
    table = READMES["README.md"].split("\n## When something goes wrong\n")[1].split("\n## ")[0]
    quoted = [message for row in table.splitlines() for message in re.findall(r"`([^`]+)`", row.split(" | ")[0])]
    assert len(quoted) >= 7
    for message in quoted:
        for part in message.strip(". ").split("..."):
            assert part.strip(" ;") in spoken, message


def claims_by_readme() -> dict[str, list[tuple[str, str]]]:
    """(section, test) of each row of the tests' own README, by the README whose claims they are."""
    _, *parts = re.split(r"^### \[(.+?)\].*$", (ROOT / "tests" / "README.md").read_text(), flags=re.MULTILINE)
    rows = [re.findall(r"^\| ([^|]+) \|[^|]+\| `([^|]+)` \|$", part, re.MULTILINE) for part in parts[1::2]]
    return dict(zip(parts[::2], rows, strict=True))


def test_each_claim_of_a_readme_names_a_section_and_a_test_that_there_are():
    claims = claims_by_readme()
    assert claims.keys() == READMES.keys() and all(len(rows) >= 10 for rows in claims.values())
    for readme, rows in claims.items():
        headings = re.findall(r"^#+ (.+)$", READMES[readme], re.MULTILINE)
        for section, test in rows:
            assert section in headings, (readme, section)
            file, name = test.split("::")
            tree = ast.parse((ROOT / "tests" / file).read_text(encoding="utf-8"))
            assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}, test
