"""Mixes each clip of a batch with another: mixup (arXiv 1710.09412) and CutMix, whose box is the same in all frames as
in VideoMix (arXiv 2012.03457).

Not by torchvision's `v2.MixUp` and `v2.CutMix`: those draw from torch's global generator, which differs from process to
process here, and keep the share to themselves, while a teacher's outputs must be mixed by it too.
"""

import numpy as np
from torch import Tensor


class Mixing:
    """Mixes batches. Where both alphas are above 0, each batch takes one of the two ways, evenly often.

    A clip's own share is drawn from Beta(alpha, alpha); 0 switches that way off.
    """

    def __init__(self, mixup_alpha: float, cutmix_alpha: float) -> None:
        ways = ((mixup, mixup_alpha), (cutmix, cutmix_alpha))
        self._ways = [(mix, alpha) for mix, alpha in ways if alpha > 0]

    def __call__(self, clips: Tensor, rng: np.random.Generator) -> tuple[Tensor, float]:
        """Mixes every clip, float (B, C, T, H, W), with its `partner`; returns them, and each one's own share.

        What is drawn from `rng` is the same whatever the batch's size.
        """
        mix, alpha = self._ways[rng.integers(len(self._ways))]
        return mix(clips, rng.beta(alpha, alpha), rng)


def partner(values: Tensor) -> Tensor:
    """For each row of a batch, the row that it is mixed with: the one before."""
    return values.roll(1, 0)


def mixup(clips: Tensor, share: float, rng: np.random.Generator) -> tuple[Tensor, float]:
    """Every pixel is `share` its own, the rest the partner's."""
    return clips * share + partner(clips) * (1 - share), share


def cutmix(clips: Tensor, share: float, rng: np.random.Generator) -> tuple[Tensor, float]:
    """A box, `1 - share` of the picture or what of it lies within, is the partner's, in all frames."""
    height, width = clips.shape[-2:]
    side = (1 - share) ** 0.5
    (top, bottom), (left, right) = (_span(size, side, rng.random()) for size in (height, width))
    mixed = clips.clone()
    mixed[..., top:bottom, left:right] = partner(clips)[..., top:bottom, left:right]
    return mixed, 1 - (bottom - top) * (right - left) / (height * width)


def _span(size: int, side: float, centre: float) -> tuple[int, int]:
    """Where a box begins and ends along an axis of `size` pixels; side and centre are shares of it."""
    length = round(side * size)
    begin = int(centre * size) - length // 2
    return max(begin, 0), min(max(begin + length, 0), size)
