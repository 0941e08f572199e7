import pytest
import torch
from torchvision.transforms.functional import normalize as torchvision_normalize

from clips.presets import MEAN, STD, flip, flippable, normalize


@pytest.mark.parametrize(
    "name, is_flippable",
    [
        ("left_arm_raise", False),
        ("arm raise RIGHT", False),
        ("lunge-Left-leg", False),
        ("left", False),
        ("leftover_stretch", True),
        ("bright_lights", True),
        ("upright row", True),
        ("squats", True),
    ],
)
def test_sides_are_words(name, is_flippable):
    assert flippable([name]).tolist() == [is_flippable]


def test_normalize_is_torchvisions():
    clips = torch.randint(0, 256, (2, 3, 8, 9, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    expected = torch.stack([torchvision_normalize(clip.permute(0, 3, 1, 2) / 255, MEAN, STD) for clip in clips])
    expected = expected.permute(0, 2, 1, 3, 4)  # B T C H W -> B C T H W
    for pixels in (clips, clips / 255):
        found = normalize(pixels)
        assert found.shape == (2, 3, 3, 8, 9) and found.dtype == torch.float32
        assert torch.allclose(found, expected, atol=1e-5)


def test_flip_mirrors_whole_clips():
    clips = torch.randint(0, 256, (3, 4, 5, 6, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    found = flip(clips, torch.tensor([True, False, True]))
    assert torch.equal(found[1], clips[1])
    assert torch.equal(found[0], clips[0].flip(2)) and torch.equal(found[2], clips[2].flip(2))
    assert flip(clips, torch.zeros(3, dtype=torch.bool)) is clips
