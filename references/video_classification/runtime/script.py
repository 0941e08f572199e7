"""How every script runs its work: what the user can mend is one message, and the exit code tells how it ended.

Imports no torch: scripts import what is heavy inside the work, after their arguments are parsed.
"""

import io
import os
import sys
import traceback
from collections.abc import Callable
from types import ModuleType

from runtime.errors import CutShort, UserError, first_line, reason_of
from runtime.signals import Stopped, StopRequest


def run_script(work: Callable[[], int | None], *, resume_command: object = None) -> int:
    """Does the work, and returns the exit code, or ends the process with it if it joined a process group.

    A UserError or OSError becomes a message and 1, Ctrl-C 130, a stop signal 128 + its number. A reader of the output
    that has seen enough ends it quietly. Any other error is raised where no other process waits for this one.

    The work imports torch and does everything that needs it; it returns an exit code, None for 0. `resume_command` is
    what continues it: printed when it is interrupted or cut short, as it then reads.
    """
    wait_passively()
    _prepare_streams()
    try:
        with StopRequest(at_once=True):
            code = work() or 0
            sys.stdout.flush()  # a closed pipe shows here rather than at the interpreter's exit
            if (group := _group()) is not None:
                group.barrier()  # the others may still need this process
    except Stopped as stopped:  # every process of a group gets the signal
        if (group := _group()) is None or group.is_main():
            print(f"{stopped}{_continuation(resume_command)}", flush=True)
        _leave_group(stopped.exit_code)
        return stopped.exit_code
    except KeyboardInterrupt:
        if (group := _group()) is None or group.is_main():
            print(f"interrupted{_continuation(resume_command)}", file=sys.stderr)
        _leave_group(130)
        return 130
    except Exception as error:
        _report(error, resume_command)
        _leave_group(1)
        return 1
    _leave_group(code)
    return code


def wait_passively() -> None:
    """Lets OpenMP threads sleep instead of spinning while they wait for each other, unless the user chose otherwise.

    Where another program takes one of two cores, a training step took 4.7 s with spinning threads and 0.8 s with
    sleeping ones. GNU's, LLVM's and Intel's libraries all read the variable, once, when torch loads them.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def _prepare_streams() -> None:
    """Shows what the terminal's encoding lacks escaped; what is written to a stream that was closed is lost."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115  (for as long as it runs)
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _continuation(resume_command: object) -> str:
    return "" if resume_command is None else f". Continue with: {resume_command}"


def _group() -> ModuleType | None:
    """`runtime.distributed` where it was imported: elsewhere there is no process group, and torch may stay out."""
    return sys.modules.get("runtime.distributed")


def _leave_group(exit_code: int) -> None:
    if (group := _group()) is not None:
        group.end_process_group(exit_code)


def _is_of_memory(error: Exception) -> bool:
    """Whether Python, a device, or a library that torch calls had too little memory."""
    torch = sys.modules.get("torch")
    is_of_device = torch is not None and isinstance(error, torch.OutOfMemoryError)
    is_of_library = any(word in str(error) for word in ("DefaultCPUAllocator", "_STATUS_ALLOC_FAILED"))
    return is_of_device or is_of_library or isinstance(error, MemoryError)


def _report(error: Exception, resume_command: object) -> None:
    """Prints what went wrong; raises `error` again where only its traceback tells and the interpreter will print it."""
    group = _group()
    if isinstance(error, BrokenPipeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the interpreter flushes it once more
    elif isinstance(error, UserError):
        continuation = _continuation(resume_command) if isinstance(error, CutShort) else ""
        print(f"error: {error}{continuation}", file=sys.stderr)
    elif isinstance(error, OSError):
        where = f"{os.fspath(error.filename)}: " if error.filename is not None else ""
        remedy = ": change its permissions, or name another place" if isinstance(error, PermissionError) else ""
        print(f"error: {where}{reason_of(error)}{remedy}", file=sys.stderr)
    elif _is_of_memory(error):
        said = ". ".join(first_line(error).split(". ")[:2])  # torch goes on about its allocator
        remedy = "ask for less at once, such as a smaller --batch-size"
        print(f"error: not enough memory ({said}): {remedy}", file=sys.stderr)
    elif group is None or not group.is_distributed():
        raise error
    elif isinstance(error, RuntimeError) and group.is_peers_failure(error):
        print(f"error: rank {group.rank()} stops because another process has ended: see its message", file=sys.stderr)
    else:
        traceback.print_exception(error)  # the process ends at once, so the interpreter prints none
