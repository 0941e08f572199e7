"""What long work shows: on a terminal (a pseudo-terminal here) one bar, elsewhere a line every so often."""

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path

import pytest

from runtime.progress import StepMeter, remaining_time

SOURCES = Path(__file__).parents[2] / "references" / "video_classification"
EPOCH = """
import sys, time
print_freq = int(sys.argv[1]) if sys.argv[1:] else None
from runtime.progress import StepMeter
def batches():
    for batch in range(25):
        time.sleep(0.004)
        yield batch
meter = StepMeter("Epoch: [3]", batches(), 25, print_freq)
for step, batch in enumerate(meter):
    time.sleep(0.004)
    meter.update(step, 8, loss=0.5, lr=0.01)
print("Epoch: [3] summary", flush=True)
"""


def environment():
    return {**os.environ, "PYTHONPATH": str(SOURCES), "COLUMNS": "140"}


def test_a_line_every_so_many_steps_without_a_terminal():
    command = [sys.executable, "-c", EPOCH, "10"]
    found = subprocess.run(command, env=environment(), capture_output=True, text=True, check=True)
    lines = found.stdout.splitlines()
    assert [re.findall(r"\[(\d+)/25\]", line) for line in lines[:-1]] == [["1"], ["11"], ["21"], ["25"]]
    for line in lines[:-1]:
        assert re.search(r"loss: 0.5  lr: 0.01  clips/s: [\d.]+  data: [\d.]+ %", line)
    assert found.stderr == ""


@pytest.mark.parametrize(
    "at_once, expected",
    # A step takes 13 s: a line where half a minute has passed since the last.
    [(False, ["[3/9]", "[6/9]", "[9/9]"]), (True, ["[1/9]", "[4/9]", "[7/9]"])],
)
def test_without_a_terminal_a_line_comes_at_least_every_minute(at_once, expected, monkeypatch, capsys):
    clock = [1000.0]
    monkeypatch.setattr("sys.stderr.isatty", lambda: False)
    monkeypatch.setattr("time.monotonic", lambda: clock[0])
    meter = StepMeter("Epoch: [3]", range(9), 9, at_once=at_once)
    for step, _ in enumerate(meter):
        clock[0] += 13
        meter.update(step, 8)
    assert re.findall(r"\[\d/9\]", capsys.readouterr().out) == expected


def test_one_bar_and_then_the_summary_on_a_terminal():
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 140, 0, 0))
    process = subprocess.Popen(
        [sys.executable, "-c", EPOCH], env=environment(), stdin=slave, stdout=slave, stderr=slave, close_fds=True
    )
    os.close(slave)
    shown = b""
    while True:
        try:
            part = os.read(master, 65536)
        except OSError:  # what Linux answers when the other side is closed
            break
        if not part:
            break
        shown += part
    os.close(master)
    assert process.wait() == 0
    text = shown.decode()
    assert re.search(r"Epoch: \[3\].*\d+/25.*loss: 0\.5  lr: 0\.01  clips/s: [\d.]+  data: [\d.]+ %", text)
    # The bar is drawn over itself: the summary is the only line that ends.
    assert text.count("\n") == 1 and text.rstrip().endswith("Epoch: [3] summary")


def test_the_bar_of_a_resumed_epoch_goes_on_where_it_was(monkeypatch):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    meter = StepMeter("x", range(3), 10, 1, first_step=7)
    for step, _ in enumerate(meter, 7):
        meter.update(step, 1)
    assert meter._bar.n == meter._bar.total == 10


def test_the_data_share_is_the_time_waited(capsys):
    def slow():
        for _ in range(3):
            time.sleep(0.05)
            yield 0

    meter = StepMeter("x", slow(), 3, 1)
    for step, _ in enumerate(meter):
        meter.update(step, 1)
    assert 0.14 < meter.data_seconds <= meter.seconds
    assert "data: 9" in capsys.readouterr().out.splitlines()[-1]


@pytest.mark.parametrize("done, total, expected", [(1, 4, "0:03:00"), (4, 4, "0:00:00"), (2, 122, "1:00:00")])
def test_the_rest_takes_as_long_as_before(monkeypatch, done, total, expected):
    monkeypatch.setattr("time.monotonic", lambda: 1000.0 + 60 * done / (2 if done == 2 else 1))
    assert remaining_time(1000.0, done, total) == expected
