import argparse
import os
from pathlib import Path

import pytest

from runtime import arguments


@pytest.mark.parametrize(
    "kind, good, bad",
    [
        ("positive_int", {"1": 1}, ["0", "-1", "1.5", "x", "", str(2**31)]),
        ("non_negative_int", {"0": 0, "7": 7}, ["-1", "0.5", str(2**31)]),
        ("seed", {"0": 0, str(2**63 - 1): 2**63 - 1}, ["-1", str(2**63)]),
        ("positive_float", {"0.5": 0.5, "3": 3.0}, ["0", "-1", "inf", "nan", "x", "1e39"]),
        ("non_negative_float", {"0": 0.0}, ["-0.1", "inf", "nan", "1e39"]),
        ("share", {"0": 0.0, "1": 1.0}, ["-0.1", "1.1", "nan"]),
    ],
)
def test_numbers_within_their_limits(kind, good, bad):
    read = getattr(arguments, kind)
    assert {text: read(text) for text in good} == good
    for text in bad:
        with pytest.raises(argparse.ArgumentTypeError, match=f"^'{text}' is not a "):
            read(text)


@pytest.mark.parametrize("name", ["pipe", "/dev/fd/1", "/dev/null"])
def test_an_output_is_no_stream(tmp_path, capsys, name):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(SystemExit) as stop:
        arguments.check_outputs(argparse.ArgumentParser(), [("--output", Path(tmp_path, name))], [])
    assert stop.value.code == 2
    assert "is a device, a pipe or the standard output: name a file" in capsys.readouterr().err
