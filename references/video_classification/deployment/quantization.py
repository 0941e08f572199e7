"""Static int8 quantization of an exported network.

Per channel, as QuantizeLinear and DequantizeLinear pairs (QDQ), which NPU compilers read; activations are calibrated on
training clips.
"""

import logging
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from caching.splits import Clips
from deployment.device_tensors import drawn_videos
from deployment.onnx_network import INPUT, DeviceFormat
from deployment.parity import clip_arrays
from network.trained_model import TrainedModel
from runtime.errors import UserError, require


def quantize_int8(proto: Any, tensors: Iterable[np.ndarray], keep_float: Sequence[str] = ()) -> Any:
    """Returns the network with int8 weights, uint8 activations and the same metadata, an `onnx.ModelProto` as it was.

    It is calibrated on `tensors`, its inputs, one clip each; the nodes `keep_float`, or modules with all their nodes,
    stay in float. Raises UserError where the network has no node or module of such a name; MissingExtra.
    """
    quantization: Any = require("onnxruntime.quantization")
    inputs = iter(tensors)

    class Reader(quantization.CalibrationDataReader):  # a class that is known only once onnxruntime is imported
        def get_next(self) -> dict[str, np.ndarray] | None:
            tensor = next(inputs, None)
            return None if tensor is None else {INPUT: tensor}

    kept = matching_nodes([node.name for node in proto.graph.node], keep_float)
    with tempfile.TemporaryDirectory() as folder:
        source, result = Path(folder) / "float.onnx", Path(folder) / "int8.onnx"
        source.write_bytes(proto.SerializeToString())
        logging.disable(logging.WARNING)  # it advises folding what is already folded
        try:
            quantization.quantize_static(
                source,
                result,
                Reader(),
                quant_format=quantization.QuantFormat.QDQ,
                per_channel=True,
                activation_type=quantization.QuantType.QUInt8,
                weight_type=quantization.QuantType.QInt8,
                nodes_to_exclude=kept,
            )
        finally:
            logging.disable(logging.NOTSET)
        quantized = require("onnx").load(result)
    del quantized.metadata_props[:]
    quantized.metadata_props.extend(proto.metadata_props)
    return quantized


def calibration_tensors(
    train: Clips, model: TrainedModel, device_format: DeviceFormat, count: int
) -> Iterator[np.ndarray]:
    """Yields the inputs of `count` training clips, or of all, drawn at random and always the same.

    Args:
        train, model: the training videos' clips, and whose preprocessing normalizes them.
        device_format: what the network takes.
        count: clips at most.
    """
    for _, clip in clip_arrays(train, drawn_videos(train, count), "Calibrating"):
        yield device_format.tensor(clip, model.preprocessing)


def matching_nodes(names: Sequence[str], wanted: Sequence[str]) -> list[str]:
    """The nodes among `names`, such as `layer4.0.conv1.0.0/Conv`, that are in `wanted` or in a module in `wanted`.

    Raises UserError where nothing has one of the names `wanted`.
    """
    chosen = []
    for name in wanted:
        matches = [node for node in names if node == name or node.startswith((f"{name}.", f"{name}/"))]
        if not matches:
            modules = sorted({node.split("/")[0].split(".")[0] for node in names})
            raise UserError(f"--keep-float {name}: the network has no such node or module; it has {modules}")
        chosen += matches
    return chosen
