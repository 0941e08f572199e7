"""One module owns the checkpoint's format: save, load, validate. Plain values only, so that loading executes nothing.

    model                the weights to use, with torchvision's names
    optimizer, lr_scheduler, scaler   state dicts (None where there is none)
    epoch                the last finished epoch, from 0
    clips_seen, epoch_totals   how far the next epoch has come, where it was saved within
    best_video_acc1      percent
    epochs_since_best    that were no better
    world_size           processes that wrote it together
    training_model       the weights that training goes on from, where `model` is their average
    model_ema            of the average of the weights: updates, is_used, and model where `model` is not the average
    classes              names, in the order of the outputs
    preprocessing        what a clip must go through, `Preprocessing.plain()`
    args                 the run's settings, a dict of plain values
    layout               of the weights in memory, see engine.LAYOUTS
    rng                  states of torch's generators
    temperature          where calibrated: divides the logits before the softmax, see `calibration`

The public sample solution writes `model`, `optimizer`, `lr_scheduler`, `epoch` and an `args` Namespace; that form is
read too, see `is_legacy`.
"""

import argparse
import math
import os
import pickle
import shutil
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from runtime.errors import UserError
from runtime.files import replaced_file

NEWEST, BEST = "checkpoint.pth", "model_best.pth"


class CheckpointError(UserError):
    """A file that is not a usable checkpoint; the message says why."""


def write_checkpoint(path: Path, checkpoint: dict[str, Any]) -> None:
    """Writes one file, whole or not at all.

    Raises:
        CheckpointError: it cannot be written, for want of space for one; the file before is untouched.
    """
    try:
        with replaced_file(path) as file:
            torch.save(checkpoint, file)
    except (OSError, RuntimeError) as error:  # torch's writer raises RuntimeError on a full disk
        reason = error.strerror if isinstance(error, OSError) else f"is the disk full? ({str(error).splitlines()[0]})"
        raise CheckpointError(
            f"{path} cannot be written: {reason}. The checkpoint before it is whole: make room, then --resume auto"
        ) from error


def save_checkpoint(folder: Path, checkpoint: dict[str, Any], is_best: bool, keep: int | None = None) -> Path:
    """Writes `model_<epoch>.pth`, and `checkpoint.pth` and, when best, `model_best.pth` as further names for it.

    Then takes older epochs' files away, but for the `keep` newest; None keeps all.

    Raises:
        CheckpointError: see `write_checkpoint`.
    """
    path = folder / f"model_{checkpoint['epoch']}.pth"
    write_checkpoint(path, checkpoint)
    # The newest last: it tells the best accuracy, so the best must be there before it.
    for name in (BEST, NEWEST) if is_best else (NEWEST,):
        _name_also(path, folder / name)
    if keep is not None:
        written = epoch_checkpoints(folder)
        for old in written[written.index(path) :][keep:]:  # later ones are of a run that this one leaves behind
            old.unlink(missing_ok=True)
    return path


def epoch_checkpoints(folder: Path) -> list[Path]:
    """The epochs' files in a run's folder, the latest first."""
    numbered = [(int(path.stem[6:]), path) for path in folder.glob("model_*.pth") if path.stem[6:].isdigit()]
    return [path for _, path in sorted(numbered, reverse=True)]


def newest_valid_checkpoint(folder: Path) -> tuple[Path | None, list[str]]:
    """The newest checkpoint of a run's folder that can be read, and what is wrong with newer ones."""
    problems = []
    for path in [folder / NEWEST, *epoch_checkpoints(folder), folder / BEST]:
        if path.exists():
            try:
                load_checkpoint(path)
                return path, problems
            except CheckpointError as error:
                problems.append(str(error))
    return None, problems


def load_checkpoint(path: str | os.PathLike) -> dict[str, Any]:
    """Reads a checkpoint onto the CPU, unpickling nothing but plain values, tensors and an argparse Namespace.

    Raises:
        CheckpointError: no such file, cut short, or not a checkpoint with weights.
    """
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}") from error
    except Exception as error:  # whatever the bytes of another file make the unpickler do
        raise CheckpointError(f"{path} cannot be read as a checkpoint: {_first_line(error)}") from error
    if not isinstance(checkpoint, dict) or not isinstance(checkpoint.get("model"), dict) or not checkpoint["model"]:
        raise CheckpointError(f"{path} is not a training checkpoint: it has no `model`")
    if not all(isinstance(name, str) and isinstance(value, Tensor) for name, value in checkpoint["model"].items()):
        raise CheckpointError(f"{path} is not a training checkpoint: its `model` holds more than tensors")
    model = {name.removeprefix("module."): value for name, value in checkpoint["model"].items()}
    args = checkpoint.get("args")
    args = vars(args) if isinstance(args, argparse.Namespace) else args
    return {**checkpoint, "model": model, "args": args if isinstance(args, dict) else {}}


def _first_line(error: Exception) -> str:
    if isinstance(error, pickle.UnpicklingError):  # torch's words are about its own settings
        return "it is another kind of file, or holds more than plain values"
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def temperature_of(checkpoint: dict[str, Any] | None, path: str | os.PathLike | None) -> float:
    """The temperature of a checkpoint, 1 where it has none. Raises CheckpointError where it is not above 0."""
    temperature = (checkpoint or {}).get("temperature", 1.0)
    if not isinstance(temperature, int | float) or not 0 < temperature < math.inf:
        raise CheckpointError(f"{path}: its temperature is {temperature}, which is not a number above 0")
    return float(temperature)


def save_calibrated(folder: Path, path: str | os.PathLike, checkpoint: dict[str, Any], temperature: float) -> Path:
    """Writes the checkpoint of `path` again, with a temperature, as `folder`/<its stem>_calibrated.pth.

    Raises:
        CheckpointError: it cannot be written.
    """
    calibrated = folder / f"{Path(path).stem}_calibrated.pth"
    try:
        with replaced_file(calibrated) as file:
            torch.save({**checkpoint, "temperature": temperature}, file)
    except (OSError, RuntimeError) as error:
        raise CheckpointError(f"{calibrated} cannot be written: {error}") from error
    return calibrated


def is_legacy(checkpoint: dict[str, Any]) -> bool:
    """Whether it is of the public sample solution's form: weights and an epoch, but no class names."""
    return "classes" not in checkpoint


def training_state(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    scheduler: torch.optim.lr_scheduler.LRScheduler,
    scaler: torch.amp.GradScaler | None,
) -> dict[str, Any]:
    """The part of a checkpoint that changes with every step."""
    return {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "lr_scheduler": scheduler.state_dict(),
        "scaler": scaler.state_dict() if scaler else None,
        "rng": rng_state(),
    }


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
        raise CheckpointError(f"{name} cannot be written: {error.strerror}") from error
    finally:
        temporary.unlink(missing_ok=True)
