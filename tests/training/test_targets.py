import numpy as np
import torch

from clips.dataset import Batch
from training.mixing import Mixing
from training.targets import TargetMaker


def make_batch(labels, flips):
    count = len(labels)
    return Batch(torch.empty(count), torch.tensor(labels), torch.arange(count), torch.tensor(flips))


def make(maker, labels, flips=None, seed=0):
    """(clips, targets, labels) of a batch whose clips are their own numbers."""
    batch = make_batch(labels, flips or [False] * len(labels))
    clips = torch.arange(float(len(labels)))[:, None, None, None, None].expand(-1, 3, 2, 10, 10)
    return maker(clips, batch.targets, batch, np.random.default_rng(seed))


def test_plain_targets_are_the_labels():
    maker = TargetMaker(3)
    clips, targets, labels = make(maker, [2, 0, 1])
    assert targets.shares.tolist() == [[0, 0, 1], [1, 0, 0], [0, 1, 0]] and targets.teacher is None
    assert labels.tolist() == [2, 0, 1] and maker.counted_by == "labels"
    assert clips[:, 0, 0, 0, 0].tolist() == [0, 1, 2]


def test_a_flipped_clip_has_its_mirrors_label():
    maker = TargetMaker(3, torch.tensor([1, 0, 2]))
    _, targets, labels = make(maker, [0, 0, 1, 2], [True, False, True, True])
    assert labels.tolist() == [1, 0, 0, 2] and targets.shares.argmax(1).tolist() == [1, 0, 0, 2]


def test_targets_are_mixed_as_the_clips_are():
    maker = TargetMaker(5, mixing=Mixing(1.0, 1.0))
    assert "dominant" in maker.counted_by
    sides = set()
    for seed in range(40):
        clips, targets, labels = make(maker, [0, 1, 2, 3, 4], seed=seed)
        assert torch.allclose(targets.shares.sum(1), torch.ones(5))
        # A clip's pixels are its label: their mean is what the shares must weigh.
        expected = targets.shares @ torch.arange(5.0)
        torch.testing.assert_close(clips.mean((1, 2, 3, 4)), expected, rtol=0, atol=1e-4)
        assert torch.equal(labels, targets.shares.argmax(1)) or targets.shares.max() < 0.501
        sides.add(labels.tolist() == [0, 1, 2, 3, 4])
    assert sides == {True, False}


def test_flips_come_before_mixing():
    maker = TargetMaker(2, torch.tensor([1, 0]), Mixing(1.0, 0.0))
    _, targets, _ = make(maker, [0, 0], [True, True])
    assert targets.shares.tolist() == [[0, 1], [0, 1]]


def test_the_teachers_rows_are_the_videos_mirrored_and_mixed_with_the_rest():
    teacher = torch.tensor([[0.7, 0.2, 0.1], [0.5, 0.3, 0.2], [0.1, 0.1, 0.8]])
    maker = TargetMaker(3, torch.tensor([1, 0, 2]), teacher=teacher)
    _, targets, _ = make(maker, [0, 1, 2], [False, True, True])
    expected = torch.tensor([[0.7, 0.2, 0.1], [0.3, 0.5, 0.2], [0.1, 0.1, 0.8]])
    torch.testing.assert_close(targets.teacher, expected)
    mixing = Mixing(1.0, 0.0)
    _, mixed, _ = make(TargetMaker(3, mixing=mixing, teacher=torch.eye(3)), [0, 1, 2])
    torch.testing.assert_close(mixed.teacher, mixed.shares)  # a teacher that is always right
