"""The process group: rank, world size, reductions, printing on rank 0 only. Without torchrun there is one process."""

import contextlib
import datetime
import os
import shutil
import socket
import sys
import time
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from runtime.errors import UserError

Sliceable = TypeVar("Sliceable", list[Any], np.ndarray)

SHARED_MEMORY = "/dev/shm"
SHARED_MEMORY_BYTES = 128 << 20


# The others wait while one process builds a cache, which takes longer than any collective of a training step may.
PATIENCE = datetime.timedelta(days=7)
LONGEST_PAUSE = 0.05  # seconds between two looks whether a wait is over
_patient_group: "dist.ProcessGroup | None" = None


def init_process_group(device: torch.device) -> torch.device:
    """Joins the group that torchrun announces, if it does; returns this process's device."""
    if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
        return device
    return join_group(*backend_and_device(device))


def backend_and_device(device: torch.device) -> tuple[str, torch.device]:
    """NCCL and a GPU of its own for each process, or gloo and the CPU."""
    if device.type != "cuda":
        return "gloo", device
    return "nccl" if dist.is_nccl_available() else "gloo", torch.device("cuda", int(os.environ["LOCAL_RANK"]))


def join_group(backend: str, device: torch.device) -> torch.device:
    """Joins the group that the environment announces, by `backend`; returns `device`, which is then the current one.

    Processes may share a GPU by gloo, which copies through the CPU, and not by NCCL.
    """
    global _patient_group
    if device.type == "cuda":
        torch.cuda.set_device(device)
    # torchrun keeps its store when it restarts the processes: under the same keys they would find the addresses of
    # those that have ended.
    store, rank_here, count = next(dist.rendezvous("env://"))
    attempt = dist.PrefixStore(f"attempt_{restart_count()}", store)
    dist.init_process_group(backend, store=attempt, rank=rank_here, world_size=count)
    group = dist.new_group(backend="gloo", timeout=PATIENCE)
    assert isinstance(group, dist.ProcessGroup)  # which it is for every member, and all processes are members
    _patient_group = group
    if device.type == "cuda" and not dist.is_nccl_available():
        print_main("WARNING: this torch has no NCCL: the GPUs communicate through gloo, which is slow")
    if backend == "nccl":
        _check_shared_memory()
    return device


def restart_count() -> int:
    """How often torchrun has restarted this run's processes."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))


def launch_ids() -> list[str]:
    """Identifies torchrun's launch of these processes, one text a machine; empty without torchrun.

    It is the same in all attempts of a launch, and another in every launch: torchrun's own run id is `none` by default.
    """
    run_id, launcher = os.environ.get("TORCHELASTIC_RUN_ID"), os.getppid()
    own = None if run_id is None else f"{run_id} {socket.gethostname()} {launcher} {_start_time(launcher)}"
    return sorted({launch for launch in gather_objects(own) if launch is not None})


def _start_time(process: int) -> str:
    """When a process was started, in ticks since the machine was; empty where the system does not tell."""
    try:
        with open(f"/proc/{process}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()[19].decode()
    except (OSError, IndexError):
        return ""


def _check_shared_memory() -> None:
    """Refuses a small /dev/shm: NCCL uses it within a machine, and a container's default of 64 MB fails mid-run."""
    if not os.path.isdir(SHARED_MEMORY) or os.environ.get("NCCL_SHM_DISABLE", "0") != "0":
        return
    size = shutil.disk_usage(SHARED_MEMORY).total
    if size < SHARED_MEMORY_BYTES:
        raise UserError(
            f"{SHARED_MEMORY} has {size >> 20} MB, too little for NCCL: start the container with --shm-size=1g "
            "(or --ipc=host), or set NCCL_SHM_DISABLE=1"
        )


def is_peers_failure(error: RuntimeError) -> bool:
    """Whether a collective failed because another process has ended."""
    return is_distributed() and (isinstance(error, dist.DistError) or "gloo" in str(error) or "peer" in str(error))


def end_process_group(exit_code: int) -> None:
    """Ends this process with the exit code, if it is in a group; everything that was printed is written.

    At once, without destroy_process_group and the interpreter's own way out: under torch 2.7, the destructor of a gloo
    group can wait for its thread while it holds the interpreter's lock, which that thread waits for (pytorch#154976).
    After a failure, torchrun then ends the others, which may be waiting for this process.
    """
    if not is_distributed():
        return
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):  # closed
            stream.flush()
    os._exit(exit_code)


