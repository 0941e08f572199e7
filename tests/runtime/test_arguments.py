import argparse

import pytest

from runtime import arguments


@pytest.mark.parametrize(
    "kind, good, bad",
    [
        ("positive_int", {"1": 1}, ["0", "-1", "1.5", "x", ""]),
        ("non_negative_int", {"0": 0, "7": 7}, ["-1", "0.5"]),
        ("seed", {"0": 0, str(2**63 - 1): 2**63 - 1}, ["-1", str(2**63)]),
        ("positive_float", {"0.5": 0.5, "3": 3.0}, ["0", "-1", "inf", "nan", "x"]),
        ("non_negative_float", {"0": 0.0}, ["-0.1", "inf", "nan"]),
        ("share", {"0": 0.0, "1": 1.0}, ["-0.1", "1.1", "nan"]),
    ],
)
def test_numbers_within_their_limits(kind, good, bad):
    read = getattr(arguments, kind)
    assert {text: read(text) for text in good} == good
    for text in bad:
        with pytest.raises(argparse.ArgumentTypeError, match=f"^'{text}' is not a "):
            read(text)
