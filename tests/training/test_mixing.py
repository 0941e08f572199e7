import numpy as np
import pytest
import torch

from training.mixing import Mixing, cutmix, mixup, partner


def clips(count=4, size=(10, 12)):
    return torch.rand(count, 3, 5, *size, generator=torch.Generator().manual_seed(count))


def test_mixup_blends_each_clip_with_the_one_before():
    batch = clips()
    mixed, own = mixup(batch, 0.3, np.random.default_rng(0))
    assert own == 0.3
    torch.testing.assert_close(mixed[2], 0.3 * batch[2] + 0.7 * batch[1])
    torch.testing.assert_close(mixed[0], 0.3 * batch[0] + 0.7 * batch[3])


@pytest.mark.parametrize("share", [0.0, 0.01, 0.4, 0.75, 1.0])
def test_cutmix_puts_in_the_same_box_everywhere_and_counts_its_pixels(share):
    batch = clips(size=(30, 40))
    rng = np.random.default_rng(1)
    for _ in range(50):
        mixed, own = cutmix(batch, share, rng)
        changed = mixed != batch
        assert (changed == changed[:1, :1, :1]).all()  # one box for all frames, colours, clips
        assert torch.equal(mixed, torch.where(changed, partner(batch), batch))
        assert own == pytest.approx(1 - changed[0, 0, 0].float().mean().item())
        rows, columns = changed[0, 0, 0].any(1).sum(), changed[0, 0, 0].any(0).sum()
        assert changed[0, 0, 0].sum() == rows * columns  # a rectangle
        assert own >= share - 0.05  # the box may reach over the edge, never grow


def test_a_draw_depends_on_the_generator_alone_not_on_the_batch():
    mixing = Mixing(0.2, 1.0)
    shares = [[mixing(clips(count), np.random.default_rng(seed))[1] for seed in range(60)] for count in (1, 4, 7)]
    assert shares[0] == shares[1] == shares[2] and len(set(shares[0])) > 30


def test_both_ways_take_turns_and_one_alone_is_always_taken():
    batch = clips(size=(30, 40))

    def share_of_boxes(mixing):
        mixed = [mixing(batch, np.random.default_rng(seed))[0] for seed in range(200)]
        return sum(bool(((m == batch) | (m == partner(batch))).all()) for m in mixed) / 200

    assert share_of_boxes(Mixing(0.0, 1.0)) == 1.0
    assert share_of_boxes(Mixing(1.0, 0.0)) < 0.05
    assert 0.35 < share_of_boxes(Mixing(1.0, 1.0)) < 0.65


def test_a_single_clip_stays_itself():
    batch = clips(1)
    for mixing in (Mixing(1.0, 0.0), Mixing(0.0, 1.0)):
        torch.testing.assert_close(mixing(batch, np.random.default_rng(3))[0], batch)
