"""The order of an epoch in which every class is seen equally often. A room of its own below `datasets`: it knows
nothing but labels and a generator.
"""

import torch
from torch import Tensor


def balanced_order(labels: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """An epoch as long as `labels`, in which the classes are seen equally often, to within one.

    A small class's clips come again, each as often as the others of its class to within one; of a large class some are
    left out, others in the next epoch.

    Args:
        labels: int64 (N,), the class of each clip.
        generator: of all choices.

    Returns:
        int64 (N,), which clip each is; int64 (N,), how many times it came before.
    """
    classes = labels.unique()
    share, more = divmod(len(labels), len(classes))
    picks, rounds = [], []
    for place, label in enumerate(classes[torch.randperm(len(classes), generator=generator)].tolist()):
        own, count = (labels == label).nonzero()[:, 0], share + (place < more)
        shuffles = [own[torch.randperm(len(own), generator=generator)] for _ in range(-(-count // len(own)))]
        picks += [torch.cat(shuffles)[:count]] if shuffles else []
        rounds.append(torch.arange(count) // len(own))
    order = torch.randperm(len(labels), generator=generator)
    return torch.cat(picks)[order], torch.cat(rounds)[order]
