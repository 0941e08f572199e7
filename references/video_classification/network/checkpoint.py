"""The checkpoint: what it holds, and its files. Only plain values and tensors, so that loading executes nothing."""

import argparse
import math
import os
import pickle
import re
import shutil
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from clips.preprocessing import Preprocessing
from runtime.errors import UserError, first_line, reason_of
from runtime.files import replaced_file

NEWEST, BEST = "checkpoint.pth", "model_best.pth"


class CheckpointError(UserError):
    """A file that is not a usable checkpoint; the message says why."""


@dataclass(frozen=True)
class AverageState:
    """A moving average of the weights, in a checkpoint."""

    updates: int  # that it has taken in
    is_used: bool  # whether it validated better, so that the checkpoint's `model` is the average
    model: dict[str, Tensor] | None = None  # the average, where the checkpoint's `model` is not


@dataclass(frozen=True)
class Checkpoint:
    """A trained network, how to use it, and what its training goes on from.

    The fields are the keys on disk; one that is None is left out. A checkpoint of the public sample solution has
    `model`, `optimizer`, `lr_scheduler`, `epoch` and `args`, but no class names.
    """

    model: dict[str, Tensor]  # the weights to use, with torchvision's names
    classes: list[str] | None = None  # names, in the order of the outputs
    preprocessing: Preprocessing | None = None  # what a clip goes through before the network
    args: dict[str, Any] | None = None  # the settings of the training, plain values
    layout: str | None = None  # of the weights in memory, a name of LAYOUTS
    temperature: float | None = None  # where calibrated: divides the logits before the softmax
    optimizer: dict[str, Any] | None = None  # state dicts of this and the next two
    lr_scheduler: dict[str, Any] | None = None
    scaler: dict[str, Any] | None = None
    rng: dict[str, Any] | None = None  # states of torch's generators, from `rng_state`
    training_model: dict[str, Tensor] | None = None  # the weights to train on, where `model` is their average
    model_ema: AverageState | None = None
    epoch: int | None = None  # the last finished epoch, from 0; -1 within the first
    clips_seen: int | None = None  # of the next epoch, where it was saved within one
    skipped_steps: int | None = None  # of that epoch, since their gradients were not finite
    epoch_totals: list[list[float]] | None = None  # sums of that epoch's steps, a list for each process
    epoch_order: str | None = None  # tells that epoch's order of clips from others
    best_videos: str | None = None  # tells the validation videos on which the best epoch was chosen from others
    best_video_acc1: float | None = None  # of all finished epochs, percent
    epochs_since_best: int | None = None
    world_size: int | None = None  # processes that trained together
    launch: list[str] | None = None  # by torchrun, that wrote it: only its restarts go on from it unasked
    averaged_from: list[str] | None = None  # files whose weights `model` is the mean of

    @property
    def is_legacy(self) -> bool:
        """Whether it is of the public sample solution's form."""
        return self.classes is None

    @property
    def seen_data(self) -> Path | None:
        """The data of a run with --train-on-val, whose val/ it was trained on too; None for another run."""
        args = self.args or {}
        return Path(args["data_path"]).resolve() if args.get("train_on_val") and "data_path" in args else None

    @property
    def num_outputs(self) -> int:
        """Of the last layer; 0 where the last entry of `model` is not a layer's."""
        shape = list(self.model.values())[-1].shape
        return shape[0] if shape else 0

    def write(self, path: Path) -> None:
        """Writes a file, whole or not at all. Raises CheckpointError where it cannot; what was there is untouched."""
        values = _present(self)
        if self.preprocessing is not None:
            values["preprocessing"] = self.preprocessing.plain()
        if self.model_ema is not None:
            values["model_ema"] = _present(self.model_ema)
        if self.optimizer is not None:
            values["scaler"] = self.scaler  # None too: readers of a training's checkpoint expect the key
        try:
            with replaced_file(path) as file:
                torch.save(values, file)
        except (OSError, RuntimeError) as error:  # torch's writer raises RuntimeError on a full disk
            reason = getattr(error, "strerror", None) or f"is the disk full? ({_in_words(error)})"
            raise CheckpointError(f"{path} cannot be written: {reason}") from error

    @classmethod
    def read(cls, path: str | os.PathLike) -> "Checkpoint":
        """Reads a file onto the CPU, unpickling nothing but plain values, tensors and an argparse Namespace.

        Raises CheckpointError: no such file, cut short, not a checkpoint with weights, or a value that cannot be.
        """
        return cls.of(read_plain(path), path)

    @classmethod
    def of(cls, content: Any, path: str | os.PathLike) -> "Checkpoint":
        """What `write` wrote, from the contents of the file at `path`. Raises CheckpointError."""
        if not isinstance(content, dict) or not isinstance(content.get("model"), dict) or not content["model"]:
            raise CheckpointError(f"{path} is not a training checkpoint: it has no `model`")
        if not all(isinstance(name, str) and isinstance(value, Tensor) for name, value in content["model"].items()):
            raise CheckpointError(f"{path} is not a training checkpoint: its `model` holds more than tensors")
        values = {field.name: content.get(field.name) for field in fields(cls)}
        values["model"] = {name.removeprefix("module."): value for name, value in content["model"].items()}
        if isinstance(values["args"], argparse.Namespace):
            values["args"] = vars(values["args"])
        try:
            return cls(**_checked(values))
        except ValueError as error:
            raise CheckpointError(f"{path}: {error}") from error


