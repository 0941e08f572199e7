"""Workers that crash, hang, starve or are killed."""

import os
import resource
import signal
import time
from multiprocessing import connection
from pathlib import Path

import numpy as np
import pytest

from helpers.numbered_videos import write_video
from references.dataset_tools import workers
from references.dataset_tools.probing import ProbeOptions, probe
from references.dataset_tools.workers import Task, WorkerFailure, WorkerPool, report_progress

STRICT = ProbeOptions()


def write_program(folder: Path, what: str, version: str = "62.  3.100") -> None:
    """A stand-in for ffmpeg that prints the version of its libavcodec, or does `what` is asked of it."""
    program = folder / "ffmpeg"
    asked = f'if [ "$1" = -version ]; then echo "ffmpeg version N-1-g2a"; echo "libavcodec     {version} / x"; exit; fi'
    program.write_text(f"#!/bin/sh\n{asked}\n{what}")
    program.chmod(0o755)


def behave(how: str) -> str:
    """What a worker does in the tests below."""
    if how == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    if how.startswith("die once "):
        marker = Path(how.removeprefix("die once "))
        if not marker.exists():
            marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
    if how == "hang":
        time.sleep(600)
    if how == "work on":
        workers._reports.interval = 0
        for _ in range(8):
            report_progress()
    if how == "eat":
        return str(len(bytearray(1 << 33)))
    if how == "raise":
        raise KeyError("a fault of ours")
    return how


def run_all(how: list[str], num_workers: int = 2, timeout: float = 20) -> dict:
    with WorkerPool(num_workers, timeout) as pool:
        return dict(pool.run(Task(index, behave, (each,)) for index, each in enumerate(how)))


def test_a_crash_condemns_no_neighbour():
    results = run_all(["a", "crash", "b", "raise", "c", "eat", "d"])
    assert [results[index] for index in (0, 2, 4, 6)] == ["a", "b", "c", "d"]
    assert results[1] == WorkerFailure("the decoder crashed on it (SIGSEGV)")
    assert not results[3].is_inputs_fault and "a fault of ours" in results[3].reason
    assert "memory" in results[5].reason and results[5].is_inputs_fault


def test_a_hang_ends_at_the_timeout():
    results = run_all(["hang", "a", "b"], timeout=4)  # long enough for the others on a busy machine
    assert results == {0: WorkerFailure("no progress for 4 seconds: it hangs"), 1: "a", 2: "b"}


def test_a_task_that_makes_progress_may_take_longer_than_the_timeout(monkeypatch):
    """By a clock that goes on by nine tenths of the timeout at each message: eight of them are seven timeouts."""
    clock, real_wait = 0.0, connection.wait

    def wait(pipes, timeout):
        nonlocal clock
        ready = real_wait(pipes)
        clock += 0.9 * 100
        return ready[:1]

    monkeypatch.setattr(workers.connection, "wait", wait)
    monkeypatch.setattr(workers.time, "monotonic", lambda: clock)
    assert run_all(["work on"], num_workers=1, timeout=100) == {0: "work on"}
    assert clock > 500


def test_a_timeout_of_a_tenth_is_a_report_soon_enough(tmp_path):
    """The worker reports ten times within the timeout, whatever that is."""
    pool = WorkerPool(1, 500)
    with pool:
        results = dict(pool.run([Task(0, interval_of_reports, ())]))
    assert results == {0: 50}


def interval_of_reports() -> float:
    return workers._reports.interval


def test_a_worker_that_somebody_killed_is_no_verdict(tmp_path):
    assert run_all([f"die once {tmp_path / 'marker'}", "a"], num_workers=1) == {
        0: f"die once {tmp_path / 'marker'}",
        1: "a",
    }


def test_no_worker_outlives_its_pool():
    with WorkerPool(2, 20) as pool:
        assert len(dict(pool.run(Task(index, behave, ("a",)) for index in range(4)))) == 4
        processes = [worker.process.pid for worker in pool.workers]
    for pid in processes:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def probe_with_little_memory(path: str):
    probe(path + ".absent", STRICT)  # takes what the libraries need
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * os.sysconf("SC_PAGE_SIZE") + (16 << 20)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    return probe(path, STRICT)


def test_a_frame_that_wants_too_much_memory(tmp_path):
    """A small file whose frames fill the memory allowed: the verdict is on that file, and the pool goes on."""
    path = write_video(tmp_path / "wide.mkv", [np.zeros((4096, 4096, 3), np.uint8)], codec="ffv1")
    assert probe(str(path), STRICT).status == "ok"
    with WorkerPool(1, 60) as pool:
        results = dict(pool.run([Task("wide", probe_with_little_memory, (str(path),)), Task("next", behave, ("a",))]))
    assert results["next"] == "a"
    assert results["wide"].status == "bad" and "memory" in results["wide"].reason


def test_a_program_that_hangs_ends_at_the_timeout(tmp_path, good, monkeypatch):
    write_program(tmp_path, f"echo $$ > {tmp_path}/pid\necho frame=3\nexec sleep 600\n")
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    (tmp_path / "video.mp4").write_bytes(good)
    with WorkerPool(1, 2) as pool:
        task = Task("video", probe, (str(tmp_path / "video.mp4"), ProbeOptions("ffmpeg")))
        assert dict(pool.run([task])) == {"video": WorkerFailure("no progress for 2 seconds: it hangs")}
    status = Path(f"/proc/{(tmp_path / 'pid').read_text().strip()}/stat")
    for _ in range(200):  # it has been killed, which takes a moment; nobody need have collected it
        if not status.exists() or status.read_text().rpartition(")")[2].split()[0] == "Z":
            return
        time.sleep(0.1)
    raise AssertionError("the program outlived the worker that started it")
