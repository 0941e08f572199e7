"""A network as a device runs it: tensor layout and normalisation at its entry, BatchNorm folded, written as ONNX."""

import json
import logging
import os
from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from clips.preprocessing import Preprocessing
from network.trained_model import TrainedModel
from runtime.errors import UserError, require

INPUT, OUTPUT = "video", "class_logits"
DEFAULT_OPSET = 18  # what torch's exporter writes without conversion

# Where the axes of N C T H W are to be found in a layout.
LAYOUTS = {"NCTHW": (0, 1, 2, 3, 4), "NTHWC": (0, 4, 1, 2, 3)}
NORMALIZE = ("inside", "outside")

# What the compilers of mobile NPUs take.
ALLOWED_OPERATORS = {
    *("Conv", "Relu", "Add", "Sub", "Mul", "Div", "Gemm", "MatMul"),
    *("AveragePool", "GlobalAveragePool", "MaxPool", "GlobalMaxPool", "ReduceMean"),
    *("Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze", "Identity"),
}
QUANTIZATION_OPERATORS = {"QuantizeLinear", "DequantizeLinear"}


class ExportError(UserError):
    """An export that is not to be trusted, or cannot be made; the message says why."""


@dataclass(frozen=True)
class DeviceFormat:
    """What the exported network takes.

    layout: a name of LAYOUTS. normalize: whether mean and deviation are taken out inside the network (input in [0, 1])
    or outside. dynamic_batch: any number of clips, or one. opset: of ONNX.
    """

    layout: str = "NCTHW"
    normalize: str = "inside"
    dynamic_batch: bool = False
    opset: int = DEFAULT_OPSET

    def tensor(self, clips: np.ndarray, preprocessing: Preprocessing) -> np.ndarray:
        """What to give the network for clips, float32 (B, T, H, W, C) in [0, 1]."""
        if self.normalize == "outside":
            clips = (clips - np.float32(preprocessing.mean)) / np.float32(preprocessing.std)
        from_clips = LAYOUTS["NTHWC"]  # N C T H W out of N T H W C
        to_layout = np.argsort(LAYOUTS[self.layout])
        return np.ascontiguousarray(clips.transpose(from_clips).transpose(to_layout), np.float32)

    def shape(self, preprocessing: Preprocessing, batch_size: int) -> tuple[int, ...]:
        """Of the input."""
        sizes = (batch_size, *preprocessing.clip_shape)
        return tuple(sizes[axis] for axis in np.argsort(LAYOUTS[self.layout]))


class DeviceNetwork(nn.Module):
    """`network` behind the entry that `device_format` asks for: (B, ...) in its layout to (B, num_classes) logits."""

    def __init__(self, network: nn.Module, device_format: DeviceFormat, preprocessing: Preprocessing) -> None:
        super().__init__()
        self.network = network
        self._axes = LAYOUTS[device_format.layout]
        self._normalizes = device_format.normalize == "inside"
        for name in ("mean", "std"):
            self.register_buffer(name, torch.tensor(getattr(preprocessing, name)).view(3, 1, 1, 1))

    def forward(self, video: Tensor) -> Tensor:
        if self._axes != LAYOUTS["NCTHW"]:
            video = video.permute(self._axes)
        if self._normalizes:
            video = (video - self.mean) / self.std
        return self.network(video)


class _LayerTracer(fx.Tracer):
    """Takes torchvision's own kinds of Conv3d for the layers that they are."""

    def is_leaf_module(self, module: nn.Module, name: str) -> bool:
        return isinstance(module, nn.Conv3d) or super().is_leaf_module(module, name)


def fold_batch_norm(network: nn.Module) -> fx.GraphModule:
    """A network in evaluation mode with every BatchNorm folded into the convolution before it; the given one is kept.

    Raises:
        ExportError: a network whose forward pass cannot be traced.
    """
    try:
        graph = _LayerTracer().trace(network)
    except (fx.proxy.TraceError, TypeError) as error:
        raise ExportError(f"{type(network).__name__} cannot be traced: {error}") from error
    traced = fx.GraphModule(network, graph)
    modules = dict(traced.named_modules())
    for node in list(traced.graph.nodes):
        norm = modules.get(node.target) if node.op == "call_module" else None
        before = node.args[0] if isinstance(norm, nn.BatchNorm3d) else None
        conv = modules.get(before.target) if isinstance(before, fx.Node) and before.op == "call_module" else None
        if isinstance(conv, nn.Conv3d) and len(before.users) == 1:
            traced.set_submodule(before.target, fuse_conv_bn_eval(conv, norm))
            node.replace_all_uses_with(before)
            traced.graph.erase_node(node)
    traced.delete_all_unused_submodules()
    traced.recompile()
    return traced.eval()


