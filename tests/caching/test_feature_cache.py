import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from caching.feature_cache import FeatureSettings, choose_views, state_digest
from clips.dataset import Augmentation, ClipDataset
from clips.samplers import Sample
from helpers.clip_caches import PREPROCESSING
from network.models import build_model


def seeded_network():
    torch.manual_seed(0)
    return build_model("mc3_18", 3)


@pytest.mark.parametrize("views", [1, 2, 5])
def test_every_view_is_used_once_in_so_many_epochs(views):
    for video in range(20):
        for start in range(4):
            used = choose_views(3, [Sample(video, 0, epoch) for epoch in range(start, start + views)], views)
            assert sorted(used) == list(range(views))
    assert choose_views(3, [Sample(7), Sample(8, 1)], views) == [0, 0]
    if views > 1:  # the videos of an epoch do not all show the same view
        assert set(choose_views(3, [Sample(video, 0, 0) for video in range(20)], views)) == set(range(views))


def test_the_view_of_a_sample_is_its_own():
    samples = [Sample(video, clip, epoch) for video in range(5) for clip in (0, 1) for epoch in (-1, 0, 7, 1 << 24)]
    together = choose_views(3, samples, 4)
    assert together == [choose_views(3, [sample], 4)[0] for sample in samples]
    assert together != choose_views(4, samples, 4)


def test_the_digest_sees_every_value_and_name():
    model, other = (seeded_network() for _ in range(2))
    assert state_digest(model) == state_digest(other)
    other.layer1[0].conv1[0].weight.data[0, 0, 0, 0, 0] += np.float32(1e-6)
    assert state_digest(model) != state_digest(other)
    assert state_digest(torch.nn.Sequential(torch.nn.ReLU())) != state_digest(torch.nn.Sequential(torch.nn.Identity()))


def test_caches_of_earlier_versions_are_found(tmp_path):
    """Of official clips: the folder's name was computed by the version that wrote the first feature caches.

    That of drawn clips was then be3b44ab3e48527f, and 7e457b03df036683 since they are drawn by splitmix64.
    """
    augmentation = Augmentation(seed=3, may_flip=torch.tensor([True, False]))
    dataset = ClipDataset(None, None, None, PREPROCESSING, augmentation=augmentation)
    for drawn, name in ((False, "6198982e9616d5c2"), (True, "7e457b03df036683")):
        selection = dataset.describe(drawn)
        settings = FeatureSettings("t" * 32, "decoded x", selection, "cpu None", "fp16", (256, 1, 2, 2))
        assert settings.folder(tmp_path) == tmp_path / "features" / name
        assert settings.entry_bytes == 256 * 4 * 2


def test_a_rate_is_the_same_however_it_is_written():
    def described(frame_rate, candidate_rate):
        preprocessing = replace(PREPROCESSING, frame_rate=frame_rate, candidate_rate=candidate_rate)
        return json.dumps(ClipDataset(None, None, None, preprocessing).describe(drawn=False))

    assert described(4, 8) == described(4.0, 8.0) != described(4.5, 8)
