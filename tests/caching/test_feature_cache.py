import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from caching.feature_cache import FeatureSettings, choose_view, state_digest
from clips.dataset import Augmentation, ClipDataset
from clips.samplers import EVALUATION
from helpers.clip_caches import PREPROCESSING
from network.models import build_model


def seeded_network():
    torch.manual_seed(0)
    return build_model("mc3_18", 3)


@pytest.mark.parametrize("views", [1, 2, 5])
def test_every_view_is_used_once_in_so_many_epochs(views):
    for video in range(20):
        for start in range(4):
            used = [choose_view(3, epoch, video, views) for epoch in range(start, start + views)]
            assert sorted(used) == list(range(views))
    assert choose_view(3, EVALUATION, 7, views) == 0
    if views > 1:  # the videos of an epoch do not all show the same view
        assert len({choose_view(3, 0, video, views) for video in range(20)}) == views


def test_the_digest_sees_every_value_and_name():
    model, other = (seeded_network() for _ in range(2))
    assert state_digest(model) == state_digest(other)
    other.layer1[0].conv1[0].weight.data[0, 0, 0, 0, 0] += np.float32(1e-6)
    assert state_digest(model) != state_digest(other)
    assert state_digest(torch.nn.Sequential(torch.nn.ReLU())) != state_digest(torch.nn.Sequential(torch.nn.Identity()))


def test_caches_of_earlier_versions_are_found(tmp_path):
    """The folder's name was computed by the version that wrote the first feature caches."""
    augmentation = Augmentation(seed=3, may_flip=torch.tensor([True, False]))
    dataset = ClipDataset(None, None, None, PREPROCESSING, augmentation=augmentation)
    selection = dataset.describe(drawn=True)
    settings = FeatureSettings("t" * 32, "decoded x", selection, "cpu None", "fp16", (256, 1, 2, 2))
    assert settings.folder(tmp_path) == tmp_path / "features" / "be3b44ab3e48527f"
    assert settings.entry_bytes == 256 * 4 * 2


def test_a_rate_is_the_same_however_it_is_written():
    def described(frame_rate, candidate_rate):
        preprocessing = replace(PREPROCESSING, frame_rate=frame_rate, candidate_rate=candidate_rate)
        return json.dumps(ClipDataset(None, None, None, preprocessing).describe(drawn=False))

    assert described(4, 8) == described(4.0, 8.0) != described(4.5, 8)
