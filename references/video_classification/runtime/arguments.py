"""Argument types for argparse."""

import argparse
from collections.abc import Callable
from typing import TypeVar

Number = TypeVar("Number", int, float)


def positive_int(text: str) -> int:
    """An int above 0, for argparse."""
    return _number(text, int, lambda value: value > 0, "a whole number above 0")


def non_negative_int(text: str) -> int:
    """An int from 0, for argparse."""
    return _number(text, int, lambda value: value >= 0, "a whole number from 0")


def seed(text: str) -> int:
    """A seed that torch's generators take, for argparse."""
    return _number(text, int, lambda value: 0 <= value < 1 << 63, "a whole number from 0 below 2^63")


def positive_float(text: str) -> float:
    """A float above 0, for argparse."""
    return _number(text, float, lambda value: 0 < value < float("inf"), "a number above 0")


def non_negative_float(text: str) -> float:
    """A float from 0, for argparse."""
    return _number(text, float, lambda value: 0 <= value < float("inf"), "a number from 0")


def share(text: str) -> float:
    """A float from 0 to 1, for argparse."""
    return _number(text, float, lambda value: 0 <= value <= 1, "a number from 0 to 1")


def _number(text: str, kind: Callable[[str], Number], is_valid: Callable[[Number], bool], expected: str) -> Number:
    try:
        value = kind(text)
    except ValueError:
        pass
    else:
        if is_valid(value):
            return value
    raise argparse.ArgumentTypeError(f"{text!r} is not {expected}")
