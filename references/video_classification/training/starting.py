"""What a run begins with: the weights, the classes of the outputs, and what a checkpoint lets it continue. A room of
its own between checkpoints and scripts, since training, validation and export must answer it in one way.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn, optim

from network.checkpoint import CheckpointError, is_legacy, load_checkpoint, newest_valid_checkpoint, set_rng_state
from network.models import build_model, freeze, load_state, pretrained_state
from runtime.distributed import gather_objects, print_main, world_size
from training.options import is_file_name
from training.saving import RunProgress
from videos.folder import class_folders


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


def checkpoint_to_resume(resume: str | None, folder: Path, trains: bool = True) -> str | None:
    """The file that --resume means: `auto` is the newest valid checkpoint in the run's folder, or none yet.

    Raises:
        CheckpointError: there are checkpoints, and none can be read; or there is none, and it is not to train.
    """
    if resume != "auto":
        return resume
    found, problems = newest_valid_checkpoint(folder)
    for problem in problems:
        print_main(f"{problem}: taking the one before")
    if found is None and problems:
        raise CheckpointError(f"no checkpoint in {folder} can be read: begin anew with --overwrite")
    if found is None and not trains:
        raise CheckpointError(f"--resume auto: there is no checkpoint in {folder}")
    print_main(f"--resume auto: {found or f'no checkpoint in {folder} yet, beginning anew'}")
    return None if found is None else str(found)


def check_same_start(start: Start) -> None:
    """Raises CheckpointError unless all processes begin with the same: on several machines a folder may be two."""
    progress = RunProgress.of(start.checkpoint or {})
    places = gather_objects((progress.epoch, progress.clips_seen) if start.checkpoint else None)
    if len(set(places)) > 1:
        told = ", ".join(
            f"rank {rank}: {f'epoch {place[0]}' if place else 'none'}" for rank, place in enumerate(places)
        )
        raise CheckpointError(
            f"the processes do not find the same checkpoint ({told}): --output-dir must be on a disk that all share"
        )


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
    why = f"its {len(classes)} classes are not the data's {len(folders)}" if classes else "it has no class names"
    print_main(f"{weights}: its head is replaced, {why}")
    return Start(list(folders), checkpoint["model"])


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
    if _is_state_of(optimizer, checkpoint.get("optimizer")):
        settings = [{name: group[name] for name in group if name != "params"} for group in optimizer.param_groups]
        optimizer.load_state_dict(checkpoint["optimizer"])
        for group, setting in zip(optimizer.param_groups, settings, strict=True):
            group.update(setting)  # as the flags say now
    else:
        lost.append("the optimiser's state, which is another optimiser's or over other parameters")
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
    if (before := checkpoint.get("world_size", world_size())) != world_size():
        print_main(
            f"The checkpoint was written by {before} processes, now there are {world_size()}: epochs show the same "
            "clips in the same order, dealt out to batches of another size"
            + (f"; the rest of epoch {progress.epoch} too" if progress.clips_seen else "")
        )
    return progress


def _is_state_of(optimizer: optim.Optimizer, state: Any) -> bool:
    """Whether a saved state is of this kind of optimiser, over parameters of these shapes."""
    try:
        saved = [group["params"] for group in state["param_groups"]]
        own = [group["params"] for group in optimizer.param_groups]
        if [len(group) for group in saved] != [len(group) for group in own]:
            return False
        if ("betas" in state["param_groups"][0]) != ("betas" in optimizer.param_groups[0]):  # adamw's, not sgd's
            return False
        parameters = dict(zip(sum(saved, []), sum(own, []), strict=True))
        kept = [(parameters[number], entry) for number, entry in state["state"].items()]
        return all(
            value.shape == parameter.shape
            for parameter, entry in kept
            for value in entry.values()
            if isinstance(value, Tensor) and value.dim()
        )
    except (KeyError, TypeError, AttributeError, IndexError):
        return False
