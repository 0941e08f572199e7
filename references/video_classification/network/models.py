"""The networks: torchvision's video models and R(2+1)D-34 with a new last layer; which of their parts are trained."""

from collections.abc import Callable, Mapping, Sequence
from urllib.error import URLError

import torch
from torch import Tensor, nn
from torchvision import models
from torchvision.models import video as video_models
from torchvision.models.video.resnet import BasicBlock, Conv2Plus1D, R2Plus1dStem, VideoResNet

from runtime.errors import UserError, first_line, listed

# Those that train, export and quantize; torchvision's others train where their sizes fit.
MODELS = ("r2plus1d_18", "r2plus1d_34", "r3d_18", "mc3_18")
DEFAULT_TRAINABLE = ("layer4", "fc")
# By the list in torch.use_deterministic_algorithms. AdaptiveAvgPool3d is in it too, but to a size of 1, as the networks
# have it, torch computes a mean.
NONDETERMINISTIC_ON_CUDA = (nn.MaxPool3d, nn.AvgPool3d)
LISTED = 6  # entries of a state that a message names, of each kind


class ModelError(UserError):
    """A network, block or weights that do not exist or do not fit; the message lists what there is."""


def r2plus1d_34(num_classes: int) -> nn.Module:
    """R(2+1)D-34 (arXiv 1711.11248) as the converted IG-65M weights of github.com/moabitcoin/ig65m-pytorch expect it.

    Where a stage begins, Caffe2 counts the channels of the second convolution's middle from its inputs, and torchvision
    from the block's; and Caffe2's BatchNorm has another epsilon.
    """
    model = VideoResNet(BasicBlock, [Conv2Plus1D] * 4, [3, 4, 6, 3], R2Plus1dStem, num_classes=num_classes)
    for stage, planes, midplanes in ((model.layer2, 128, 288), (model.layer3, 256, 576), (model.layer4, 512, 1152)):
        stage[0].conv2[0] = Conv2Plus1D(planes, planes, midplanes)
        for conv in (stage[0].conv2[0][0], stage[0].conv2[0][3]):
            nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")  # as torchvision its others
    for module in model.modules():
        if isinstance(module, nn.BatchNorm3d):
            module.eps = 1e-3
    return model


FURTHER_MODELS: dict[str, Callable[[int], nn.Module]] = {"r2plus1d_34": r2plus1d_34}  # that torchvision does not have


def build_model(name: str, num_classes: int) -> nn.Module:
    """A randomly initialized video model: B C T H W float to (B, num_classes). Raises ModelError for other names."""
    if name in FURTHER_MODELS:
        return FURTHER_MODELS[name](num_classes)
    known = models.list_models(module=video_models)
    if name not in known:
        raise ModelError(f"there is no video model {name!r}; there are {', '.join(sorted([*known, *FURTHER_MODELS]))}")
    return models.get_model(name, weights=None, num_classes=num_classes)


def check_fits(name: str, num_classes: int, clip_len: int, crop_size: Sequence[int], trainable: Sequence[str]) -> None:
    """Checks, on the meta device, that the network accepts clips of this size and has the blocks to train.

    Raises ModelError where there is no such block, or the size does not fit; the message lists both.

    Args:
        name, num_classes: of the network, and its outputs.
        clip_len, crop_size: frames per clip, and their height and width.
        trainable: names of blocks, or `all`.
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
        raise ModelError(
            f"{name} does not accept clips of {size} (frames x height x width): {first_line(error)}; change "
            f"--clip-len, the crop sizes or the model. Its blocks, for --trainable, are {blocks}"
        ) from error


def check_deterministic(
    name: str, num_classes: int, clip_len: int, crop_size: Sequence[int], trainable: Sequence[str]
) -> None:
    """Checks, on the meta device, that every gradient of the network has a deterministic form on CUDA.

    Raises ModelError where a layer that gradients pass through has none; torch would raise in the first step. Arguments
    are those of `check_fits`.
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

    Raises ModelError: unknown, or they cannot be downloaded; the message says where to put the file.
    """
    if name in FURTHER_MODELS:
        raise ModelError(
            f"--weights {weights}: torchvision has no weights of {name}: give a file, such as those that "
            "https://github.com/moabitcoin/ig65m-pytorch names"
        )
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


def load_state(model: nn.Module, state: Mapping[str, Tensor], keep_head: bool) -> None:
    """Loads `state` into `model`, without the last layer unless `keep_head`.

    Raises ModelError as `check_state`; the model is then untouched.
    """
    check_state(model, state, keep_head)
    expected, head = model.state_dict(), f"{head_name(model)}."
    wanted = {name: value for name, value in state.items() if keep_head or not name.startswith(head)}
    model.load_state_dict({**expected, **wanted})


def check_state(model: nn.Module, state: Mapping[str, Tensor], keep_head: bool) -> None:
    """Checks that `state` has what `model` needs and nothing else; the last layer counts with `keep_head` only.

    Raises ModelError, which lists entries by name and shape.
    """
    head = f"{head_name(model)}."
    expected, given = (
        {name: value for name, value in entries.items() if keep_head or not name.startswith(head)}
        for entries in (model.state_dict(), state)
    )
    # Files from before BatchNorm counted its batches lack the counts, which no network here reads.
    lacking = [name for name in expected if name not in given and not name.endswith(".num_batches_tracked")]
    shapes = [name for name in expected if name in given and given[name].shape != expected[name].shape]
    problems = {
        "lacks": [f"{name} {_shape(expected[name])}" for name in lacking],
        "has also": [f"{name} {_shape(value)}" for name, value in given.items() if name not in expected],
        "has in other shapes": [f"{n} {_shape(given[n])} instead of {_shape(expected[n])}" for n in shapes],
    }
    if any(problems.values()):
        told = "; it ".join(f"{what} {listed(names, LISTED)}" for what, names in problems.items() if names)
        raise ModelError(f"the weights are another network's: the state {told}")


def _shape(value: Tensor) -> str:
    return "x".join(map(str, value.shape)) or "scalar"


def freeze(model: nn.Module, trainable: Sequence[str]) -> list[str]:
    """Freezes what is outside the blocks in `trainable`, which may be `all`; returns names for `set_train_mode`."""
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
