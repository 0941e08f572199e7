"""Worker processes that may crash, hang or run out of memory without harm to the run, whatever they are used for."""

import contextlib
import logging
import multiprocessing
import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from multiprocessing import connection
from typing import Any, NamedTuple

MEMORY_BYTES = 4 << 30  # of address space for one worker
MAX_DEATHS = 2  # something else may have killed a worker; an input on which two died is to blame
LONGEST_WAIT = 86_400.0  # seconds; the system's own limit is at some weeks
REPORTS_PER_TIMEOUT = 10  # of progress, at most: enough to be seen in time
PROGRESS, DONE = "progress", "done"  # kinds of messages from a worker


class Task(NamedTuple):
    """A call to make in a worker."""

    key: Any  # by which its result is known
    function: Callable  # that can be imported in the worker
    args: tuple


class WorkerFailure(NamedTuple):
    """What a task that failed has in place of a result."""

    reason: str
    is_inputs_fault: bool = True  # False for an error in the function itself


class Worker:
    """One process, and its current task."""

    def __init__(self, timeout: float, memory_bytes: int):
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_work, args=(theirs, timeout, memory_bytes), daemon=True)
        self.process.start()
        theirs.close()
        self.timeout = timeout
        self.is_ready = False  # once it has said so; starting up does not count as a task's time
        self.task: Task | None = None
        self.deadline = float("inf")

    def give(self, task: Task) -> None:
        self.task, self.deadline = task, time.monotonic() + self.timeout
        with contextlib.suppress(BrokenPipeError):  # if it died while idle, receiving will show it
            self.pipe.send((task.function, task.args))

    def receive(self) -> tuple[str, Any]:
        """A message's kind and content. Raises EOFError or OSError if the process is dead."""
        kind, content = self.pipe.recv()
        if kind == PROGRESS:
            self.deadline = time.monotonic() + self.timeout
        else:
            self.is_ready, self.task, self.deadline = True, None, float("inf")
        return kind, content

    def stop(self) -> int:
        """Kill the process and what it has started, and return its exit code."""
        pid = self.process.pid
        if pid is not None and self.is_ready and self.process.is_alive() and hasattr(os, "killpg"):  # not on Windows
            with contextlib.suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)
        self.process.kill()
        self.process.join()
        self.pipe.close()
        return self.process.exitcode or 0


class WorkerPool:
    """Worker processes that run tasks; a context manager.

    A worker has one task at a time, so its death or a timeout concerns that task alone.

    Args:
        num_workers: the number of processes.
        timeout: seconds for which a task may make no progress (see `report_progress`) before it is given up.
        memory_bytes: address space of one worker.
    """

    def __init__(self, num_workers: int, timeout: float, memory_bytes: int = MEMORY_BYTES):
        self.timeout, self.memory_bytes = timeout, memory_bytes
        self.workers = [Worker(timeout, memory_bytes) for _ in range(num_workers)]

    def __enter__(self) -> "WorkerPool":
        return self

    def __exit__(self, *exception) -> None:
        for worker in self.workers:
            worker.stop()

    def run(self, tasks: Iterable[Task]) -> Iterator[tuple[Any, Any]]:
        """Yield `(key, result or WorkerFailure)` for every task, in the order of completion.

        Raises RuntimeError if a worker cannot even start.
        """
        waiting = iter(tasks)
        again: list[Task] = []
        deaths: Counter[Any] = Counter()
        while True:
            for worker in self.workers:
                if worker.is_ready and worker.task is None:
                    task = again.pop() if again else next(waiting, None)
                    if task is not None:
                        worker.give(task)
            if all(worker.is_ready and worker.task is None for worker in self.workers):
                return
            for worker in self._wait():
                task = worker.task
                try:
                    kind, result = worker.receive()
                except (EOFError, OSError):
                    reason = _describe_death(self._replace(worker))
                    if task is None:  # it was killed while idle
                        continue
                    deaths[task.key] += 1
                    if deaths[task.key] < MAX_DEATHS:
                        again.append(task)
                    else:
                        yield task.key, WorkerFailure(reason)
                    continue
                if kind == DONE and task is not None:
                    yield task.key, result
            for worker in list(self.workers):
                task = worker.task
                if task is not None and worker.deadline <= time.monotonic():
                    self._replace(worker)
                    yield task.key, WorkerFailure(f"no progress for {self.timeout:g} seconds: it hangs")

    def _wait(self) -> list[Worker]:
        """The workers that have sent something or died, as soon as there is one, or a deadline or a day has passed."""
        nearest = min(worker.deadline for worker in self.workers)
        timeout = min(max(nearest - time.monotonic(), 0), LONGEST_WAIT)
        ready = set(connection.wait([worker.pipe for worker in self.workers], timeout))
        return [worker for worker in self.workers if worker.pipe in ready]

    def _replace(self, worker: Worker) -> int:
        exit_code = worker.stop()
        if not worker.is_ready:
            raise RuntimeError(f"a worker process could not start (exit code {exit_code})")
        self.workers[self.workers.index(worker)] = Worker(self.timeout, self.memory_bytes)
        return exit_code


def _describe_death(exit_code: int) -> str:
    name = signal.Signals(-exit_code).name if exit_code < 0 else f"exit code {exit_code}"
    return f"the decoder crashed on it ({name})"


class _ProgressReports:
    """A worker's side of `report_progress`: sends at most one message an `interval` (in seconds)."""

    def __init__(self, pipe: connection.Connection, interval: float):
        self.pipe, self.interval = pipe, interval
        self.last = float("-inf")

    def send(self) -> None:
        now = time.monotonic()
        if now - self.last >= self.interval:
            self.last = now
            self.pipe.send((PROGRESS, None))


_reports: _ProgressReports | None = None  # only in a worker


def report_progress() -> None:
    """Tell the pool that the worker's task advances, which gives it the whole timeout again. Cheap; call it often.

    Does nothing outside a worker.
    """
    if _reports is not None:
        _reports.send()


def _work(pipe: connection.Connection, timeout: float, memory_bytes: int) -> None:
    global _reports
    _leave_terminal()
    libav = logging.getLogger("libav")  # where PyAV sends what the decoders log, unless it is captured
    libav.addHandler(logging.NullHandler())
    libav.propagate = False
    _limit_memory(memory_bytes)
    _reports = _ProgressReports(pipe, timeout / REPORTS_PER_TIMEOUT)
    pipe.send((DONE, None))
    while True:
        try:
            function, args = pipe.recv()
        except EOFError:  # the parent is gone
            return
        try:
            result = function(*args)
        except MemoryError:
            result = WorkerFailure("needs more memory than a worker may take")
        except Exception as error:  # a fault in our code must not be blamed on the file
            result = WorkerFailure(f"{type(error).__name__}: {error}", is_inputs_fault=False)
        pipe.send((DONE, result))


def _leave_terminal() -> None:
    """Let Ctrl-C reach only the parent, and the worker be stopped together with the processes that it starts."""
    if hasattr(os, "setsid"):
        os.setsid()
    else:  # Windows: what a worker has started outlives it
        signal.signal(signal.SIGINT, signal.SIG_IGN)


def _limit_memory(memory_bytes: int) -> None:
    try:
        import resource
    except ImportError:  # Windows has no such limits
        return
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with contextlib.suppress(OSError, ValueError):  # macOS refuses; elsewhere a lower limit may be set already
        resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