def to_onnx(model: TrainedModel, device_format: DeviceFormat):
    """The network as an `onnx.ModelProto`, unproven, with all that its use needs in its metadata.

    Raises:
        ExportError: torch cannot export it, or not to this opset.
        MissingExtra: no onnx or onnxscript.
    """
    require("onnx")
    require("onnxscript")
    network = DeviceNetwork(fold_batch_norm(model.network), device_format, model.preprocessing).eval()
    batch = {0: torch.export.Dim("batch")} if device_format.dynamic_batch else None
    example = torch.zeros(device_format.shape(model.preprocessing, 2 if batch else 1))
    logging.disable(logging.CRITICAL)  # where it fails, it prints the stack before it raises
    try:
        program = torch.onnx.export(
            network,
            (example,),
            dynamo=True,
            verbose=False,
            input_names=[INPUT],
            output_names=[OUTPUT],
            opset_version=device_format.opset,
            dynamic_shapes=(batch,) if batch else None,
        )
    except Exception as error:  # the converters of opsets have errors of their own
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise ExportError(f"torch cannot export {model.name} to opset {device_format.opset}: {reason[0]}") from error
    finally:
        logging.disable(logging.NOTSET)
    proto = program.model_proto
    written = {entry.domain: entry.version for entry in proto.opset_import}
    if written.get("") != device_format.opset:
        raise ExportError(f"torch writes opset {written.get('')}, not the {device_format.opset} of --opset")
    name_nodes(proto)
    describe(proto, metadata_of(model, device_format))
    return proto


def name_nodes(proto) -> None:
    """Names each node by the module that it comes from, such as `layer4.0.conv1.0.0/Conv`, for people and tools.

    An operation that stands between modules, such as the Add of a residual block, belongs to the one that holds them.
    """
    nodes = proto.graph.node
    modules = [_module_of(node) for node in nodes]
    makers = {output: index for index, node in enumerate(nodes) for output in node.output}
    seen: Counter[str] = Counter()
    for index, node in enumerate(nodes):
        before = max((makers[name] for name in node.input if name in makers), default=None)
        after = next((later for later, other in enumerate(nodes) if node.output[0] in other.input), None)
        if not modules[index] and before is not None and after is not None:
            modules[index] = os.path.commonprefix([modules[before], modules[after]])
        name = "/".join(filter(None, (".".join(modules[index]), node.op_type)))
        node.name = f"{name}_{seen[name]}" if seen[name] else name
        seen[name] += 1


def _module_of(node) -> list[str]:
    """The module that a node was written in, as the parts of its name: `layer4`, `0`, `conv1`; none at the top."""
    scopes = {entry.key: entry.value for entry in node.metadata_props}.get("pkg.torch.onnx.name_scopes", "['']")
    # The scopes run from the root to the operation; the last but one is its module.
    module = [scope.strip(" '") for scope in scopes.strip("[]").split(",")][:-1] or [""]
    return module[-1].split(".")[1:]  # without `network`


def metadata_of(model: TrainedModel, device_format: DeviceFormat) -> dict[str, str]:
    """What the file says about itself; lists and dicts as JSON."""
    return {
        "classes": json.dumps(model.classes),
        "frame_rule": model.preprocessing.rule,
        "preprocessing": json.dumps(model.preprocessing.plain()),
        "layout": device_format.layout,
        "normalize": device_format.normalize,
        "temperature": str(model.temperature),
        "model": model.name,
        "checkpoint_sha256": model.sha256(),
    }


def describe(proto, metadata: dict[str, Any]) -> None:
    """Puts `metadata` in the place of what the file says about itself."""
    del proto.metadata_props[:]
    require("onnx.helper").set_model_props(proto, metadata)


def check_operators(proto, further: set[str] = frozenset()) -> Counter:
    """How many there are of each operator. Raises ExportError where one is neither allowed nor among `further`."""
    operators = Counter(f"{node.domain}::{node.op_type}" if node.domain else node.op_type for node in proto.graph.node)
    if unknown := sorted(set(operators) - ALLOWED_OPERATORS - further):
        raise ExportError(f"the network needs {', '.join(unknown)}, which the compilers of mobile NPUs may not have")
    return operators
