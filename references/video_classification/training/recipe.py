"""From the options of the training script to the objects that it works with: clips, network, trainer."""

import argparse
from dataclasses import dataclass, replace

import torch
from torch import nn

from caching.feature_building import train_on_features
from caching.splits import ClipOptions, Clips, join, open_splits
from clips.preprocessing import Preprocessing
from clips.presets import read_flip_map
from evaluation.logits_files import read_teacher
from network.acceleration import compile_network, lay_out, set_up_hardware
from network.models import head_name
from network.precision import Precision
from network.trained_model import TrainedModel
from runtime.distributed import print_main, wrap_model
from training.engine import StepOptions, Trainer
from training.losses import TrainingLoss
from training.mixing import Mixing
from training.optimization import OPTIMIZERS, build_schedule, parameter_groups
from training.saving import RunProgress
from training.starting import Start, load_model, restore
from training.targets import TargetMaker, Teachers, read_teachers
from training.weight_averaging import WeightAverage
from videos.folder import VideoFolder

Split = tuple[VideoFolder, ClipOptions]


def val_preprocessing(args: argparse.Namespace) -> Preprocessing:
    """What a clip goes through in validation."""
    return Preprocessing(
        clip_len=args.clip_len,
        frame_rate=args.frame_rate,
        frame_selection=args.val_frame_selection[0],
        candidate_rate=args.cache_frame_rate,
        resize_size=args.val_resize_size,
        crop_size=args.val_crop_size,
        mean=args.mean,
        std=args.std,
    )


def train_preprocessing(args: argparse.Namespace) -> Preprocessing:
    """What a clip goes through in training, but for the selection of its frames, which is that of validation."""
    return replace(val_preprocessing(args), resize_size=args.train_resize_size, crop_size=args.train_crop_size)


def val_splits(args: argparse.Namespace, classes: list[str]) -> list[Split]:
    """The validation split, by each frame selection."""
    folder, preprocessing = VideoFolder(args.data_path / args.eval_split, classes), val_preprocessing(args)
    selections = [replace(preprocessing, frame_selection=name) for name in args.val_frame_selection]
    return [(folder, _clip_options(args, selection)) for selection in selections]


def train_split(args: argparse.Namespace, classes: list[str], name: str = "train") -> Split:
    """The training split, or the one called `name`, drawn and augmented as asked."""
    preprocessing = replace(train_preprocessing(args), frame_selection=args.frame_selection)
    options = replace(
        _clip_options(args, preprocessing),
        random=args.augment != "none",
        balanced=args.balanced_sampling,
        strong=args.augment == "strong",
        mirrors=read_flip_map(args.flip_map, classes) if args.flip_map else None,
    )
    return VideoFolder(args.data_path / name, classes), options


def load_clips(args: argparse.Namespace, classes: list[str]) -> tuple[Clips, Clips]:
    """The clips of training and validation; scans or caches the videos. Raises as `open_splits`."""
    validation, *_ = val_splits(args, classes)  # training validates by one selection
    if args.train_on_val:
        train, further, val = open_splits([train_split(args, classes), train_split(args, classes, "val"), validation])
        return join([train, further]), replace(val, seen=True)
    train, val = open_splits([train_split(args, classes), validation])
    return train, val


@dataclass(frozen=True)
class Network:
    """A network as it computes."""

    model: nn.Module  # the whole
    inner: nn.Module  # what the inputs go through: `model`, or its head where they are features
    frozen: list[str]  # modules of `inner` that are not trained
    precision: Precision


def load_network(args: argparse.Namespace, start: Start, device: torch.device) -> Network:
    """The network on its device, in the type and layout in which it will compute."""
    model, frozen = load_model(args.model, start, args.trainable)
    model.to(device)
    precision = Precision.of(args.amp, device)
    set_up_hardware(precision)
    batch_shape = (args.batch_size, 3, args.clip_len, *args.train_crop_size)
    remembered = start.checkpoint.layout if start.checkpoint else None
    lay_out(model, args.channels_last, batch_shape, precision, remembered)
    if args.compile and (args.test_only or not args.cache_features):
        compile_network(model, device)
    return Network(model, model, frozen, precision)


def load_features(args: argparse.Namespace, network: Network, train: Clips, val: Clips) -> tuple[Network, Clips, Clips]:
    """With --cache-features the head in place of the network, and features, computed now or before, of clips."""
    if not args.cache_features:
        return network, train, val
    head, frozen, train, (val,) = train_on_features(
        network.model,
        network.frozen,
        args.trainable,
        train,
        [val],
        precision=network.precision,
        dtype=args.feature_dtype,
        views=args.cache_features,
    )
    if args.compile:
        compile_network(head, network.precision.device)
    return Network(network.model, head, frozen, network.precision), train, val


