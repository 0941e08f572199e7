"""Writes a network as ONNX for a device: with its tensor layout and normalization, and BatchNorm folded."""

import json
import logging
import os
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from clips.preprocessing import Preprocessing
from network.models import MODELS
from network.trained_model import TrainedModel
from runtime.errors import UserError, first_line, require
from runtime.files import sha256_of

INPUT, OUTPUT = "video", "class_logits"
DEFAULT_OPSET = 18  # what torch's exporter writes without conversion

# The position of each axis of N C T H W in a layout.
LAYOUTS = {"NCTHW": (0, 1, 2, 3, 4), "NTHWC": (0, 4, 1, 2, 3)}
NORMALIZE = ("inside", "outside")

# What the compilers of mobile NPUs accept.
_LAYERS = {"Conv", "Relu", "Add", "Sub", "Mul", "Div", "Gemm", "MatMul"}
_POOLS = {"AveragePool", "GlobalAveragePool", "MaxPool", "GlobalMaxPool", "ReduceMean"}
_SHAPES = {"Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze", "Identity"}
ALLOWED_OPERATORS = _LAYERS | _POOLS | _SHAPES
QUANTIZATION_OPERATORS = {"QuantizeLinear", "DequantizeLinear"}


@dataclass(frozen=True)
class DeviceFormat:
    """The input that the exported network takes."""

    layout: str = "NCTHW"  # a key of LAYOUTS
    normalize: str = "inside"  # where clips in [0, 1] are normalized: in the network, or before it
    dynamic_batch: bool = False  # any number of clips instead of one
    opset: int = DEFAULT_OPSET  # of ONNX

    def tensor(self, clips: np.ndarray, preprocessing: Preprocessing) -> np.ndarray:
        """The network's input for clips, float32 (B, T, H, W, C) in [0, 1]."""
        if self.normalize == "outside":
            mean, std = (np.asarray(values, np.float32) for values in (preprocessing.mean, preprocessing.std))
            clips = (clips - mean) / std
        from_clips = LAYOUTS["NTHWC"]  # N T H W C to N C T H W
        to_layout = np.argsort(LAYOUTS[self.layout])
        return np.ascontiguousarray(clips.transpose(from_clips).transpose(to_layout), np.float32)

    def shape(self, preprocessing: Preprocessing, batch_size: int) -> tuple[int, ...]:
        """The shape of the input."""
        sizes = (batch_size, *preprocessing.clip_shape)
        return tuple(sizes[axis] for axis in np.argsort(LAYOUTS[self.layout]))


class DeviceNetwork(nn.Module):
    """A network that takes `device_format`: (B, ...) in its layout to (B, num_classes) logits."""

    mean: Tensor
    std: Tensor

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
    """Treats torchvision's subclasses of Conv3d as layers, not as modules to trace into."""

    def is_leaf_module(self, module: nn.Module, name: str) -> bool:
        return isinstance(module, nn.Conv3d) or super().is_leaf_module(module, name)


def fold_batch_norm(network: nn.Module) -> fx.GraphModule:
    """A copy of a network in evaluation mode with every BatchNorm folded into the convolution before it.

    Raises UserError where the network's forward pass cannot be traced.
    """
    try:
        graph = _LayerTracer().trace(network)
    except (fx.proxy.TraceError, TypeError) as error:
        raise UserError(f"{type(network).__name__} cannot be traced: {error}") from error
    traced = fx.GraphModule(network, graph)
    modules = dict(traced.named_modules())
    for node in list(traced.graph.nodes):
        norm, before = _called(node, modules), node.args[0] if node.args else None
        if not isinstance(norm, nn.BatchNorm3d) or not isinstance(before, fx.Node):
            continue
        conv = _called(before, modules)
        if isinstance(conv, nn.Conv3d) and len(before.users) == 1:
            traced.set_submodule(str(before.target), fuse_conv_bn_eval(conv, norm))
            node.replace_all_uses_with(before)
            traced.graph.erase_node(node)
    traced.delete_all_unused_submodules()
    traced.recompile()
    return traced.eval()


