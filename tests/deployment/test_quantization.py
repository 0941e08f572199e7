import pytest

from deployment.onnx_network import ExportError
from deployment.quantization import matching_nodes


def test_names_to_keep_in_float():
    names = ["Sub", "layer4.0.conv1/Conv", "layer4.0.relu/Relu", "layer40/Conv", "fc/Gemm"]
    assert matching_nodes(names, ["layer4", "fc/Gemm"]) == ["layer4.0.conv1/Conv", "layer4.0.relu/Relu", "fc/Gemm"]
    with pytest.raises(ExportError, match="--keep-float layer5"):
        matching_nodes(names, ["layer5"])