def load_teachers(args: argparse.Namespace, classes: list[str]) -> list[TrainedModel]:
    """The networks of --teacher. Raises as `read_teachers`."""
    return read_teachers(args.teacher, classes, train_preprocessing(args)) if args.teacher else []


def load_targets(
    args: argparse.Namespace, clips: Clips, precision: Precision, teachers: list[TrainedModel]
) -> TargetMaker:
    """What clips are trained towards: labels, mixed, with a teacher's outputs.

    Args:
        args, clips: the options, and the training split.
        precision: of the student.
        teachers: that are shown every batch.
    """
    folder = clips.loader.dataset.folder
    is_mixing = args.mixup_alpha > 0 or args.cutmix_alpha > 0
    mixing = Mixing(args.mixup_alpha, args.cutmix_alpha) if is_mixing else None
    teacher = None
    if args.teacher_logits:
        teacher = read_teacher(args.teacher_logits, folder, clips.videos, args.distill_temperature)
    online = Teachers(teachers, folder.classes, args.distill_temperature, precision) if teachers else None
    return TargetMaker(len(folder.classes), clips.options.mirrors, mixing, teacher, online)


def load_trainer(args: argparse.Namespace, network: Network, targets: TargetMaker, train: Clips) -> Trainer:
    """The trainer of the network; every process calls it."""
    # One rate for all keeps the groups, and so the state, of checkpoints from before there were two.
    head = None if args.lr_head_mult == 1 else head_name(network.model)
    groups = parameter_groups(network.model, args.weight_decay, head=head, head_lr=args.lr * args.lr_head_mult)
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
    parallel = wrap_model(network.inner, network.precision.device, args.sync_bn)  # may change BatchNorms: before a copy
    average = None
    if args.model_ema:
        average = WeightAverage(network.model, args.model_ema_decay, args.model_ema_steps, always=args.train_on_val)
    return Trainer(
        model=network.model,
        network=network.inner,
        frozen=network.frozen,
        precision=network.precision,
        optimizer=optimizer,
        scheduler=scheduler,
        criterion=TrainingLoss(args.label_smoothing, args.distill_alpha, args.distill_temperature),
        targets=targets,
        options=StepOptions(args.seed, args.gradient_accumulation, args.clip_grad_norm, args.print_freq),
        average=average,
        parallel=parallel,
    )


def resume(args: argparse.Namespace, start: Start, trainer: Trainer, train: Clips, val: Clips) -> RunProgress:
    """Puts the trainer where the run's checkpoint left it; returns how far the run has come.

    An epoch that was begun on other clips begins anew; that the best was chosen on other videos is said.
    """
    progress = RunProgress()
    if start.checkpoint is not None:
        if trainer.average is not None:
            trainer.average.load(start.checkpoint)
        progress = restore(start.checkpoint, trainer.optimizer, trainer.precision.scaler)
        trainer.skipped_steps = start.checkpoint.skipped_steps or 0
    if args.start_epoch is not None:
        progress = replace(progress, epoch=args.start_epoch, clips_seen=0, totals=[], epochs_since_best=0)
    order, videos = train.order_digest(), val.videos_digest()
    if progress.clips_seen and progress.epoch_order not in (None, order):
        print_main(
            f"The training clips are not those that epoch {progress.epoch} began with: videos were added, removed or "
            f"replaced, or --seed, --clips-per-video or --balanced-sampling changed. Epoch {progress.epoch} begins anew"
        )
        progress = replace(progress, clips_seen=0, totals=[])
    if progress.best_video_acc1 >= 0 and progress.best_videos not in (None, videos):
        print_main(
            "WARNING: the validation videos are not those on which the best epoch so far was chosen: its video Acc@1 "
            f"of {progress.best_video_acc1:.3f} is not comparable with that of the epochs to come"
        )
    return replace(progress, epoch_order=order, val_videos=videos)


def _clip_options(args: argparse.Namespace, preprocessing: Preprocessing) -> ClipOptions:
    """How clips of either split are made and read."""
    return ClipOptions(
        preprocessing,
        cache_dir=args.cache_dir,
        batch_size=args.batch_size,
        num_workers=args.workers,
        clips_per_video=args.clips_per_video,
        cached=args.cache_dataset,
        cache_format=args.cache_format,
        skip_unreadable=args.skip_unreadable,
        batches_per_step=args.gradient_accumulation,
        pin_memory=args.device.startswith("cuda"),
        start_prob=args.official_start_prob,
        seed=args.seed,
    )
