"""The sanity check before a long run: a network that can learn at all learns one batch by heart."""

from dataclasses import replace
from itertools import repeat

from torch.optim.lr_scheduler import LambdaLR

from caching.splits import Clips
from clips.samplers import EVALUATION
from runtime.distributed import print_main, world_size
from runtime.errors import UserError
from training.engine import Trainer
from training.losses import TrainingLoss
from training.targets import TargetMaker

NEAR_ZERO = 0.01
STEPS_AT_ONCE, MAX_STEPS = 10, 300


def check_overfits(trainer: Trainer, clips: Clips) -> None:
    """Trains on one batch, the same clips at every step, until their mean loss over ten steps is near zero.

    The clips are the first batch of the training split, seen as validation would see them. The trainer's schedule,
    loss, targets and average are set aside, since none of them lets the loss come near zero. Raises UserError where
    the loss stays above that; the message says where it ended.
    """
    dataset = clips.loader.dataset
    samples = clips.epoch_samples(trainer.options.seed, epoch=0)[: clips.options.batch_size]
    (batch,) = clips.loader.batches([sample._replace(epoch=EVALUATION) for sample in samples])
    trainer = replace(
        trainer,
        criterion=TrainingLoss(),
        scheduler=LambdaLR(trainer.optimizer, lambda step: 1.0),
        targets=TargetMaker(len(dataset.folder.classes)),
        options=replace(trainer.options, batches_per_step=1),
        average=None,
    )
    print_main(f"Overfitting {len(samples) * world_size()} clips: their loss must fall below {NEAR_ZERO}")
    for number in range(MAX_STEPS // STEPS_AT_ONCE):
        batches = repeat(batch, STEPS_AT_ONCE)
        summary = trainer.train_epoch(batches, dataset.to_inputs, epoch=number, num_steps=STEPS_AT_ONCE)
        if summary.loss < NEAR_ZERO:
            steps = (number + 1) * STEPS_AT_ONCE
            print_main(f"One batch is learnt by heart: loss {summary.loss:.4f} after {steps} steps")
            return
    raise UserError(
        f"one batch is not learnt by heart: its loss is {summary.loss:.4f} after {MAX_STEPS} steps, and should fall "
        f"below {NEAR_ZERO}; try another --lr, start from --weights, train more blocks (--trainable), look at the data"
    )
