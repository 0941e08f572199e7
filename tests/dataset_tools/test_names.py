import subprocess
import sys

import pytest

from references.dataset_tools.names import appearance, folded, is_invisible
from references.dataset_tools.progress import printable, printable_name


@pytest.mark.parametrize(
    "other",
    [
        "Squats",
        "squ ats",
        "squ_ats",
        "squats\u00a0",
        "squ\u200bats",
        "\ufeffsquats",
        "squats.",
        "ｓquats",
        "squat\u017f",
    ],
)
def test_labels_that_look_alike(other):
    assert appearance(other) == appearance("squats")


def test_composed_and_decomposed_labels_look_alike():
    assert appearance("\u00dcbung") == appearance("u\u0308bung")


@pytest.mark.parametrize("other", ["squat", "squats 2", "squ-ats", "squ.ats", "sqüats"])
def test_labels_that_do_not(other):
    assert appearance(other) != appearance("squats")


def test_folded_keeps_what_disks_keep():
    assert folded("A.MP4") == folded("a.mp4") and folded("\u00dc.mp4") == folded("u\u0308.mp4")
    assert len({folded(name) for name in ("a b.mp4", "a_b.mp4", "ab.mp4", "ａb.mp4")}) == 4


def test_invisible_characters():
    assert all(map(is_invisible, " \t\u00a0\u2009\u3000\u200b\u200d\u2060\ufeff\ufe0f\u00ad"))
    assert not any(map(is_invisible, "a_.-ä東"))


@pytest.mark.parametrize(
    "name, shown",
    [
        ("plain name.mp4", "plain name.mp4"),
        ("\x1b[31mred\x07.mp4", r"\x1b[31mred\x07.mp4"),
        ("\x9b31m.mp4", r"\x9b31m.mp4"),
        ("gpj\u202e4pm.mp4", r"gpj\u202e4pm.mp4"),
        ("a\nplaced 9", r"a\nplaced 9"),
        ("a\rb\x7f", r"a\rb\x7f"),
        ("\udcff.mp4", r"\udcff.mp4"),
        ("plänk 東.mp4", "plänk 東.mp4"),
    ],
)
def test_names_reach_a_terminal_without_control_characters(name, shown):
    assert printable_name(name) == shown


def test_lines_stay_lines():
    assert printable("one\n  two\x1b") == "one\n  two\\x1b"


def test_a_name_is_the_same_bytes_on_the_disk_under_every_locale():
    code = (
        "import os; from references.dataset_tools.names import to_name, to_text; name = to_name('pl\\u00e4nk'); "
        "assert os.fsencode(name) == 'pl\\u00e4nk'.encode('utf-8') and to_text(name) == 'pl\\u00e4nk'"
    )
    for locale in ("C", "C.UTF-8"):
        environment = {"LC_ALL": locale, "PYTHONUTF8": "0", "PATH": ""}
        subprocess.run([sys.executable, "-c", code], env=environment, check=True)
