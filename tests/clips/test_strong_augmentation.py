import numpy as np
import pytest
import torch
from torchvision.transforms.functional import center_crop

from clips import strong_augmentation
from clips.dataset import Augmentation
from clips.preprocessing import Preprocessing
from clips.samplers import EVALUATION, Sample
from clips.strong_augmentation import RANDAUGMENT, Draws, StrongClipDataset, augment, draw_region, erase, jitter
from videos.folder import VideoFolder
from videos.frame_selection import VideoTiming
from videos.resizing import Region


def random_clips(count=3, frames=4, seed=0):
    """uint8 (B, T, H, W, C)."""
    return torch.randint(
        0, 256, (count, frames, 32, 40, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed)
    )


def still_clips(count):
    """Clips whose frames are all the same: whatever differs between their frames afterwards was drawn by frame."""
    return random_clips(count, 1).expand(-1, 4, -1, -1, -1)


def test_a_clip_is_changed_as_its_seed_says_alone_or_in_any_batch():
    clips, seeds = random_clips(4), torch.tensor([11, 12, 13, 14])
    found = augment(clips, seeds, (28, 28))
    assert found.shape == (4, 4, 28, 28, 3) and found.dtype == torch.float32
    assert found.min() >= 0 and found.max() <= 1
    assert torch.equal(found[2], augment(clips[2:3], seeds[2:3], (28, 28))[0])
    assert not torch.equal(augment(clips[:1], seeds[1:2], (28, 28))[0], found[0])
    torch.testing.assert_close(augment(clips / 255, seeds, (28, 28)), found)


def test_all_frames_of_a_clip_are_changed_alike():
    found = augment(still_clips(60), torch.arange(60), (28, 28))
    assert (found - found[:, :1]).abs().max() < 1e-5
    assert len({clip.sum().item() for clip in found}) > 55


@pytest.mark.parametrize("number", range(len(RANDAUGMENT)))
def test_frames_stay_consistent_under_every_change(number):
    clip = random_clips(1, 3)[0].permute(0, 3, 1, 2) / 255
    dark = torch.cat([clip[:1] * 0.3, clip[:1], clip[:1]])  # a frame of other brightness must not flicker
    for strength in (-1.0, 0.0, 0.6):
        changed = RANDAUGMENT[number](dark, strength)
        assert changed.shape == dark.shape and changed.isfinite().all()
        torch.testing.assert_close(changed[1], changed[2])
    assert (changed[0].mean() - changed[1].mean()).abs() > 0.05  # and keeps its difference to the others


def test_without_a_seed_it_is_the_centre_crop():
    clips = random_clips()
    found = augment(clips, torch.full((3,), EVALUATION), (28, 28))
    expected = center_crop(clips.permute(0, 1, 4, 2, 3), [28, 28]).permute(0, 1, 3, 4, 2) / 255
    assert torch.equal(found, expected)


def test_regions_fit_and_have_the_areas_that_were_asked_for():
    regions = [draw_region(Draws(seed), 128, 171, (0.5, 1.0), (3 / 4, 4 / 3)) for seed in range(500)]
    areas = [height * width / (128 * 171) for _, _, height, width in regions]
    assert all(t >= 0 and left >= 0 and t + h <= 128 and left + w <= 171 for t, left, h, w in regions)
    assert min(areas) > 0.4 and max(areas) <= 1 and 0.6 < np.mean(areas) < 0.85
    assert len({region[0] for region in regions}) > 20


def test_a_box_is_erased_now_and_then_in_all_frames():
    clip = torch.ones(4, 3, 40, 40)
    erased = [(erase(clip, Draws(seed)) != 1) for seed in range(400)]
    share = np.mean([bool(box.any()) for box in erased])
    assert abs(share - strong_augmentation.ERASE_PROB) < 0.07
    assert all((box == box[:1, :1]).all() for box in erased)
    assert all(box[0, 0].float().mean() < 0.25 for box in erased)


def test_jitter_is_mild_and_not_always_the_same():
    clip = random_clips(1)[0].permute(0, 3, 1, 2) / 255
    changes = [(jitter(clip, Draws(seed)) - clip).abs().mean().item() for seed in range(30)]
    assert min(changes) > 0 and max(changes) < 0.3 and len(set(changes)) == 30


class Whole:
    """Writes the number of the pixel's row."""

    dtype, is_fast, source = np.uint8, True, "rows"

    def read_into(self, clip, video, indices, region):
        assert region == Region(0, 0, 32, 40)
        clip[:] = np.arange(32, dtype=np.uint8)[None, :, None, None]


@pytest.fixture
def dataset(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "v.mp4").write_bytes(b"x")
    preprocessing = Preprocessing(4, resize_size=(32, 40), crop_size=(28, 28))
    timing, augmentation = (lambda _: VideoTiming(90, 30.0)), Augmentation(seed=5)
    return StrongClipDataset(VideoFolder(tmp_path), timing, Whole(), preprocessing, augmentation=augmentation)


def test_the_dataset_hands_out_whole_frames_and_a_seed_a_clip(dataset):
    assert dataset.clip_shape == (4, 32, 40, 3)
    clip = np.empty(dataset.clip_shape, np.uint8)
    dataset.read_into(clip, Sample(0, 0, 3))
    assert (clip[0, :, 0, 0] == np.arange(32)).all()
    seeds = [dataset.device_seed(Sample(video, clip, epoch)) for video in (0, 1) for clip in (0, 1) for epoch in (0, 1)]
    assert len(set(seeds)) == 8 and min(seeds) >= 0
    assert seeds[0] == dataset.device_seed(Sample(0, 0, 0))
    assert dataset.device_seed(Sample(0)) == EVALUATION


def test_its_inputs_are_normalised_crops(dataset):
    clips = torch.from_numpy(np.full((2, 4, 32, 40, 3), 128, np.uint8))
    seeds = torch.tensor([EVALUATION, dataset.device_seed(Sample(1, 0, 0))])
    inputs = dataset.to_inputs(clips, torch.tensor([False, True]), seeds)
    assert inputs.shape == (2, 3, 4, 28, 28)
    expected = (128 / 255 - torch.tensor(strong_augmentation.MEAN)) / torch.tensor([0.22803, 0.22145, 0.216989])
    torch.testing.assert_close(inputs[0, :, 0, 0, 0], expected)
