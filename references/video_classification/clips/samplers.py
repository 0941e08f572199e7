"""Chooses the clips that a process sees in an epoch, and their order; seeds what is drawn for each of them."""

import hashlib
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

EVALUATION = -1  # instead of an epoch: nothing is random
GOLDEN = 0x9E3779B97F4A7C15  # 2**64 by the golden ratio: the step of splitmix64
REPEAT = 1 << 24  # added to the epoch for each time that a clip comes again within it, so that it is drawn anew


class Sample(NamedTuple):
    """A clip, and what seeds its randomness."""

    video: int  # its row in the folder
    clip: int = 0  # its number within the video
    epoch: int = EVALUATION


def seeded_generator(*key: int) -> torch.Generator:
    """A generator seeded by `key`; neighbouring keys give unrelated numbers."""
    digest = hashlib.blake2b(repr(key).encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little") >> 1)


def hashed(*columns: int | np.ndarray) -> np.ndarray:
    """A seed for each row of the columns, uint64 (N,): neighbouring rows get unrelated ones.

    Args:
        columns: int64 (N,) each, or a number that all rows share.
    """
    seeds = np.zeros(1, np.uint64)
    for column in columns:
        seeds = _mixed((seeds ^ np.asarray(column).astype(np.uint64)) + np.uint64(GOLDEN))
    return seeds


def uniform_numbers(seeds: np.ndarray, count: int) -> np.ndarray:
    """The first `count` numbers of each seed, uint64 (N,), by splitmix64: float64 (N, count) in [0, 1).

    A generator for each clip would take longer to seed than all the rest of planning the clip.
    """
    steps = np.arange(1, count + 1, dtype=np.uint64) * np.uint64(GOLDEN)
    return (_mixed(seeds[:, None] + steps) >> np.uint64(11)) * 2.0**-53


def _mixed(bits: np.ndarray) -> np.ndarray:
    """The mixing step of splitmix64: each of the 64 bits depends on all."""
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return bits ^ (bits >> np.uint64(31))


def training_samples(
    videos: Tensor,
    clips_per_video: int,
    seed: int,
    epoch: int,
    rank: int = 0,
    world_size: int = 1,
    seen: int = 0,
    balance: Tensor | None = None,
) -> list[Sample]:
    """This process's share of an epoch: all clips of `videos`, in an order that depends on (seed, epoch) alone.

    The order is dealt out to the processes in turn. At most `world_size - 1` clips are seen twice, so that every
    process takes the same number of steps.

    Args:
        videos: int64 (V,), rows in the folder.
        clips_per_video: clips of each.
        seed, epoch: of the order, and of what is drawn for the clips.
        rank, world_size: which process, of how many.
        seen: clips at the start of the order to leave out, since an earlier run has trained on them.
        balance: int64 (V,), the labels of `videos`: see all classes equally often, as `balanced_order` does.
    """
    generator = seeded_generator(seed, epoch)
    if balance is None:
        order = torch.randperm(len(videos) * clips_per_video, generator=generator)
        repeats = torch.zeros_like(order)
    else:
        order, repeats = balanced_order(balance.repeat_interleave(clips_per_video), generator)
    # A last step that was filled up has seen more clips than there are; videos may also have gone since.
    order, repeats = order[seen:], repeats[seen:]
    needed = -(-len(order) // world_size) * world_size
    places = torch.arange(needed)[rank::world_size] % max(len(order), 1)
    order, epochs = order[places], epoch + REPEAT * repeats[places]
    columns = (videos[order // clips_per_video], order % clips_per_video, epochs)
    return list(map(Sample, *(column.tolist() for column in columns)))


def evaluation_samples(videos: Tensor, clips_per_video: int, rank: int = 0, world_size: int = 1) -> list[Sample]:
    """This process's share of validation: each video once, with all of its clips, and no padding."""
    own = videos[rank::world_size].tolist()
    return [Sample(video, clip) for video in own for clip in range(clips_per_video)]


def balanced_order(labels: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """An epoch as long as `labels` in which the classes are seen equally often, to within one clip.

    The clips of a small class are repeated, each equally often to within one; of a large class some are left out,
    different ones in each epoch.

    Returns:
        int64 (N,), which clip comes; int64 (N,), how often it came before.
    """
    classes = labels.unique()
    share, more = divmod(len(labels), len(classes))
    picks, rounds = [], []
    for place, label in enumerate(classes[torch.randperm(len(classes), generator=generator)].tolist()):
        own, count = (labels == label).nonzero()[:, 0], share + (place < more)
        shuffles = [own[torch.randperm(len(own), generator=generator)] for _ in range(0, count, len(own))]
        picks.append(torch.cat(shuffles)[:count])
        rounds.append(torch.arange(count) // len(own))
    order = torch.randperm(len(labels), generator=generator)
    return torch.cat(picks)[order], torch.cat(rounds)[order]
