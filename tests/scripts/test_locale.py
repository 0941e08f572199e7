"""Text is UTF-8 under every locale, and names of any bytes are read, kept and shown."""

import json
import os
import subprocess
import sys

import pytest

from helpers.small_datasets import SMALL, write_moving_bar
from helpers.template_process import SCRIPTS

# Where Python takes neither UTF-8 for the disk's encoding nor the terminal's.
ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": ""}
UTF8 = {"LC_ALL": "C.UTF-8", "PYTHONUTF8": "1"}


def end_of(script, argv, environment):
    command = [sys.executable, str(SCRIPTS / f"{script}.py"), *argv]
    done = subprocess.run(command, env={**os.environ, **environment}, capture_output=True)
    return done.returncode, done.stdout, done.stderr


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Two classes, one of which is not ASCII; the folder's own name is not even UTF-8."""
    root = tmp_path_factory.mktemp("data") / os.fsdecode(b"d\xff ta")
    for label, name in enumerate(("fentes_écartées", "squats")):
        for split in ("train", "val"):
            write_moving_bar(root / split / name / f"vidéo {label}.mp4", seed=label)
    return root


def test_a_run_under_an_ascii_locale_is_the_same(data, tmp_path):
    options = [*SMALL, "--data-path", str(data), "--epochs", "1", "--trainable", "fc", "--workers", "0"]
    options += ["--cache-dir", str(tmp_path / "cache"), "--output-dir", str(tmp_path / "run"), "--cache-dataset"]
    code, out, err = end_of("train", options, ASCII)
    assert code == 0 and b"Report: " in out, err.decode()
    caches = sorted((tmp_path / "cache").iterdir())
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert "fentes_<wbr>écartées" in page and "d\\xff ta" in page
    assert "fentes_écartées/vidéo 0.mp4,fentes_écartées," in (tmp_path / "run" / "predictions.csv").read_text("utf-8")
    assert json.loads((tmp_path / "run" / "args.json").read_text("utf-8"))["classes"] == ["fentes_écartées", "squats"]
    # The classes, the checkpoint and the cache are those of any other locale.
    newest = str(tmp_path / "run" / "checkpoint.pth")
    code, out, err = end_of("train", [*options, "--test-only", "--resume", newest], UTF8)
    assert code == 0 and b"2 videos, 2 clips" in out, err.decode()
    assert sorted((tmp_path / "cache").iterdir()) == caches
    code, out, err = end_of("predict", [newest, str(data / "val"), "-j", "0", "--device", "cpu"], ASCII)
    assert code == 0 and out.count(b"fentes_\\xe9cart\\xe9es") == 2, err.decode()
