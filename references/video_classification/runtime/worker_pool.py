"""Runs a function over items in worker processes.

Unlike torch's DataLoader and concurrent.futures it names the item, a video, on which a worker died.
"""

import contextlib
import multiprocessing
import os
import signal
import sys
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerContext, SpawnContext
from typing import Any, TypeVar

from runtime.errors import UserError
from runtime.signals import STOP_SIGNALS

Item = TypeVar("Item")

# Imported once, by the server that the workers are forked from. Forking this process is not safe: it has threads.
PRELOAD = ["numpy", "av", "torch"]


class WorkerDied(UserError):
    """A worker process ended while it worked on `item` (a decoder crashed, or the system was out of memory)."""

    def __init__(self, item: Any, exit_code: int | None) -> None:
        super().__init__(item, exit_code)
        self.item, self.exit_code = item, exit_code

    def __str__(self) -> str:
        return f"{self.item}: its worker process died, {self.how}"

    @property
    def how(self) -> str:
        """How it ended, in words."""
        if self.exit_code is None or self.exit_code >= 0:
            return f"exit code {self.exit_code}"
        name = signal.Signals(-self.exit_code).name
        hint = " (often: out of memory)" if name == "SIGKILL" else ""
        return f"killed by {name}{hint}"


def default_workers() -> int:
    """The number of cores that this process may use, at most 16."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, 16)


def map_in_workers(
    function: Callable[[Item], Any],
    items: Iterable[Item],
    num_workers: int,
    *,
    lookahead: int | None = None,
    on_death: Callable[[WorkerDied], Any] | None = None,
) -> Generator[Any, None, None]:
    """Yields `function(item)` for each of `items`, in their order.

    Args:
        function: picklable, defined in a module other than the script; sent once to each worker, so it may hold data.
        items: picklable, small.
        num_workers: processes; 0 runs `function` here.
        lookahead: items begun before their results are asked for, by default 4 per worker.
        on_death: returns the result for an item whose worker died; by default `WorkerDied` is raised.

    Raises:
        WorkerDied: a worker died and there is no `on_death`.
        Exception: whatever `function` raises, when its item's turn comes.
    """
    if num_workers == 0:
        yield from map(function, items)
        return
    numbered = enumerate(items)
    lookahead = lookahead or 4 * num_workers
    workers = [_Worker(function) for _ in range(num_workers)]
    finished: dict[int, list[Any]] = {}  # number -> [failed, result or exception]
    idle = deque(workers)
    next_number = begun = 0
    try:
        while True:
            while idle and begun - next_number < lookahead and (entry := next(numbered, None)) is not None:
                idle.popleft().start(*entry)
                begun += 1
            if next_number == begun:
                return
            if next_number not in finished:
                for worker in _ready(workers):
                    number, *finished[number] = worker.finish(on_death)
                    idle.append(worker)
                continue  # keep the idle workers busy before handing out a result
            failed, result = finished.pop(next_number)
            next_number += 1
            if failed:
                raise result
            yield result
    finally:
        for worker in workers:
            worker.stop()


def _ready(workers: Iterable["_Worker"]) -> list["_Worker"]:
    """Waits until one of the busy workers has an answer or has died, and returns all that do."""
    busy = {worker.connection: worker for worker in workers if worker.number is not None}
    ready = wait(list(busy))
    return [worker for connection, worker in busy.items() if connection in ready]


class _Worker:
    """A process and the pipe to it; another is started when it dies."""

    def __init__(self, function: Callable) -> None:
        self._function = function
        self.number: int | None = None  # of the item that it works on
        self._item: Any = None
        self._spawn()

    def start(self, number: int, item: Any) -> None:
        self.number, self._item = number, item
        # A worker that died while idle shows when its result is awaited.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self.connection.send(item)

    def finish(self, on_death: Callable[[WorkerDied], Any] | None) -> tuple[Any, bool, Any]:
        number, self.number = self.number, None
        try:
            return number, *self.connection.recv()
        except (EOFError, ConnectionResetError):
            self._process.join()
            death = WorkerDied(self._item, self._process.exitcode)
            self.connection.close()
            self._spawn()
            return (number, True, death) if on_death is None else (number, False, on_death(death))

    def stop(self) -> None:
        self.connection.close()
        self._process.kill()
        self._process.join()

    def _spawn(self) -> None:
        context: ForkServerContext | SpawnContext = multiprocessing.get_context("spawn")
        if os.name == "posix":
            context = multiprocessing.get_context("forkserver")
            context.set_forkserver_preload(PRELOAD)
        self.connection, theirs = context.Pipe()
        self._process = context.Process(target=_work, args=(theirs, self._function), daemon=True)
        with _script_hidden(), _stop_signals_blocked():
            self._process.start()
        theirs.close()


@contextlib.contextmanager
def _script_hidden() -> Iterator[None]:
    """Keeps multiprocessing from importing the running script in workers started inside.

    No worker needs it, since their functions lie in modules; with all its imports it would take each 2 s and 160 MB.
    """
    script = sys.modules["__main__"].__dict__
    hidden: dict[str, Any] = {name: script.pop(name) for name in ("__file__", "__spec__") if name in script}
    script["__spec__"] = None
    try:
        yield
    finally:
        script.update(hidden)


@contextlib.contextmanager
def _stop_signals_blocked() -> Iterator[None]:
    """Blocks the stop signals in processes started inside.

    Slurm sends them to a whole group; the parent handles them, and needs its workers until it has saved.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        resource_tracker.ensure_running()  # its start unblocks SIGTERM, so it comes first
        signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _work(connection: Connection, function: Callable) -> None:
    """A worker's life: items in, (failed, result) out, until the parent closes the pipe or dies."""
    for number in (signal.SIGINT, *STOP_SIGNALS):  # they reach the whole group; the parent decides
        signal.signal(number, signal.SIG_IGN)
    import torch  # only here: importing this module stays cheap

    torch.set_num_threads(1)
    while True:
        try:
            item = connection.recv()
        except (EOFError, ConnectionResetError):
            return
        try:
            answer = (False, function(item))
        except Exception as error:  # whatever it is, it is raised again in the parent
            answer = (True, error)
        try:
            connection.send(answer)
        except (BrokenPipeError, ConnectionResetError):
            return