def read_plain(path: str | os.PathLike) -> Any:
    """The contents of a file of torch's, on the CPU: plain values, tensors and an argparse Namespace, nothing else.

    Raises CheckpointError, which says what is wrong with the file.
    """
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {reason_of(error)}") from error
    except Exception as error:  # whatever the bytes of another file make the unpickler do
        raise CheckpointError(f"{path} cannot be read as a checkpoint: {_in_words(error)}") from error


_TYPES: dict[type | tuple[type, ...], tuple[str, ...]] = {
    int: ("epoch", "clips_seen", "epochs_since_best", "world_size", "skipped_steps"),
    (int, float): ("best_video_acc1", "temperature"),
    dict: ("args", "optimizer", "lr_scheduler", "scaler", "rng", "training_model", "model_ema"),
    list: ("classes", "epoch_totals", "launch", "averaged_from"),
    str: ("layout", "epoch_order", "best_videos"),
}


def _present(record: "Checkpoint | AverageState") -> dict[str, Any]:
    """The fields that are not None, by name."""
    return {field.name: value for field in fields(record) if (value := getattr(record, field.name)) is not None}


def _checked(values: dict[str, Any]) -> dict[str, Any]:
    """The values of a file as fields. Raises ValueError, which names the key."""
    if isinstance(values["classes"], tuple):
        values["classes"] = list(values["classes"])
    classes = values["classes"]
    if classes is not None and not (isinstance(classes, list) and all(isinstance(name, str) for name in classes)):
        raise ValueError("its `classes` are not names")
    for types, names in _TYPES.items():
        for name in names:
            if values[name] is not None and not isinstance(values[name], types):
                raise ValueError(f"its `{name}` is {values[name]!r:.40}")
    temperature = values["temperature"]
    if temperature is not None and not 0 < temperature < math.inf:
        raise ValueError(f"its temperature is {temperature}, which is not a number above 0")
    if values["preprocessing"] is not None:
        values["preprocessing"] = Preprocessing.from_plain(values["preprocessing"])
    if (average := values["model_ema"]) is not None:
        if not {"updates", "is_used"} <= average.keys() or not (average["is_used"] or "model" in average):
            raise ValueError("its `model_ema` is incomplete")
        values["model_ema"] = AverageState(average["updates"], average["is_used"], average.get("model"))
    return values


