"""The process group: rank, world size, reductions, printing on rank 0 alone. Without torchrun: one process."""

import os
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn


def init_process_group(device: torch.device) -> torch.device:
    """Joins the group that torchrun announces, NCCL on GPUs and gloo on CPUs; returns this process's device."""
    if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
        return device
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    backend = "nccl" if device.type == "cuda" and dist.is_nccl_available() else "gloo"
    dist.init_process_group(backend)
    return device


def end_process_group() -> None:
    """Leaves the group, if there is one."""
    if is_distributed():
        dist.destroy_process_group()


def wrap_model(model: nn.Module, device: torch.device, sync_bn: bool) -> nn.Module:
    """The model to train: in DistributedDataParallel where there is a group. The bare one validates and is saved."""
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
    """`print`, on rank 0 alone, at once."""
    if is_main():
        print(*values, flush=True, **kwargs)


def barrier() -> None:
    """Waits for every process."""
    if is_distributed():
        dist.barrier()


def sum_over_processes(values: Tensor) -> Tensor:
    """The element-wise sum, the same on every process, on the device of `values`."""
    if not is_distributed():
        return values
    # NCCL reduces on the GPU only.
    on_device = values.to("cuda") if dist.get_backend() == "nccl" else values.clone()
    dist.all_reduce(on_device)
    return on_device.to(values.device)


def gather_objects(value: Any) -> list[Any]:
    """Each process's `value`, in the order of ranks."""
    if not is_distributed():
        return [value]
    values: list[Any] = [None] * world_size()
    dist.all_gather_object(values, value)
    return values


def broadcast_object(value: Any) -> Any:
    """Rank 0's `value`."""
    if not is_distributed():
        return value
    values = [value]
    dist.broadcast_object_list(values)
    return values[0]
