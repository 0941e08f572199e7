import csv

import pytest

from evaluation.predictions import Comparison, Prediction, read_predictions, write_predictions
from runtime.errors import UserError


def test_predictions_are_read_again_whatever_the_names(tmp_path):
    names = ["a,b.mp4", 'q"q.mp4', "line\nbreak.mp4", "bytes\udcff.mp4", "ünï.mp4", "-x.mp4"]
    labels = ["=1+1", 'quo"te', "com,ma", "<script>alert(1)</script>", "", "x"]
    pairs = list(enumerate(zip(names, labels, strict=True)))
    written = [Prediction(name, label, "x", 0.25, rank, 3) for rank, (name, label) in pairs]
    write_predictions(tmp_path / "predictions.csv", written)
    with open(tmp_path / "predictions.csv", newline="", encoding="utf-8", errors="surrogateescape") as file:
        header, *rows = csv.reader(file)
    assert header == ["path", "label", "prediction", "probability", "rank", "clips"]
    assert rows == [[name, label, "x", "0.250000", str(rank), "3"] for rank, (name, label) in pairs]
    found = read_predictions(tmp_path)
    assert list(found) == names and found == read_predictions(tmp_path / "predictions.csv")
    assert [found[name][:4] for name in names] == [row[:4] for row in written]


def compared(labels, a, b):
    """The comparison of two runs that predict `a` and `b`; a class is a letter."""
    runs = (
        {f"{i}.mp4": Prediction(f"{i}.mp4", label, said, 0.75) for i, (label, said) in enumerate(pairs)}
        for pairs in (zip(labels, a, strict=True), zip(labels, b, strict=True))
    )
    return Comparison.of(*runs)


def test_changes_are_named_by_what_they_mean():
    changes = compared("xxxyy", "xyyxy", "yxyzy").changes()
    assert [(change.kind, change.a.path) for change in changes] == [
        ("lost", "0.mp4"),
        ("gained", "1.mp4"),
        ("other mistake", "3.mp4"),
    ]


@pytest.mark.parametrize(
    "only_a, only_b, pvalue, verdict",
    [
        (1, 12, "0.003418", "RUN_B is better"),  # 2 (1 + 13) / 2^13
        (12, 1, "0.003418", "RUN_A is better"),
        (5, 6, "1", "No difference is shown"),
        (0, 5, "0.0625", "Undecided"),  # 2 / 2^5, and the interval is 5/26 -+ 1.96 sqrt((7/26 - (5/26)^2) / 26)
    ],
)
def test_the_verdict_needs_both_the_interval_and_the_test(only_a, only_b, pvalue, verdict):
    labels = "x" * (only_a + only_b + 19)
    a, b = "x" * only_a + "z" * only_b + "x" * 19, "z" * only_a + "x" * only_b + "x" * 19
    lines = list(compared(labels, a, b).lines(listed=0))
    assert lines[3].endswith(f"p = {pvalue}")
    assert lines[4].startswith(verdict)


@pytest.mark.parametrize(
    "text, words",
    [
        ("path,label\nx,y\n", "no column prediction, probability"),
        ("path,label,prediction,probability\n", "holds no predictions"),
        ("path,label,prediction,probability\nx,y,z,high\n", "line 2"),
        ("path,label,prediction,probability\nx,y\n", "line 2"),
        ("path,label,prediction,probability\nx,y,z,1\nx,y,z,1\n", "x is listed twice"),
        ('path,label,prediction,probability\n"x,y', "unexpected end"),
        ("\0\1\2", "is not a list|line contains NUL"),
        ("", "is not a list"),
    ],
)
def test_what_is_no_list_of_predictions_is_refused(tmp_path, text, words):
    (tmp_path / "predictions.csv").write_text(text)
    with pytest.raises(UserError, match=words):
        read_predictions(tmp_path)


def test_an_absent_list_says_who_writes_it(tmp_path):
    with pytest.raises(UserError, match="--test-only"):
        read_predictions(tmp_path / "absent")
