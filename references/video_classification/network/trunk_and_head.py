"""Splits a network into the frozen trunk, whose output can be cached, and the trained head."""

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from network.models import MODELS, ModelError, is_within

# Relative to the largest output: kernels may round differently, a wrong order of blocks differs far more.
SPLIT_TOLERANCE = 0.001


def trunk_blocks(model: nn.Module, trainable: Sequence[str]) -> list[str]:
    """The names of the blocks before the first trained one, in order, for `split`.

    Raises ModelError where the first block is trained.
    """
    leading = [] if "all" in trainable else _leading_blocks(model, trainable)
    if not leading:
        blocks = ", ".join(block for block, _ in model.named_children())
        raise ModelError(
            f"--trainable {' '.join(trainable)} trains the network from its first block on, so there is no frozen "
            f"trunk to cache (its blocks are {blocks})"
        )
    return leading


def split(model: nn.Module, blocks: Sequence[str]) -> tuple[nn.Module, nn.Module]:
    """Splits a network so that `head(trunk(clips))` is `model(clips)` where the blocks form a chain.

    Both share the modules of `model`, so training the head trains the network. The trunk has the blocks of
    `trunk_blocks`, and takes clips B C T H W to features; the head gives logits (B, num_classes). Call `check_split`
    once.
    """
    trunk = nn.Sequential(*(model.get_submodule(block) for block in blocks))
    return trunk, _without(model, blocks)


@torch.inference_mode()
def check_split(model: nn.Module, trunk: nn.Module, head: nn.Module, clip: Tensor) -> None:
    """Compares network and parts on a clip (1, C, T, H, W); leaves them in evaluation mode.

    Raises ModelError where their outputs differ, since the network's forward is not a chain of its blocks.
    """
    whole = model.eval()(clip)
    try:
        parts = head.eval()(trunk.eval()(clip))
        same = whole.shape == parts.shape and (whole - parts).abs().max() <= SPLIT_TOLERANCE * whole.abs().max()
    except (RuntimeError, ValueError, IndexError, TypeError, NotImplementedError):
        same = False
    if not same:
        raise ModelError(
            f"{type(model).__name__} cannot be split before its first trained block, since its forward is not a chain "
            "of its blocks: train it without --cache-features, or use one of " + ", ".join(MODELS)
        )


def _leading_blocks(module: nn.Module, trainable: Sequence[str], prefix: str = "") -> list[str]:
    """The blocks before the first trained one; descends into that one if it is a Sequential."""
    leading = []
    for name, child in module.named_children():
        block = prefix + name
        if any(is_within(block, trained) for trained in trainable):
            break
        if any(is_within(trained, block) for trained in trainable):
            if type(child).forward is nn.Sequential.forward:
                leading += _leading_blocks(child, trainable, f"{block}.")
            break
        leading.append(block)
    return leading


def _without(module: nn.Module, blocks: Sequence[str]) -> nn.Module:
    """A module that shares its submodules with `module`, with identities in place of `blocks`."""
    rest = copy.copy(module)
    rest._modules = dict(module._modules)
    for name, child in module.named_children():
        within = [block[len(name) + 1 :] for block in blocks if block.startswith(f"{name}.")]
        if name in blocks:
            rest._modules[name] = nn.Identity()
        elif within:
            rest._modules[name] = _without(child, within)
    return rest
