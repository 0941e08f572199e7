"""What a run begins with: the weights, the classes of the outputs, and what a checkpoint lets it continue. A room of
its own between checkpoints and scripts, since training, validation and export must answer it in one way.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from checkpoint import CheckpointError, is_legacy, load_checkpoint, newest_valid_checkpoint, set_rng_state
from datasets import class_folders
from distributed import print_main
from models import build_model, freeze, load_state, pretrained_state
from saving import RunProgress
from torch import Tensor, nn, optim


@dataclass
class Start:
    """What the run begins with.

    classes: of the outputs, in their order. state: weights, None for random ones. keep_head: whether the last layer is
    among them. checkpoint: to continue, if any.
    """

    classes: list[str]
    state: dict[str, Tensor] | None = None
    keep_head: bool = False
    checkpoint: dict[str, Any] | None = None


def start_from_checkpoint(path: str, folders: Sequence[str], trains: bool = False) -> Start:
    """The whole network of a checkpoint, with its classes; a legacy one has no names, and takes those of `folders`.

    To train on, it is the weights themselves even where their average is the one to use.

    Raises:
        CheckpointError: not a checkpoint, or one without names and with another number of outputs.
    """
    checkpoint = load_checkpoint(path)
    if not is_legacy(checkpoint):
        state = checkpoint.get("training_model", checkpoint["model"]) if trains else checkpoint["model"]
        return Start(list(checkpoint["classes"]), state, keep_head=True, checkpoint=checkpoint)
    outputs = len(list(checkpoint["model"].values())[-1])
    if outputs != len(folders):
        raise CheckpointError(
            f"{path} has {outputs} outputs and no class names, and the data has {len(folders)} classes: "
            "give it the data that it was trained on"
        )
    print_main(f"{path} has no class names: its outputs are taken to be the sorted folder names")
    return Start(list(folders), checkpoint["model"], keep_head=True, checkpoint=checkpoint)


def checkpoint_to_resume(resume: str | None, folder: Path) -> str | None:
    """The file that --resume means: `auto` is the newest valid checkpoint in the run's folder, or none yet.

    Raises:
        CheckpointError: there are checkpoints, and none can be read.
    """
    if resume != "auto":
        return resume
    found, problems = newest_valid_checkpoint(folder)
    for problem in problems:
        print_main(f"{problem}: taking the one before")
    if found is None and problems:
        raise CheckpointError(f"no checkpoint in {folder} can be read: begin anew with --overwrite")
    print_main(f"--resume auto: {found or f'no checkpoint in {folder} yet, beginning anew'}")
    return None if found is None else str(found)


def start_from_weights(model_name: str, weights: str | None, folders: Sequence[str]) -> Start:
    """Weights to fine-tune: by torchvision's name, a checkpoint's file, or none.

    A checkpoint's head is kept where its class names are the data's.

    Raises:
        ModelError: unknown weights, or weights that cannot be had.
        CheckpointError: a file that is not a checkpoint.
    """
    if weights is None:
        return Start(list(folders))
    if not is_file_name(weights):
        return Start(list(folders), pretrained_state(model_name, weights))
    checkpoint = load_checkpoint(weights)
    classes = checkpoint.get("classes") or []
    if sorted(classes) == sorted(folders):
        print_main(f"{weights}: its head is kept, its classes are the data's")
        return Start(list(classes), checkpoint["model"], keep_head=True)
    print_main(f"{weights}: its head is replaced, its {len(classes)} classes are not the data's {len(folders)}")
    return Start(list(folders), checkpoint["model"])


def is_file_name(weights: str) -> bool:
    """Whether --weights means a file rather than a name of torchvision's."""
    return Path(weights).exists() or os.sep in weights or weights.endswith((".pth", ".pt"))


def folder_classes(data_path: Path, test_only: bool) -> list[str]:
    """The sorted folder names of train/; those of val/ where a model is only tested and there is no train/."""
    train = data_path / "train"
    return class_folders(data_path / "val" if test_only and not train.is_dir() else train)


def load_model(name: str, start: Start, trainable: Sequence[str]) -> tuple[nn.Module, list[str]]:
    """The network, and the names of its frozen modules. Raises ModelError where the weights are another network's."""
    model = build_model(name, len(start.classes))
    if start.state is not None:
        load_state(model, start.state, start.keep_head)
    return model, freeze(model, trainable)


def restore(checkpoint: dict[str, Any], optimizer: optim.Optimizer, scaler: Any | None) -> RunProgress:
    """Puts optimiser, scaler and generators where the checkpoint left them; says what cannot be carried over."""
    progress = RunProgress.of(checkpoint)
    lost = []
    try:
        optimizer.load_state_dict(checkpoint["optimizer"])
    except (KeyError, ValueError, TypeError):
        lost.append("the optimiser's state, which is over other parameters")
    if scaler is not None and checkpoint.get("scaler"):
        scaler.load_state_dict(checkpoint["scaler"])
    if is_legacy(checkpoint):
        lost += ["its rate schedule", "its random state", "its best accuracy"]
    else:
        if "rng" in checkpoint:  # an average of several checkpoints has none
            set_rng_state(checkpoint["rng"])
    within = f" and {progress.clips_seen} clips of epoch {progress.epoch}" if progress.clips_seen else ""
    print_main(f"Resuming after epoch {progress.epoch - 1}{within}")
    if lost:
        print_main(f"Not carried over: {', '.join(lost)}")
    return progress