def _in_words(error: Exception) -> str:
    if isinstance(error, pickle.UnpicklingError):  # torch's words are about its own settings
        if found := re.search(r"Unsupported global: GLOBAL (\S+)", str(error)):
            advice = "save the state dict alone, by torch.save(network.state_dict(), FILE)"
            return f"it holds more than plain values, a {found[1]}: {advice}"
        return "it is another kind of file, or holds more than plain values"
    if "TorchScript" in str(error):
        return "it is a TorchScript archive: save the network's state dict instead"
    return first_line(error)


def save_checkpoint(folder: Path, checkpoint: Checkpoint, is_best: bool, keep: int | None = None) -> Path:
    """Writes `model_<epoch>.pth`, and `checkpoint.pth` and, when best, `model_best.pth` as further names for it.

    Then removes the files of older epochs, except the `keep` newest; None keeps all. Raises CheckpointError where a
    file cannot be written; those of the epoch before are whole.
    """
    path = folder / f"model_{checkpoint.epoch}.pth"
    checkpoint.write(path)
    # The newest last: it tells the best accuracy, so the best must be there before it.
    for name in (BEST, NEWEST) if is_best else (NEWEST,):
        _name_also(path, folder / name)
    if keep is not None:
        written = epoch_checkpoints(folder)
        for old in written[written.index(path) :][keep:]:  # later ones are of a run that this one leaves behind
            old.unlink(missing_ok=True)
    return path


def keep_best(folder: Path, checkpoint: Checkpoint, next_epoch: int) -> bool:
    """Makes `model_best.pth` the best of the epochs before `next_epoch`.

    The run in `folder` goes on from `checkpoint`. The file may be of a later epoch, which the run now leaves behind;
    then it becomes a further name of the best before. Returns whether there is such a file.
    """
    path = folder / f"model_{(checkpoint.epoch or 0) - (checkpoint.epochs_since_best or 0)}.pth"
    for candidate in (folder / BEST, path):
        try:
            found = Checkpoint.read(candidate)
        except CheckpointError:
            continue
        if found.epoch is not None and found.epoch < next_epoch and found.best_video_acc1 == checkpoint.best_video_acc1:
            if candidate == path:
                _name_also(path, folder / BEST)
            return True
    return False


def epoch_checkpoints(folder: Path) -> list[Path]:
    """The epochs' files in a run's folder, the latest first."""
    numbered = [(int(path.stem[6:]), path) for path in folder.glob("model_*.pth") if path.stem[6:].isdigit()]
    return [path for _, path in sorted(numbered, reverse=True)]


def newest_valid_checkpoint(folder: Path) -> tuple[tuple[Path, Checkpoint] | None, list[str]]:
    """The newest checkpoint of a run's folder that can be read, with its file, and what is wrong with newer ones."""
    problems: list[str] = []
    for path in [folder / NEWEST, *epoch_checkpoints(folder), folder / BEST]:
        if path.exists():
            try:
                return (path, Checkpoint.read(path)), problems
            except CheckpointError as error:
                problems.append(str(error))
    return None, problems


def rng_state() -> dict[str, Any]:
    """The states of torch's generators, on the CPU and every GPU."""
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return {"torch": torch.get_rng_state(), "cuda": cuda}


def set_rng_state(state: dict[str, Any]) -> None:
    """Restores what `rng_state` gave; GPUs only where their number is the same."""
    torch.set_rng_state(state["torch"])
    if torch.cuda.is_available() and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda"])


def plain(value: Any) -> Any:
    """`value` as the plain values that a checkpoint may hold: paths and devices as text, tuples as lists."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value if isinstance(value, bool | int | float | str | type(None)) else str(value)


def _name_also(path: Path, name: Path) -> None:
    """Makes `name` a hard link to `path`, or a copy where the file system has none, in one rename."""
    temporary = name.with_name(f".{name.name}.{os.getpid()}.tmp")
    temporary.unlink(missing_ok=True)
    try:
        try:
            os.link(path, temporary)
        except OSError:
            shutil.copyfile(path, temporary)
        os.replace(temporary, name)
    except OSError as error:
        raise CheckpointError(f"{name} cannot be written: {reason_of(error)}") from error
    finally:
        temporary.unlink(missing_ok=True)
