"""A trained network and all that its checkpoint says about its use."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from clips.preprocessing import Preprocessing
from network.checkpoint import Checkpoint, CheckpointError
from network.models import build_model, check_fits, load_state


@dataclass(frozen=True)
class TrainedModel:
    """A network in evaluation mode on the CPU, B C T H W normalised float to (B, num_classes) logits."""

    name: str  # of the network, torchvision's
    network: nn.Module
    classes: tuple[str, ...]  # in the order of the outputs
    preprocessing: Preprocessing
    temperature: float  # divides the logits before the softmax; 1 where the checkpoint is not calibrated
    path: str  # of the checkpoint
    seen_data: Path | None = None  # whose val/ it was trained on too


def load_trained_model(path: str | os.PathLike, classes_file: Path | None = None) -> TrainedModel:
    """The network of a checkpoint, ready to use.

    A checkpoint without class names takes those of `classes_file`, one a line, in the order of the outputs. Raises
    CheckpointError where it is none, contradicts itself, or has no names; ModelError where its weights are another
    network's.
    """
    return trained_model(Checkpoint.read(path), path, classes_file)


def trained_model(checkpoint: Checkpoint, path: str | os.PathLike, classes_file: Path | None = None) -> TrainedModel:
    """As `load_trained_model`, of a checkpoint that was read from `path`."""
    classes = _classes(checkpoint, path, classes_file)
    preprocessing = _legacy_preprocessing(checkpoint, path) if checkpoint.is_legacy else checkpoint.preprocessing
    if preprocessing is None:
        raise CheckpointError(f"{path} has class names but no `preprocessing`: it is not a checkpoint of train.py")
    name = (checkpoint.args or {}).get("model", "r2plus1d_18")
    check_fits(name, len(classes), preprocessing.clip_len, preprocessing.crop_size, ["all"])
    network = build_model(name, len(classes))
    load_state(network, checkpoint.model, keep_head=True)
    temperature = float(checkpoint.temperature or 1.0)
    own_path, seen_data = os.fspath(path), checkpoint.seen_data
    return TrainedModel(name, network.eval(), tuple(classes), preprocessing, temperature, own_path, seen_data)


def read_classes(path: Path) -> list[str]:
    """Class names in the order of a network's outputs, one a line. Raises CheckpointError."""
    try:
        # With the mark that some editors put in front.
        names = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error
    names = [name for name in names if name]
    if len(set(names)) != len(names) or not names:
        raise CheckpointError(f"{path} must hold class names, one a line, each of them once")
    return names


def _classes(checkpoint: Checkpoint, path: str | os.PathLike, classes_file: Path | None) -> list[str]:
    given = read_classes(classes_file) if classes_file else None
    classes = given if checkpoint.classes is None else checkpoint.classes
    if classes is None:
        raise CheckpointError(f"{path} has no class names: give them with --classes-file, one a line, in output order")
    if given is not None and classes != given:
        raise CheckpointError(f"{path} has class names that differ from those in {classes_file}: leave the file out")
    if not checkpoint.num_outputs:
        raise CheckpointError(f"{path}: its `model` does not end in a layer of outputs")
    if checkpoint.num_outputs != len(classes):
        source = classes_file or "it"
        raise CheckpointError(f"{path} has {checkpoint.num_outputs} outputs, but {source} names {len(classes)} classes")
    return classes


def _legacy_preprocessing(checkpoint: Checkpoint, path: str | os.PathLike) -> Preprocessing:
    """What the public sample solution does: its own flags, else its defaults."""
    args: dict[str, Any] = checkpoint.args or {}
    usual = Preprocessing()
    stored = {
        "clip_len": args.get("clip_len", usual.clip_len),
        "frame_rate": args.get("frame_rate", usual.frame_rate),
        "resize_size": args.get("val_resize_size", usual.resize_size),
        "crop_size": args.get("val_crop_size", usual.crop_size),
    }
    try:
        return Preprocessing.from_plain({**usual.plain(), **stored})
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}") from error
