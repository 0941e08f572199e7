"""The optimiser, and the learning rate as a function of the step alone, so that a run can begin at any step."""

import math
from collections.abc import Callable, Sequence

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from training.options import default_milestones

OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "sgd": lambda groups, lr, momentum: torch.optim.SGD(groups, lr=lr, momentum=momentum),
    "adamw": lambda groups, lr, momentum: torch.optim.AdamW(groups, lr=lr, betas=(momentum, 0.999)),
}
MAX_WARMUP_SHARE = 1 / 3  # of the run: a short run is not all warm-up


def parameter_groups(
    model: nn.Module, weight_decay: float, *, head: str | None = None, head_lr: float | None = None
) -> list[dict]:
    """The parameters that have a gradient; norms and biases, which are vectors, without weight decay.

    Args:
        model: its trained parts marked.
        weight_decay: of the matrices.
        head, head_lr: the module that learns at a rate of its own, None for none, and that rate.
    """
    trained = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    in_head = [p for name, p in trained if head is not None and name.startswith(f"{head}.")]
    members = {id(parameter) for parameter in in_head}
    groups = _by_decay([p for _, p in trained if id(p) not in members], weight_decay)
    if head is not None:
        groups += [{**group, "lr": head_lr} for group in _by_decay(in_head, weight_decay)]
    return groups


def _by_decay(parameters: Sequence[nn.Parameter], weight_decay: float) -> list[dict]:
    return [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]


DECAYS = {
    # Half a cosine from 1 at step 0 to 0 at the last.
    "cosine": lambda step, total, milestones, gamma: 0.5 * (1 + math.cos(math.pi * min(step / total, 1.0))),
    # `gamma` once for each of the milestones, in steps, that have passed.
    "multistep": lambda step, total, milestones, gamma: gamma ** sum(step >= milestone for milestone in milestones),
}
WARMUPS = {"linear": lambda share, start: start + (1 - start) * share, "constant": lambda share, start: start}


def build_schedule(
    optimizer: torch.optim.Optimizer,
    *,
    epochs: int,
    steps_per_epoch: int,
    decay: str = "cosine",
    milestones: Sequence[float] | None = None,
    gamma: float = 0.1,
    warmup_epochs: float = 1.0,
    warmup_method: str = "linear",
    warmup_decay: float = 0.001,
) -> LambdaLR:
    """A scheduler to step once a batch; its factor depends on the step alone.

    Warm-up counts in steps and is cut to a third of the run. The cosine begins where warm-up ends and is near zero at
    the last step. Milestones are epochs, counted from the run's start: 60 % and 85 % of `epochs` by default.
    """
    total = max(epochs * steps_per_epoch, 1)
    warmup = min(round(warmup_epochs * steps_per_epoch), int(total * MAX_WARMUP_SHARE))
    milestones = default_milestones(epochs) if milestones is None else milestones
    falls = [round(milestone * steps_per_epoch) - warmup for milestone in milestones]

    def factor(step: int) -> float:
        if step < warmup:
            return WARMUPS[warmup_method]((step + 1) / (warmup + 1), warmup_decay)
        return DECAYS[decay](step - warmup, total - warmup, falls, gamma)

    return LambdaLR(optimizer, factor)


def jump_to_step(scheduler: LambdaLR, step: int) -> None:
    """Sets the scheduler and its optimiser's rates to those of `step`, as if every step before had been taken."""
    scheduler.last_epoch = step
    scheduler._step_count = step + 1
    rates = [base * factor(step) for base, factor in zip(scheduler.base_lrs, scheduler.lr_lambdas, strict=True)]
    for group, rate in zip(scheduler.optimizer.param_groups, rates, strict=True):
        group["lr"] = rate
    scheduler._last_lr = rates
