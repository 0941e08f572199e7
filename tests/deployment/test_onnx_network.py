"""The exported network: folded, in the device's layout, with operators that it has."""

import numpy as np
import pytest
import torch
from torch import nn

from clips import presets
from clips.preprocessing import Preprocessing
from deployment.onnx_network import DeviceFormat, check_operators, fold_batch_norm
from deployment.parity import random_clips
from helpers.extras import require_extra
from helpers.small_models import random_network
from runtime.errors import UserError


@pytest.mark.parametrize("name", ["r2plus1d_18", "r3d_18", "mc3_18"])
def test_batch_norm_is_folded_and_the_network_left_alone(name):
    network = random_network(name, 3)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    clip = torch.rand(1, 3, 8, 28, 28)
    with torch.inference_mode():
        folded = fold_batch_norm(network)
        torch.testing.assert_close(folded(clip), network(clip), atol=1e-5, rtol=1e-5)
    assert not any(isinstance(module, nn.BatchNorm3d) for module in folded.modules())
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


def test_an_operator_that_npus_lack_is_refused():
    onnx = require_extra("onnx")
    node = onnx.helper.make_node("Softmax", ["a"], ["b"])
    graph = onnx.helper.make_graph([node], "graph", [], [])
    with pytest.raises(UserError, match="Softmax"):
        check_operators(onnx.helper.make_model(graph))


def test_device_tensors_are_clips_in_the_layout():
    preprocessing = Preprocessing(clip_len=8, resize_size=(32, 42), crop_size=(28, 28))
    clips = random_clips(preprocessing)
    assert DeviceFormat("NCTHW").shape(preprocessing, 4) == (4, 3, 8, 28, 28)
    assert DeviceFormat("NTHWC").shape(preprocessing, 4) == clips.shape == (4, 8, 28, 28, 3)
    assert clips.min() >= 0 and clips.max() <= 1
    np.testing.assert_array_equal(DeviceFormat("NTHWC").tensor(clips, preprocessing), clips)
    normalised = DeviceFormat("NCTHW", "outside").tensor(clips, preprocessing)
    np.testing.assert_allclose(normalised, presets.normalize(torch.from_numpy(clips), preprocessing), atol=1e-6)
