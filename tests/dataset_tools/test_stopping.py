import os
import signal

import pytest

from references.dataset_tools.stopping import ArgumentParser, exit_code_of


def end(work, capsys, expected=(ValueError,)) -> tuple[int, str]:
    code = exit_code_of(work, expected, "stopped; run again")
    return code, capsys.readouterr().err


def raising(error: BaseException):
    def work() -> int:
        raise error

    return work


@pytest.mark.parametrize(
    "work, code, message",
    [
        (lambda: 0, 0, ""),
        (lambda: 1, 1, ""),
        (raising(ValueError("two\nlines, \x1b")), 1, "error: two\nlines, \\x1b\n"),
        (raising(UnicodeError("of a kind that is expected")), 1, "error: of a kind that is expected\n"),
        (raising(KeyboardInterrupt()), 130, "stopped; run again\n"),
    ],
)
def test_how_a_script_ends(capsys, work, code, message):
    assert end(work, capsys) == (code, message)


def test_a_fault_of_ours_is_not_hidden(capsys):
    with pytest.raises(KeyError):
        end(raising(KeyError("x")), capsys)


def test_sigterm_ends_the_work_as_ctrl_c_does(capsys):
    before = signal.getsignal(signal.SIGTERM)

    def work() -> int:
        signal.raise_signal(signal.SIGTERM)
        return 0

    assert end(work, capsys) == (143, "stopped; run again\n")
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_sigterm_that_is_ignored_stays_ignored(capsys):
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        assert end(lambda: signal.raise_signal(signal.SIGTERM) or 0, capsys) == (0, "")
    finally:
        signal.signal(signal.SIGTERM, before)


def test_an_error_of_usage_is_one_line(capsys):
    with pytest.raises(SystemExit) as stop:
        ArgumentParser(None).parse_args(["a\n\x1b"])
    assert stop.value.code == 2
    assert capsys.readouterr().err.splitlines()[-1].endswith(r"error: unrecognized arguments: a\n\x1b")


def test_a_flag_is_written_out():
    parser = ArgumentParser(None)
    parser.add_argument("--root")
    with pytest.raises(SystemExit):
        parser.parse_args(["--ro", os.devnull])
