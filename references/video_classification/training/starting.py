"""What a run begins with: the weights, the classes of the outputs, and what a checkpoint lets it continue."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn, optim

from network.checkpoint import Checkpoint, CheckpointError, keep_best, newest_valid_checkpoint, set_rng_state
from network.models import ModelError, build_model, check_state, freeze, load_state, pretrained_state
from network.weights import read_weights
from reporting.run_folder import continues
from runtime.distributed import broadcast_object, gather_objects, is_main, launch_ids, print_main, world_size
from training.options import is_file_name
from training.saving import RunProgress
from videos.folder import DatasetError, class_folders, ignored_folders

PRETRAINING_CLASSES = {359: "IG-65M", 400: "Kinetics-400", 487: "IG-65M"}  # by the number of classes


@dataclass(frozen=True)
class Start:
    """What the run begins with."""

    classes: list[str]  # of the outputs, in their order
    state: dict[str, Tensor] | None = None  # weights, None for random ones
    keep_head: bool = False  # whether the last layer is among them
    checkpoint: Checkpoint | None = None  # to continue, or to validate
    path: Path | None = None  # of that checkpoint

    def continues(self, folder: Path) -> bool:
        """Whether it goes on with the run in `folder`, and does not branch off another."""
        return continues(self.path, folder)


def start_from_checkpoint(path: Path, checkpoint: Checkpoint, folders: Sequence[str], trains: bool = False) -> Start:
    """The whole network of a checkpoint, with its classes; a legacy one has no names, and takes those of `folders`.

    To continue training, these are the trained weights, even where their average is the one to use. Raises
    CheckpointError where there are no names, and another number of outputs than there are classes.

    Args:
        path, checkpoint: the file, and what it holds.
        folders: the classes of the data.
        trains: whether training continues.
    """
    state = checkpoint.training_model if trains and checkpoint.training_model else checkpoint.model
    classes = checkpoint.classes
    if classes is None:
        if checkpoint.num_outputs != len(folders):
            raise CheckpointError(
                f"{path} has {checkpoint.num_outputs} outputs and no class names, and the data has {len(folders)} "
                "classes: give it the data that it was trained on"
            )
        print_main(f"{path} has no class names: its outputs are taken to be the sorted folder names")
        classes = list(folders)
    return Start(classes, state, keep_head=True, checkpoint=checkpoint, path=path)


def checkpoint_to_resume(resume: str, folder: Path, trains: bool = True) -> tuple[Path, Checkpoint] | None:
    """The checkpoint that --resume means: `auto` is the newest valid one in the run's folder, or None yet.

    Raises CheckpointError where none of those there can be read, or where there is none and the run does not train.
    """
    if resume != "auto":
        return Path(resume), Checkpoint.read(resume)
    found, problems = newest_valid_checkpoint(folder)
    for problem in problems:
        print_main(f"{problem}: taking the one before")
    if found is None and problems:
        raise CheckpointError(f"no checkpoint in {folder} can be read: begin anew with --overwrite instead of --resume")
    if found is None and not trains:
        raise CheckpointError(f"--resume auto: there is no checkpoint in {folder}")
    print_main(f"--resume auto: {found[0] if found else f'no checkpoint in {folder} yet, beginning anew'}")
    return found


def is_of_this_launch(folder: Path) -> bool:
    """Whether this launch of torchrun, in an attempt before, wrote the newest checkpoint of the run in `folder`."""
    found, _ = newest_valid_checkpoint(folder) if is_main() else (None, [])
    written_by = found[1].launch or [] if found is not None else []
    return broadcast_object(not set(written_by).isdisjoint(launch_ids()))  # what one process sees, for all


def count_best(start: Start, folder: Path, progress: RunProgress) -> None:
    """Has the best epoch counted anew where its checkpoint is not in `folder`, since the run reports on that file."""
    if start.checkpoint is None or progress.best_video_acc1 < 0:
        return
    is_kept = start.continues(folder) and is_main() and keep_best(folder, start.checkpoint, progress.epoch)
    if not broadcast_object(is_kept):
        print_main(
            f"The best epoch before has no checkpoint in {folder}: the best is counted from epoch {progress.epoch}"
        )
        progress.best_video_acc1, progress.epochs_since_best = -1.0, 0


def check_same_start(start: Start) -> None:
    """Raises CheckpointError unless all processes begin with the same: on several machines a folder may be two."""
    place = "none"
    if start.checkpoint is not None:
        progress = RunProgress.of(start.checkpoint)
        last = list(start.checkpoint.model.values())[-1]  # of another run it differs, be it as far
        weights = hashlib.sha256(last.float().numpy().tobytes()).hexdigest()[:8]
        place = f"epoch {progress.epoch}, {progress.clips_seen} of its clips seen, weights {weights}"
    places = gather_objects(place)
    if len(set(places)) > 1:
        told = "; ".join(f"rank {rank}: {place}" for rank, place in enumerate(places))
        raise CheckpointError(
            f"the processes do not find the same checkpoint ({told}): --output-dir must be on a disk that all share"
        )


def start_from_weights(model_name: str, weights: str | None, folders: Sequence[str]) -> Start:
    """Weights to fine-tune: by torchvision's name, in a file (whose head is kept for the same classes), or none.

    Raises ModelError where they are unknown, cannot be had, or are another network's; CheckpointError where a file has
    none that can be used.
    """
    if weights is None:
        return Start(list(folders))
    if not is_file_name(weights):
        return Start(list(folders), pretrained_state(model_name, weights))
    checkpoint = read_weights(weights, model_name)
    classes = checkpoint.classes or []
    keep_head = sorted(classes) == sorted(folders)
    start = Start(classes if keep_head else list(folders), checkpoint.model, keep_head)
    with torch.device("meta"):
        network = build_model(model_name, len(start.classes))
    try:
        check_state(network, checkpoint.model, keep_head)
    except ModelError as error:
        raise ModelError(f"{weights} does not fit --model {model_name}: {error}") from error
    told = "kept, its classes are the data's" if keep_head else f"replaced: {_why_replaced(checkpoint, folders)}"
    print_main(f"{weights}: its head is {told}")
    return start


def _why_replaced(checkpoint: Checkpoint, folders: Sequence[str]) -> str:
    """How many outputs a head has, of which data where that number tells, and why it is not the data's."""
    count = checkpoint.num_outputs
    outputs = f"{count} outputs" + (f" ({PRETRAINING_CLASSES[count]})" if count in PRETRAINING_CLASSES else "")
    if not checkpoint.classes:
        return f"it has {outputs} and no class names"
    return f"it has {outputs}, and its classes are not the data's {len(folders)}"