def wrap_model(model: nn.Module, device: torch.device, sync_bn: bool) -> nn.Module:
    """The model to train, in DistributedDataParallel where there is a group; validate and save the bare one."""
    if not is_distributed():
        return model
    if sync_bn:
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    return nn.parallel.DistributedDataParallel(model, device_ids=[device.index] if device.type == "cuda" else None)


def is_distributed() -> bool:
    """Whether several processes, or one under torchrun, form a group."""
    return dist.is_available() and dist.is_initialized()


def rank() -> int:
    """This process's number, 0 without a group."""
    return dist.get_rank() if is_distributed() else 0


def world_size() -> int:
    """How many processes there are."""
    return dist.get_world_size() if is_distributed() else 1


def is_main() -> bool:
    """Whether this process prints and writes."""
    return rank() == 0


def print_main(*values: Any, **kwargs: Any) -> None:
    """`print` on rank 0 only, flushed."""
    if is_main():
        print(*values, flush=True, **kwargs)


def barrier() -> None:
    """Waits for every process; meanwhile signals are handled, which no wait inside torch does."""
    if not is_distributed():
        return
    work = dist.barrier(group=_patient_group, async_op=True)
    pause = 0.001
    while not work.is_completed():
        time.sleep(pause)
        pause = min(1.5 * pause, LONGEST_PAUSE)
    work.wait()  # raises where another process has ended


def sum_over_processes(values: Tensor) -> Tensor:
    """The element-wise sum, the same on every process, on the device of `values`."""
    if not is_distributed():
        return values
    # NCCL reduces on the GPU only.
    on_device = values.to("cuda") if dist.get_backend() == "nccl" else values.clone()
    dist.all_reduce(on_device)
    return on_device.to(values.device)


def maximum_over_processes(values: list[int]) -> list[int]:
    """The element-wise maximum, the same on every process."""
    if not is_distributed():
        return values
    maxima = torch.tensor(values)
    dist.all_reduce(maxima, dist.ReduceOp.MAX, group=_patient_group)  # on the CPU, so that no GPU is waited for
    return maxima.tolist()


@torch.no_grad()
def broadcast_buffers(model: nn.Module) -> None:
    """Copies rank 0's buffers to every process: DistributedDataParallel does so before a step, not after the last."""
    if is_distributed():
        for buffer in model.buffers():
            dist.broadcast(buffer, 0)


def gather_objects(value: Any) -> list[Any]:
    """Each process's `value`, in order of ranks."""
    if not is_distributed():
        return [value]
    barrier()
    values: list[Any] = [None] * world_size()
    dist.all_gather_object(values, value, group=_patient_group)
    return values


def broadcast_object(value: Any, source: int = 0) -> Any:
    """The `value` of rank `source`."""
    if not is_distributed():
        return value
    barrier()
    values = [value]
    dist.broadcast_object_list(values, source, group=_patient_group)
    return values[0]


@dataclass(frozen=True)
class FolderSharers:
    """The processes that see the same folder: all on one machine, all machines with a common disk, or each alone."""

    first_of: tuple[int, ...]  # for each rank, the lowest rank that sees its folder

    @property
    def ranks(self) -> list[int]:
        """Those that see the folder of this process, ascending."""
        return [other for other, first in enumerate(self.first_of) if first == self.first_of[rank()]]

    @property
    def is_first(self) -> bool:
        """Whether this process does for all of them what only one may do."""
        return self.first_of[rank()] == rank()

    def share(self, items: Sliceable) -> Sliceable:
        """This process's part of the work."""
        ranks = self.ranks
        return items[ranks.index(rank()) :: len(ranks)]

    def from_first(self, value: Any) -> Any:
        """What the first of them gives as `value`; every process of the group calls it."""
        given = {first: broadcast_object(value, first) for first in sorted(set(self.first_of))}
        return given[self.first_of[rank()]]


def folder_sharers(folder: Path) -> FolderSharers:
    """Finds out which processes see the same folder, by a file of each: every process calls it.

    One that cannot write there is alone, unless it sees the file of another.
    """
    if not is_distributed():
        return FolderSharers((0,))
    token = broadcast_object(uuid.uuid4().hex)
    names = [f".rank-{other}-{token}" for other in range(world_size())]
    own = folder / names[rank()]
    try:
        with contextlib.suppress(OSError):  # what needs the folder will say so
            folder.mkdir(parents=True, exist_ok=True)
            own.touch()
        barrier()
        # By name: a listing that another machine has kept may be old.
        seen = [other for other, name in enumerate(names) if (folder / name).exists()]
        return FolderSharers(tuple(gather_objects(min([rank(), *seen]))))
    finally:
        with contextlib.suppress(OSError):
            own.unlink()
