"""Static int8 quantisation of an exported network: per channel, as QuantizeLinear and DequantizeLinear pairs (QDQ),
which the compilers of NPUs read. Ranges of activations come from training clips.
"""

import logging
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from deployment.onnx_network import INPUT, ExportError
from runtime.errors import require


def quantize_int8(proto, tensors: Iterable[np.ndarray], keep_float: Sequence[str] = ()):
    """The network with int8 weights and uint8 activations, an `onnx.ModelProto`; metadata is kept.

    Args:
        proto: the exported network, `onnx.ModelProto`.
        tensors: what it is given, one clip each, to calibrate on.
        keep_float: nodes, or modules with all in them, that stay in float, see `matching_nodes`.

    Raises:
        ExportError: a name in `keep_float` that the network has not.
        MissingExtra: no onnxruntime.
    """
    quantization, onnx = require("onnxruntime.quantization"), require("onnx")
    kept = matching_nodes([node.name for node in proto.graph.node], keep_float)
    with tempfile.TemporaryDirectory() as folder:
        source, result = Path(folder) / "float.onnx", Path(folder) / "int8.onnx"
        source.write_bytes(proto.SerializeToString())
        logging.disable(logging.WARNING)  # it advises to fold what is folded already
        try:
            quantization.quantize_static(
                source,
                result,
                _calibration_reader(quantization, iter(tensors)),
                quant_format=quantization.QuantFormat.QDQ,
                per_channel=True,
                activation_type=quantization.QuantType.QUInt8,
                weight_type=quantization.QuantType.QInt8,
                nodes_to_exclude=kept,
            )
        finally:
            logging.disable(logging.NOTSET)
        quantized = onnx.load(result)
    del quantized.metadata_props[:]
    quantized.metadata_props.extend(proto.metadata_props)
    return quantized


def matching_nodes(names: Sequence[str], wanted: Sequence[str]) -> list[str]:
    """Those of `names`, such as `layer4.0.conv1.0.0/Conv`, that `wanted` names, or a module in `wanted` holds.

    Raises:
        ExportError: one of `wanted` that names nothing.
    """
    chosen = []
    for name in wanted:
        matches = [node for node in names if node == name or node.startswith((f"{name}.", f"{name}/"))]
        if not matches:
            modules = sorted({node.split("/")[0].split(".")[0] for node in names})
            raise ExportError(f"--keep-float {name}: the network has no such node or module; it has {modules}")
        chosen += matches
    return chosen


def _calibration_reader(quantization, tensors: Iterator[np.ndarray]):
    class Reader(quantization.CalibrationDataReader):
        def get_next(self) -> dict[str, np.ndarray] | None:
            tensor = next(tensors, None)
            return None if tensor is None else {INPUT: tensor}

    return Reader()
