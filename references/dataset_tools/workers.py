"""Worker processes that may crash, hang or run out of memory without harm to the run, whatever they are used for."""

import contextlib
import logging
import multiprocessing
import os
import resource
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from multiprocessing import connection
from typing import Any, NamedTuple

MEMORY_BYTES = 4 << 30  # of address space for one worker
MAX_DEATHS = 2  # somebody else may kill a worker; a file on which two died is to blame


class Task(NamedTuple):
    """A call to be made in a worker; `function` must be importable there."""

    key: Any
    function: Callable
    args: tuple


class WorkerFailure(NamedTuple):
    """Given in place of a result. `is_inputs_fault` is False for an error in the function itself."""

    reason: str
    is_inputs_fault: bool = True


class Worker:
    """One process, and the task that it is on."""

    def __init__(self, memory_bytes: int):
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_work, args=(theirs, memory_bytes), daemon=True)
        self.process.start()
        theirs.close()
        self.is_ready = False  # once it has said so; starting up is not counted against a task's time
        self.task: Task | None = None
        self.deadline = float("inf")

    def give(self, task: Task, timeout: float) -> None:
        self.task, self.deadline = task, time.monotonic() + timeout
        with contextlib.suppress(BrokenPipeError):  # where it died while idle, receiving will show it
            self.pipe.send((task.function, task.args))

    def stop(self) -> int:
        """Kills the process with what it has started, and gives its exit code."""
        if self.is_ready and self.process.is_alive():
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.kill()
        self.process.join()
        self.pipe.close()
        return self.process.exitcode


class WorkerPool:
    """Runs tasks in `num_workers` processes, each for at most `timeout` seconds. To be used as a context manager.

    A worker has one task at a time, so its death or a timeout concerns that task alone.
    """

    def __init__(self, num_workers: int, timeout: float, memory_bytes: int = MEMORY_BYTES):
        self.timeout, self.memory_bytes = timeout, memory_bytes
        self.workers = [Worker(memory_bytes) for _ in range(num_workers)]

    def __enter__(self) -> "WorkerPool":
        return self

    def __exit__(self, *exception) -> None:
        for worker in self.workers:
            worker.stop()

    def run(self, tasks: Iterable[Task]) -> Iterator[tuple[Any, Any]]:
        """Gives `(key, result or WorkerFailure)` for every task, in the order of completion.

        Raises RuntimeError where a worker cannot even start.
        """
        waiting, again, deaths = iter(tasks), [], Counter()
        while True:
            for worker in self.workers:
                if worker.is_ready and worker.task is None:
                    task = again.pop() if again else next(waiting, None)
                    if task is not None:
                        worker.give(task, self.timeout)
            if all(worker.is_ready and worker.task is None for worker in self.workers):
                return
            for worker in self._wait():
                task = worker.task
                try:
                    result = worker.pipe.recv()
                except (EOFError, OSError):
                    reason = _describe_death(self._replace(worker))
                    if task is None:  # it was killed while it had nothing to do
                        continue
                    deaths[task.key] += 1
                    if deaths[task.key] < MAX_DEATHS:
                        again.append(task)
                    else:
                        yield task.key, WorkerFailure(reason)
                    continue
                worker.is_ready, worker.task, worker.deadline = True, None, float("inf")
                if task is not None:
                    yield task.key, result
            for worker in [worker for worker in self.workers if worker.deadline <= time.monotonic()]:
                self._replace(worker)
                yield (
                    worker.task.key,
                    WorkerFailure(f"not done after {self.timeout:g} seconds: it hangs or is too slow"),
                )

    def _wait(self) -> list[Worker]:
        """The workers that have something to say, or have died, as soon as there is one or a deadline has passed."""
        nearest = min(worker.deadline for worker in self.workers)
        timeout = None if nearest == float("inf") else max(nearest - time.monotonic(), 0)
        ready = set(connection.wait([worker.pipe for worker in self.workers], timeout))
        return [worker for worker in self.workers if worker.pipe in ready]

    def _replace(self, worker: Worker) -> int:
        exit_code = worker.stop()
        if not worker.is_ready:
            raise RuntimeError(f"a worker process could not start (exit code {exit_code})")
        self.workers[self.workers.index(worker)] = Worker(self.memory_bytes)
        return exit_code


def _describe_death(exit_code: int) -> str:
    name = signal.Signals(-exit_code).name if exit_code < 0 else f"exit code {exit_code}"
    return f"the decoder crashed on it ({name})"


def _work(pipe: connection.Connection, memory_bytes: int) -> None:
    os.setsid()  # so that it can be stopped with what it started, and Ctrl-C reaches only the parent
    libav = logging.getLogger("libav")  # where PyAV sends what the decoders log, unless it is captured
    libav.addHandler(logging.NullHandler())
    libav.propagate = False
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    pipe.send("ready")
    while True:
        try:
            function, args = pipe.recv()
        except EOFError:  # the parent is gone
            return
        try:
            result = function(*args)
        except MemoryError:
            result = WorkerFailure("needs more memory than a worker may take")
        except Exception as error:  # a fault here must not be taken for one of the file
            result = WorkerFailure(f"{type(error).__name__}: {error}", is_inputs_fault=False)
        pipe.send(result)