def folder_classes(data_path: Path, test_only: bool) -> list[str]:
    """The sorted folder names of train/; those of val/ where a model is only tested and there is no train/.

    Says which folders are no class, and warns of classes that will not be validated.
    """
    train, val = data_path / "train", data_path / "val"
    root = val if test_only and not train.is_dir() else train
    classes = class_folders(root)
    if not classes:
        raise DatasetError(f"{root} holds no videos: expected {root}/<class>/<video>.mp4")
    if ignored := ignored_folders(root):
        print_main(f"Not classes: {', '.join(f'{root / name} ({reason})' for name, reason in ignored)}")
    if not test_only and val.is_dir() and (absent := sorted(set(classes) - set(class_folders(val)))):
        print_main(f"WARNING: {val} has no video of {len(absent)} classes that are trained: {', '.join(absent)}")
    return classes


def load_model(name: str, start: Start, trainable: Sequence[str]) -> tuple[nn.Module, list[str]]:
    """The network, and the names of its frozen modules. Raises ModelError where the weights are another network's."""
    model = build_model(name, len(start.classes))
    if start.state is not None:
        load_state(model, start.state, start.keep_head)
    return model, freeze(model, trainable)


def restore(
    checkpoint: Checkpoint, optimizer: optim.Optimizer, scaler: torch.amp.GradScaler | None = None
) -> RunProgress:
    """Puts optimiser, scaler and generators where the checkpoint left them; says what cannot be carried over."""
    progress = RunProgress.of(checkpoint)
    lost = []
    if checkpoint.optimizer is not None and _is_state_of(optimizer, checkpoint.optimizer):
        settings = [{name: group[name] for name in group if name != "params"} for group in optimizer.param_groups]
        optimizer.load_state_dict(checkpoint.optimizer)
        for group, setting in zip(optimizer.param_groups, settings, strict=True):
            group.update(setting)  # as the flags say now
    else:
        lost.append("the optimiser's state, which is another optimiser's or over other parameters")
    if scaler is not None and checkpoint.scaler:
        scaler.load_state_dict(checkpoint.scaler)
    if checkpoint.is_legacy:
        lost += ["its rate schedule", "its random state", "its best accuracy"]
    elif checkpoint.rng is not None:  # an average of several checkpoints has none
        set_rng_state(checkpoint.rng)
    within = f" and {progress.clips_seen} clips of epoch {progress.epoch}" if progress.clips_seen else ""
    print_main(f"Resuming after epoch {progress.epoch - 1}{within}")
    if lost:
        print_main(f"Not carried over: {', '.join(lost)}")
    if (before := checkpoint.world_size or world_size()) != world_size():
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