def _called(node: fx.Node, modules: Mapping[str, nn.Module]) -> nn.Module | None:
    """The module that a node calls, if it calls one."""
    return modules.get(str(node.target)) if node.op == "call_module" else None


def to_onnx(model: TrainedModel, device_format: DeviceFormat) -> Any:
    """The network as an `onnx.ModelProto`, not verified, with what its use requires in the metadata.

    Raises UserError where torch cannot export it, or not to this opset; MissingExtra.
    """
    require("onnx")
    require("onnxscript")
    if model.name not in MODELS:
        raise UserError(
            f"{model.name} cannot be exported: export supports {', '.join(MODELS)}, whose layers compilers for mobile "
            "NPUs are known to accept"
        )
    network = DeviceNetwork(fold_batch_norm(model.network), device_format, model.preprocessing).eval()
    batch = {0: torch.export.Dim("batch")} if device_format.dynamic_batch else None
    example = torch.zeros(device_format.shape(model.preprocessing, 2 if batch else 1))
    logging.disable(logging.CRITICAL)  # before it raises, it logs the stack
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
    except Exception as error:  # opset converters raise their own kinds of errors
        what = f"{model.name} to opset {device_format.opset}"
        raise UserError(f"torch cannot export {what}: {first_line(error)}") from error
    finally:
        logging.disable(logging.NOTSET)
    assert program is not None  # which it is with dynamo=True
    proto = program.model_proto
    written = {entry.domain: entry.version for entry in proto.opset_import}
    if written.get("") != device_format.opset:
        raise UserError(f"torch writes opset {written.get('')} instead of the {device_format.opset} of --opset")
    name_nodes(proto)
    del proto.metadata_props[:]
    require("onnx.helper").set_model_props(proto, metadata_of(model, device_format))
    return proto


def name_nodes(proto: Any) -> None:
    """Names each node after the module that it comes from, such as `layer4.0.conv1.0.0/Conv`.

    An operation between modules, such as the Add of a residual block, belongs to the module that contains them.
    """
    nodes = proto.graph.node
    modules = [_module_of(node) for node in nodes]
    makers = {output: index for index, node in enumerate(nodes) for output in node.output}
    seen: Counter[str] = Counter()
    for index, node in enumerate(nodes):
        before = max((makers[name] for name in node.input if name in makers), default=None)
        after = next((later for later, other in enumerate(nodes) if node.output[0] in other.input), None)
        if not modules[index] and before is not None and after is not None:
            modules[index] = list(os.path.commonprefix([modules[before], modules[after]]))
        name = "/".join(filter(None, (".".join(modules[index]), node.op_type)))
        node.name = f"{name}_{seen[name]}" if seen[name] else name
        seen[name] += 1


def _module_of(node: Any) -> list[str]:
    """The parts of the name of a node's module: `layer4`, `0`, `conv1`; none at the top level."""
    scopes = {entry.key: entry.value for entry in node.metadata_props}.get("pkg.torch.onnx.name_scopes", "['']")
    # The scopes run from the root to the operation; the last but one is its module.
    module = [scope.strip(" '") for scope in scopes.strip("[]").split(",")][:-1] or [""]
    return module[-1].split(".")[1:]  # without `network`


def metadata_of(model: TrainedModel, device_format: DeviceFormat) -> dict[str, str]:
    """The metadata of the ONNX file; lists and dicts as JSON."""
    return {
        "classes": json.dumps(model.classes),
        "frame_rule": model.preprocessing.rule,
        "preprocessing": json.dumps(model.preprocessing.plain()),
        "layout": device_format.layout,
        "normalize": device_format.normalize,
        "temperature": str(model.temperature),
        "model": model.name,
        "checkpoint_sha256": sha256_of(model.path),
    }


def check_operators(proto: Any, further: Collection[str] = ()) -> Counter[str]:
    """Counts the operators. Raises UserError if one is neither in ALLOWED_OPERATORS nor in `further`."""
    operators = Counter(f"{node.domain}::{node.op_type}" if node.domain else node.op_type for node in proto.graph.node)
    if unknown := sorted(set(operators) - ALLOWED_OPERATORS - set(further)):
        raise UserError(f"the network needs {', '.join(unknown)}, which compilers for mobile NPUs may lack")
    return operators
