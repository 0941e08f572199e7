"""The sanity check before a long run: a network that can learn at all learns one batch by heart."""

from functools import partial
from itertools import repeat

from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from caching.splits import Clips
from clips.samplers import EVALUATION
from runtime.distributed import print_main, world_size
from runtime.errors import UserError
from training.engine import EpochSummary, labels_alone

NEAR_ZERO = 0.01
STEPS_AT_ONCE, MAX_STEPS = 10, 300


class OverfitError(UserError):
    """One batch could not be learnt."""


def check_overfits(train: partial[EpochSummary], clips: Clips, seed: int) -> None:
    """Trains on one batch, the same clips at every step, until their mean loss over ten steps is near zero.

    Args:
        train: `engine.train_one_epoch` but for batches and epoch; its schedule, losses and targets are set aside, since
            none of them lets the loss come near zero.
        clips: the training split; its first batch is seen as validation would see it.
        seed: of the choice of clips.

    Raises:
        OverfitError: the loss stays above that; the message says where it ended.
    """
    samples = clips.epoch_samples(seed, epoch=0)[: clips.options.batch_size]
    (batch,) = clips.loader.batches([sample._replace(epoch=EVALUATION) for sample in samples])
    optimizer = train.keywords["optimizer"]
    train = partial(
        train,
        criterion=nn.CrossEntropyLoss(reduction="none"),
        lr_scheduler=LambdaLR(optimizer, lambda step: 1.0),
        to_targets=labels_alone,
        counted_by="labels",
        num_steps=STEPS_AT_ONCE,
        batches_per_step=1,
    )
    print_main(f"Overfitting {len(samples) * world_size()} clips: their loss must fall below {NEAR_ZERO}")
    for number in range(MAX_STEPS // STEPS_AT_ONCE):
        summary = train(batches=repeat(batch, STEPS_AT_ONCE), epoch=number)
        if summary.loss < NEAR_ZERO:
            steps = (number + 1) * STEPS_AT_ONCE
            print_main(f"One batch is learnt by heart: loss {summary.loss:.4f} after {steps} steps")
            return
    raise OverfitError(
        f"one batch is not learnt by heart: its loss is {summary.loss:.4f} after {MAX_STEPS} steps, and should fall "
        f"below {NEAR_ZERO}; try another --lr, start from --weights, train more blocks (--trainable), look at the data"
    )
