"""A network cut in two: the frozen trunk, whose output can be kept, and the trained head."""

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from network.models import MODELS, ModelError, _within

SPLIT_TOLERANCE = 0.001  # of the largest output: kernels may differ in rounding, another order of blocks in much more


def trunk_blocks(model: nn.Module, trainable: Sequence[str]) -> list[str]:
    """The blocks of a network before the first that is trained, in order: what `split` makes the trunk of.

    Raises:
        ModelError: its first block is trained already.
    """
    leading = [] if "all" in trainable else _leading_blocks(model, trainable)
    if not leading:
        blocks = ", ".join(block for block, _ in model.named_children())
        raise ModelError(
            f"--trainable {' '.join(trainable)} trains the network from its first block on: there is no frozen trunk "
            f"whose output could be kept (its blocks are {blocks})"
        )
    return leading


def split(model: nn.Module, blocks: Sequence[str]) -> tuple[nn.Module, nn.Module]:
    """Cuts a network in two: `head(trunk(clips))` is `model(clips)` where the blocks follow each other in a chain.

    Both share the modules of `model`: training the head trains the network. Call `check_split` once.

    Args:
        model: the network.
        blocks: of the trunk, from `trunk_blocks`.

    Returns:
        The trunk: clips B C T H W to features. The head: features to logits (B, num_classes).
    """
    trunk = nn.Sequential(*(model.get_submodule(block) for block in blocks))
    return trunk, _without(model, blocks)


@torch.inference_mode()
def check_split(model: nn.Module, trunk: nn.Module, head: nn.Module, clip: Tensor) -> None:
    """Tries a clip (1, C, T, H, W) on the whole and on its parts, all left in evaluation mode.

    Raises:
        ModelError: the two give different outputs, since the network's forward is more than a chain of its blocks.
    """
    whole = model.eval()(clip)
    try:
        parts = head.eval()(trunk.eval()(clip))
        same = whole.shape == parts.shape and (whole - parts).abs().max() <= SPLIT_TOLERANCE * whole.abs().max()
    except (RuntimeError, ValueError, IndexError, TypeError, NotImplementedError):
        same = False
    if not same:
        raise ModelError(
            f"{type(model).__name__} cannot be split before its first trained block: its forward is not a chain of its "
            "blocks; train it without --cache-features, or use one of " + ", ".join(MODELS)
        )


def _leading_blocks(module: nn.Module, trainable: Sequence[str], prefix: str = "") -> list[str]:
    """The names of the blocks before the first that is trained; looks into it where it is itself a chain of blocks."""
    leading = []
    for name, child in module.named_children():
        block = prefix + name
        if any(_within(block, trained) for trained in trainable):
            break
        if any(_within(trained, block) for trained in trainable):
            if type(child).forward is nn.Sequential.forward:
                leading += _leading_blocks(child, trainable, f"{block}.")
            break
        leading.append(block)
    return leading


def _without(module: nn.Module, blocks: Sequence[str]) -> nn.Module:
    """A module that shares all with `module`, but hands its input through in place of `blocks`."""
    rest = copy.copy(module)
    rest._modules = dict(module._modules)
    for name, child in module.named_children():
        within = [block[len(name) + 1 :] for block in blocks if block.startswith(f"{name}.")]
        if name in blocks:
            rest._modules[name] = nn.Identity()
        elif within:
            rest._modules[name] = _without(child, within)
    return rest
