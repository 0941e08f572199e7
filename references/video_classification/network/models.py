"""The networks: torchvision's video models with a new last layer, and which of their parts are trained."""

from collections.abc import Sequence
from urllib.error import URLError

import torch
from torch import Tensor, nn
from torchvision import models
from torchvision.models import video as video_models

from runtime.errors import UserError

MODELS = ("r2plus1d_18", "r3d_18", "mc3_18")  # those that are tested; torchvision's others work where their sizes fit
DEFAULT_TRAINABLE = ("layer4", "fc")
# By the list in torch.use_deterministic_algorithms. AdaptiveAvgPool3d is in it too, but to a size of 1, as the networks
# have it, torch computes a mean.
NONDETERMINISTIC_ON_CUDA = (nn.MaxPool3d, nn.AvgPool3d)


class ModelError(UserError):
    """A network, block or weights that do not exist or do not fit; the message lists what there is."""


def build_model(name: str, num_classes: int) -> nn.Module:
    """A randomly initialized torchvision video model: B C T H W float to (B, num_classes).

    Raises:
        ModelError: torchvision has no such model.
    """
    known = models.list_models(module=video_models)
    if name not in known:
        raise ModelError(f"torchvision has no video model {name!r}; it has {', '.join(known)}")
    return models.get_model(name, weights=None, num_classes=num_classes)


def check_fits(name: str, num_classes: int, clip_len: int, crop_size: Sequence[int], trainable: Sequence[str]) -> None:
    """Checks, on the meta device, that the network accepts clips of this size and has the blocks to train.

    Args:
        name: of the network.
        num_classes: its outputs.
        clip_len: frames per clip.
        crop_size: height and width.
        trainable: names of blocks, or `all`.

    Raises:
        ModelError: there is no such block, or the size does not fit; the message lists both.
    """
    with torch.device("meta"):
        model = build_model(name, num_classes).eval()
        clip = torch.empty(1, 3, clip_len, *crop_size)
    size = "x".join(map(str, (clip_len, *crop_size)))
    blocks = ", ".join(block for block, _ in model.named_children())
    weights = [name for name, _ in model.named_parameters()]
    unknown = [b for b in trainable if b != "all" and (not b or not any(is_within(name, b) for name in weights))]
    if unknown:
        raise ModelError(
            f"--trainable names {', '.join(map(repr, unknown))}, but {name} has no such block with weights: its blocks "
            f"are {blocks} (or all); the clips are {size} (frames x height x width)"
        )
    try:
        model(clip)
    except (RuntimeError, ValueError, IndexError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ModelError(
            f"{name} does not accept clips of {size} (frames x height x width): {reason}; change --clip-len, the crop "
            f"sizes or the model. Its blocks, for --trainable, are {blocks}"
        ) from error


def check_deterministic(
    name: str, num_classes: int, clip_len: int, crop_size: Sequence[int], trainable: Sequence[str]
) -> None:
    """Checks, on the meta device, that every gradient of the network has a deterministic form on CUDA.

    Args: as `check_fits`.

    Raises:
        ModelError: a layer that gradients pass through has none; torch would raise in the first step.
    """
    with torch.device("meta"):
        model = build_model(name, num_classes).eval()
        clip = torch.empty(1, 3, clip_len, *crop_size)
    freeze(model, trainable)
    passed: list[nn.Module] = []

    def note(module: nn.Module, _: object, output: Tensor) -> None:
        if output.requires_grad:
            passed.append(module)

    for module in model.modules():
        if isinstance(module, NONDETERMINISTIC_ON_CUDA):
            module.register_forward_hook(note)
    model(clip)
    if passed:
        raise ModelError(
            f"--use-deterministic-algorithms: {name} has {type(passed[0]).__name__} in what is trained, whose gradient "
            "torch computes in no fixed order on CUDA: train without the flag, train fewer blocks, or use --device cpu"
        )


def pretrained_state(name: str, weights: str) -> dict[str, Tensor]:
    """The state dict of torchvision's weights, by short (`KINETICS400_V1`) or full enum name; downloaded once.

    Raises:
        ModelError: unknown weights, or weights that cannot be downloaded; the message says where to put the file.
    """
    enum = models.get_model_weights(name)
    short = weights.removeprefix(f"{enum.__name__}.")
    if short not in enum.__members__:
        known = ", ".join(f"{enum.__name__}.{member}" for member in enum.__members__)
        raise ModelError(f"--weights {weights} is neither a file nor weights of {name}, which are {known or 'none'}")
    entry = enum[short]
    try:
        return dict(entry.get_state_dict(progress=True, check_hash=True))
    except (URLError, OSError) as error:
        file = f"{torch.hub.get_dir()}/checkpoints/{entry.url.rsplit('/', 1)[-1]}"
        raise ModelError(
            f"{weights} cannot be downloaded ({error}): fetch {entry.url} elsewhere and put it at {file}"
        ) from error
    except RuntimeError as error:
        raise ModelError(f"{weights} is damaged ({error}): delete the file and try again") from error


def head_name(model: nn.Module) -> str:
    """The name of the last layer, whose outputs are the classes: `fc` in the ResNets."""
    names = [name for name, module in model.named_modules() if isinstance(module, nn.Linear | nn.Conv3d)]
    return names[-1]


def load_state(model: nn.Module, state: dict[str, Tensor], keep_head: bool) -> None:
    """Loads `state` into `model`, without the last layer unless `keep_head`.

    Raises:
        ModelError: the state belongs to another network.
    """
    head = f"{head_name(model)}."
    wanted = {name: value for name, value in state.items() if keep_head or not name.startswith(head)}
    expected = model.state_dict()
    missing = [name for name in expected if name not in wanted and (keep_head or not name.startswith(head))]
    extra = [name for name in wanted if name not in expected]
    shapes = [name for name in wanted if name in expected and wanted[name].shape != expected[name].shape]
    if wrong := missing + extra + shapes:
        raise ModelError(f"the weights are another network's: {len(wrong)} entries differ, such as {wrong[0]}")
    model.load_state_dict({**expected, **wanted})


def freeze(model: nn.Module, trainable: Sequence[str]) -> list[str]:
    """Freezes every parameter outside the blocks in `trainable`, which may be `all`.

    Returns:
        Names of the frozen modules, for `set_train_mode`.
    """
    if "all" in trainable:
        return []
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(any(is_within(name, block) for block in trainable))
    # A module that holds a trained block is not frozen itself.
    return [
        name
        for name, _ in model.named_modules()
        if name and not any(is_within(name, block) or is_within(block, name) for block in trainable)
    ]


def set_train_mode(model: nn.Module, frozen: Sequence[str]) -> None:
    """Sets training mode, but evaluation mode for frozen modules: their BatchNorm must not drift or use the batch."""
    model.train()
    modules = dict(model.named_modules())
    for name in frozen:
        modules[name].eval()


def parameter_counts(model: nn.Module) -> tuple[int, int]:
    """The number of trainable parameters, and of all."""
    counts = [(parameter.numel(), parameter.requires_grad) for parameter in model.parameters()]
    return sum(count for count, is_trained in counts if is_trained), sum(count for count, _ in counts)


def is_within(name: str, block: str) -> bool:
    """Whether a module or parameter belongs to a block, by their dotted names."""
    return name == block or name.startswith(f"{block}.")
