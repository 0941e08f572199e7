"""A trained network and all that its checkpoint says about its use. A room of its own, since prediction, export and
measurements must read a checkpoint in one way.
"""

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from clips.preprocessing import Preprocessing
from network.checkpoint import CheckpointError, is_legacy, load_checkpoint, temperature_of
from network.models import build_model, check_fits, load_state


@dataclass(frozen=True)
class TrainedModel:
    """A network in evaluation mode on the CPU, B C T H W normalised float to (B, num_classes) logits.

    name: of the network. classes: in the order of the outputs. temperature: see `calibration.calibrated`.
    path: of the checkpoint.
    """

    name: str
    network: nn.Module
    classes: tuple[str, ...]
    preprocessing: Preprocessing
    temperature: float
    path: str

    def sha256(self) -> str:
        """Of the checkpoint's file."""
        digest = hashlib.sha256()
        with open(self.path, "rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
        return digest.hexdigest()


def load_trained_model(path: str | os.PathLike, classes_file: Path | None = None) -> TrainedModel:
    """The network of a checkpoint, ready to use.

    Args:
        path: of the checkpoint.
        classes_file: names the classes of one that has no names, see `read_classes`.

    Raises:
        CheckpointError: not a checkpoint, one that contradicts itself, or one without names and no `classes_file`.
        ModelError: weights that are not those of the network it names.
    """
    checkpoint = load_checkpoint(path)
    classes = _classes(checkpoint, path, classes_file)
    name = checkpoint["args"].get("model", "r2plus1d_18")
    preprocessing = _preprocessing(checkpoint, path)
    check_fits(name, len(classes), preprocessing.clip_len, preprocessing.crop_size, ["all"])
    network = build_model(name, len(classes))
    load_state(network, checkpoint["model"], keep_head=True)
    temperature = temperature_of(checkpoint, path)
    return TrainedModel(name, network.eval(), tuple(classes), preprocessing, temperature, os.fspath(path))


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


def _classes(checkpoint: Mapping[str, Any], path: str | os.PathLike, classes_file: Path | None) -> Sequence[str]:
    given = read_classes(classes_file) if classes_file else None
    classes = given if is_legacy(checkpoint) else checkpoint["classes"]
    if classes is None:
        raise CheckpointError(f"{path} has no class names: give them with --classes-file, one a line, in output order")
    if not isinstance(classes, list | tuple) or not all(isinstance(name, str) for name in classes):
        raise CheckpointError(f"{path}: its `classes` are not names")
    if given is not None and list(classes) != given:
        raise CheckpointError(f"{path} has class names of its own, and others than {classes_file}: leave the file out")
    shape = list(checkpoint["model"].values())[-1].shape
    if not shape:
        raise CheckpointError(f"{path}: its `model` does not end in a layer of outputs")
    outputs = shape[0]
    if outputs != len(classes):
        raise CheckpointError(f"{path} has {outputs} outputs, but {classes_file or 'it'} names {len(classes)} classes")
    return classes


def _preprocessing(checkpoint: Mapping[str, Any], path: str | os.PathLike) -> Preprocessing:
    try:
        if is_legacy(checkpoint):
            return Preprocessing.from_plain(_legacy_preprocessing(checkpoint["args"]))
        return Preprocessing.from_plain(checkpoint.get("preprocessing", {}))
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}") from error


def _legacy_preprocessing(args: Mapping[str, Any]) -> dict[str, Any]:
    """What the public sample solution does: its own flags, else its defaults, which are ours."""
    names = {"resize_size": "val_resize_size", "crop_size": "val_crop_size"}
    names |= {"clip_len": "clip_len", "frame_rate": "frame_rate"}
    given = {ours: args[theirs] for ours, theirs in names.items() if theirs in args}
    return {**Preprocessing().plain(), **given}
