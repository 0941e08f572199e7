"""What the training script's flags make: the network as it will compute, its optimiser and schedule, the targets, the
average of the weights, and the function that trains an epoch. A room of its own between the script, which tells what
happens when, and the modules, which know no flags.
"""

import argparse
from dataclasses import dataclass
from functools import partial

import torch
from torch import nn

from caching.feature_building import train_on_features
from caching.splits import Clips
from evaluation.logits_files import read_teacher
from network.acceleration import compile_network, lay_out, set_up_hardware
from network.models import head_name
from network.precision import Precision
from training.engine import EpochSummary, train_one_epoch
from training.losses import TrainingLoss
from training.mixing import Mixing
from training.optimization import OPTIMIZERS, build_schedule, parameter_groups
from training.recalibration import recalibrate_batch_norm
from training.starting import Start, load_model
from training.targets import TargetMaker
from training.weight_averaging import WeightAverage


@dataclass
class Work:
    """What is trained, on what.

    model: the whole network. network: what the clips go through, `model` or the head that it shares. frozen: names of
    its frozen modules. train, val: clips, or their features.
    """

    model: nn.Module
    network: nn.Module
    frozen: list[str]
    precision: Precision
    train: Clips | None
    val: list[Clips]


def load_network(
    args: argparse.Namespace, start: Start, device: torch.device, train: Clips | None, val: list[Clips]
) -> Work:
    """The network on its device, as it will compute; features in the place of clips where they are cached."""
    model, frozen = load_model(args.model, start, args.trainable)
    model.to(device)
    precision = Precision.of(args.amp, device)
    set_up_hardware(precision)
    batch_shape = (args.batch_size, 3, args.clip_len, *args.train_crop_size)
    remembered = start.checkpoint.get("layout") if start.checkpoint else None
    lay_out(model, args.channels_last, batch_shape, precision, remembered)
    work = Work(model, model, frozen, precision, train, val)
    if args.cache_features and train is not None:
        work.network, work.frozen, work.train, work.val = train_on_features(
            *(model, frozen, args.trainable, train, val),
            precision=precision,
            dtype=args.feature_dtype,
            views=args.cache_features,
        )
    if args.compile:
        compile_network(work.network, device)
    return work


def load_optimizer(args: argparse.Namespace, model: nn.Module, train: Clips):
    """The optimiser over what is trained, and its schedule."""
    # One rate for all keeps the groups, and so the state, of checkpoints from before there were two.
    head = None if args.lr_head_mult == 1 else head_name(model)
    groups = parameter_groups(model, args.weight_decay, head=head, head_lr=args.lr * args.lr_head_mult)
    optimizer = OPTIMIZERS[args.opt](groups, args.lr, args.momentum)
    scheduler = build_schedule(
        optimizer,
        epochs=args.epochs,
        steps_per_epoch=train.steps_per_epoch(),
        decay=args.lr_scheduler,
        milestones=args.lr_milestones,
        gamma=args.lr_gamma,
        warmup_epochs=args.lr_warmup_epochs,
        warmup_method=args.lr_warmup_method,
        warmup_decay=args.lr_warmup_decay,
    )
    return optimizer, scheduler


def load_targets(args: argparse.Namespace, clips: Clips) -> TargetMaker:
    """What clips are trained towards: labels, mixed, with a teacher's outputs."""
    folder = clips.loader.dataset.folder
    is_mixing = args.mixup_alpha > 0 or args.cutmix_alpha > 0
    mixing = Mixing(args.mixup_alpha, args.cutmix_alpha) if is_mixing else None
    teacher = None
    if args.teacher_logits:
        teacher = read_teacher(args.teacher_logits, folder, clips.videos, args.distill_temperature)
    return TargetMaker(len(folder.classes), clips.options.mirrors, mixing, teacher)


def load_average(args: argparse.Namespace, model: nn.Module, start: Start) -> WeightAverage | None:
    """The average of the weights, where there is one to be."""
    average = WeightAverage(model, args.model_ema_decay, args.model_ema_steps) if args.model_ema else None
    if average is not None and start.checkpoint:
        average.load(start.checkpoint)
    return average


def load_trainer(
    args: argparse.Namespace,
    work: Work,
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    scheduler: torch.optim.lr_scheduler.LRScheduler,
    targets: TargetMaker,
) -> partial[EpochSummary]:
    """`train_one_epoch` of `network`, as processes share it, but for what changes from epoch to epoch."""
    return partial(
        train_one_epoch,
        network,
        criterion=TrainingLoss(args.label_smoothing, args.distill_alpha, args.distill_temperature),
        optimizer=optimizer,
        lr_scheduler=scheduler,
        to_inputs=work.train.loader.dataset.to_inputs,
        to_targets=targets,
        counted_by=targets.counted_by,
        frozen=work.frozen,
        num_steps=work.train.steps_per_epoch(),
        precision=work.precision,
        seed=args.seed,
        print_freq=args.print_freq,
        batches_per_step=args.gradient_accumulation,
        max_grad_norm=args.clip_grad_norm,
    )


def recalibrate(work: Work, seed: int) -> None:
    """Estimates the trained BatchNorms' statistics again."""
    recalibrate_batch_norm(work.network, work.frozen, work.train, work.precision, seed)
