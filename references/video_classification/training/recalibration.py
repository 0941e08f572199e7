"""BatchNorm's statistics, estimated again once the weights are final: while they move, the running averages lag."""

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from caching.splits import Clips
from clips.samplers import EVALUATION
from network.models import set_train_mode
from network.precision import Precision, to_device
from runtime.distributed import print_main, sum_over_processes, world_size

MAX_BATCHES = 200  # Wu and Johnson, arXiv 2105.07576: some thousand samples do


@torch.no_grad()
def recalibrate_batch_norm(
    network: nn.Module, frozen: Sequence[str], clips: Clips, precision: Precision, seed: int
) -> None:
    """Replaces the running statistics of the trained BatchNorms by their mean over batches of training clips.

    Args:
        network: left in evaluation mode.
        frozen: modules whose statistics stay.
        clips: the training split; its videos are seen as validation sees them.
        precision: to compute in.
        seed: of the choice of videos.
    """
    set_train_mode(network, frozen)
    norms = [m for m in network.modules() if isinstance(m, _BatchNorm) and m.training and m.track_running_stats]
    if not norms:
        network.eval()
        print_main("No BatchNorm is trained: there are no statistics to estimate again")
        return
    batch_size = clips.options.batch_size
    samples = clips.epoch_samples(seed, epoch=0)[: MAX_BATCHES * batch_size]
    # The mean counts every batch alike, and the statistics of a small one would be poor.
    samples = samples[: max(len(samples) // batch_size, 1) * batch_size]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # torch's word for the plain mean over all batches
    dataset = clips.loader.dataset
    for batch in clips.loader.batches([sample._replace(epoch=EVALUATION) for sample in samples]):
        inputs, _ = to_device(batch, dataset.to_inputs, precision)
        with precision.autocast():
            network(inputs)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
        for statistic in (norm.running_mean, norm.running_var):
            assert statistic is not None  # of a norm that tracks them
            statistic.copy_(sum_over_processes(statistic) / world_size())
    network.eval()
    print_main(f"Statistics of {len(norms)} BatchNorms estimated again, from {len(samples) * world_size()} clips")
