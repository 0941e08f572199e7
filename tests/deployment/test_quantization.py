import pytest

from deployment.quantization import matching_nodes
from runtime.errors import UserError


def test_names_to_keep_in_float():
    names = ["Sub", "layer4.0.conv1/Conv", "layer4.0.relu/Relu", "layer40/Conv", "fc/Gemm"]
    assert matching_nodes(names, ["layer4", "fc/Gemm"]) == ["layer4.0.conv1/Conv", "layer4.0.relu/Relu", "fc/Gemm"]
    with pytest.raises(UserError, match="--keep-float layer5"):
        matching_nodes(names, ["layer5"])
