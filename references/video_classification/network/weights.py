"""Reads weights in the forms that people have: this project's, torchvision's, other frameworks', safetensors."""

import os
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from network.checkpoint import Checkpoint, CheckpointError, read_plain
from network.models import build_model
from runtime.errors import MissingExtra, listed, require

CONTAINERS = ("model", "state_dict", "model_state")  # keys that a state dict is found under
PREFIXES = ("module.", "_orig_mod.", "model.")  # of wrappers: DistributedDataParallel, compile, Lightning
LISTED = 8  # keys that a message names


def read_weights(path: str | os.PathLike, model_name: str) -> Checkpoint:
    """The weights in a file, under torchvision's names, in the order of the layers of the network that they are for.

    A checkpoint of train.py is read whole. Of any other file only the weights are, and class names where it has them:
    from a state dict, or from one under `model`, `state_dict` or `model_state`. Raises CheckpointError where the file
    cannot be read or holds something else, MissingExtra for safetensors without the package, ModelError where there is
    no such network.
    """
    is_safetensors = os.fspath(path).endswith(".safetensors")
    content: Any = _read_safetensors(path) if is_safetensors else read_plain(path)
    if isinstance(content, dict) and {"model", "preprocessing"} <= content.keys():
        checkpoint = Checkpoint.of(content, path)
        return replace(checkpoint, model=_unwrapped(checkpoint.model, path))
    state = _in_order(_unwrapped(_state_in(content, path), path), model_name)
    classes = content.get("classes")
    named = isinstance(classes, list | tuple) and all(isinstance(name, str) for name in classes)
    checkpoint = Checkpoint(state, list(classes) if named else None)
    return checkpoint if named and checkpoint.num_outputs == len(classes) else Checkpoint(state)


def _read_safetensors(path: str | os.PathLike) -> dict[str, Tensor]:
    try:
        load_file = require("safetensors.torch").load_file
    except MissingExtra as error:
        raise MissingExtra(f"{path}: {error}") from error
    try:
        return load_file(path)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}") from error
    except Exception as error:  # the package's own kind, which has no common base
        raise CheckpointError(f"{path} cannot be read as safetensors: {error}") from error


def _state_in(content: Any, path: str | os.PathLike) -> Mapping[str, Tensor]:
    """The state dict that a file holds, or holds under one of CONTAINERS. Raises CheckpointError."""
    if _is_state(content):
        return content
    keys = [key for key in CONTAINERS if isinstance(content, dict) and isinstance(content.get(key), Mapping)]
    for key in keys:
        if _is_state(content[key]):
            return content[key]
    if keys:
        others = [str(name) for name, value in content[keys[0]].items() if not isinstance(value, Tensor)]
        found = (
            f"its `{keys[0]}` is empty"
            if not others
            else f"its `{keys[0]}` holds {listed(others, LISTED)}, not tensors"
        )
    else:
        found = f"found {_described(content)}"
    raise CheckpointError(
        f"{path} holds no weights that can be used: {found}; expected a state dict, names to tensors, or one under "
        f"{', '.join(f'`{key}`' for key in CONTAINERS)}"
    )


def _is_state(value: Any) -> bool:
    is_filled = isinstance(value, Mapping) and bool(value)
    return is_filled and all(isinstance(name, str) and isinstance(entry, Tensor) for name, entry in value.items())


def _described(content: Any) -> str:
    if isinstance(content, Tensor):
        return f"a single tensor of {'x'.join(map(str, content.shape)) or 'no dimensions'}"
    if isinstance(content, Mapping):
        return f"a dict with the keys {listed([str(key) for key in content], LISTED)}" if content else "an empty dict"
    return f"a {type(content).__name__}"


def _unwrapped(state: Mapping[str, Tensor], path: str | os.PathLike) -> dict[str, Tensor]:
    """The state under the network's own names. Raises CheckpointError where two entries would have one name."""
    unwrapped: dict[str, Tensor] = {}
    for name, value in state.items():
        own = name
        while own.startswith(PREFIXES):
            own = own.split(".", 1)[1]
        if own in unwrapped:
            raise CheckpointError(f"{path} holds {own} twice, under {name} and another name: keep one of the two")
        unwrapped[own] = value
    return unwrapped


def _in_order(state: dict[str, Tensor], model_name: str) -> dict[str, Tensor]:
    """The entries in the order of the network's layers, so that the last layer is last; what it lacks comes first."""
    with torch.device("meta"):
        order = {name: place for place, name in enumerate(build_model(model_name, num_classes=1).state_dict())}
    return dict(sorted(state.items(), key=lambda entry: order.get(entry[0], -1)))
