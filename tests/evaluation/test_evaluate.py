"""The pass over a validation split, with a loader whose clips are their own scores."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from clips.dataset import Batch
from evaluation.evaluate import evaluate
from network.acceleration import StepQueue
from network.precision import Precision

LOGITS = torch.randn(5, 2, 3, generator=torch.Generator().manual_seed(0))  # of five videos, two clips each
LABELS = np.array([0, 1, 2, 0, 1])


class Loader:
    """Gives the logits of a clip in place of its frames; skips the batches numbered in `lost`."""

    batch_size = 4

    def __init__(self, lost=()):
        self.lost = lost
        self.dataset = SimpleNamespace(
            folder=SimpleNamespace(labels=LABELS), clips_per_video=2, to_inputs=lambda clips, flips, seeds: clips
        )

    def num_batches(self, num_clips):
        return -(-num_clips // self.batch_size)

    def batches(self, samples):
        for number in range(self.num_batches(len(samples))):
            part = samples[number * self.batch_size : (number + 1) * self.batch_size]
            videos = torch.tensor([sample.video for sample in part])
            clips = torch.stack([LOGITS[sample.video, sample.clip] for sample in part])
            if number not in self.lost:
                targets, flips = torch.from_numpy(LABELS)[videos], torch.zeros(len(part), dtype=torch.bool)
                yield Batch(clips[..., None, None, None], targets, videos, flips)


def evaluated(videos, loader=None, on_logits=None):
    precision = Precision.of("off", torch.device("cpu"))
    criterion = nn.CrossEntropyLoss(reduction="none")
    return evaluate(
        *(nn.Flatten(), criterion, loader or Loader(), torch.tensor(videos)),
        num_classes=3,
        precision=precision,
        print_freq=10,
        on_logits=on_logits,
    )


def test_the_score_of_a_video_is_the_mean_of_its_clips():
    results = evaluated([4, 0, 2])
    assert results.videos.tolist() == [4, 0, 2] and results.targets.tolist() == [1, 0, 2]
    torch.testing.assert_close(results.scores, LOGITS[[4, 0, 2]].double().softmax(2).mean(1))
    assert results.clip.count == 6 and results.clips_per_video == 2
    losses = [-LOGITS[v, c].log_softmax(0)[LABELS[v]].item() for v in (4, 0, 2) for c in (0, 1)]
    assert results.loss == pytest.approx(np.mean(losses), rel=1e-5)
    assert 0 <= results.data_seconds <= results.seconds


def test_logits_come_with_the_samples_that_they_are_of():
    seen = []
    evaluated([0, 1, 2, 3, 4], on_logits=lambda samples, logits: seen.append((samples, logits)))
    assert [len(samples) for samples, _ in seen] == [4, 4, 2]
    for samples, logits in seen:
        torch.testing.assert_close(logits, torch.stack([LOGITS[sample.video, sample.clip] for sample in samples]))


def test_outputs_that_come_late_are_those_of_the_same_clips(monkeypatch):
    """As those of a GPU, which computes the next ones meanwhile."""
    prompt, late = [], []
    expected = evaluated([4, 0, 2, 1, 3], on_logits=lambda *both: prompt.append(both))
    monkeypatch.setattr(StepQueue, "__init__", lambda queue, device, meter: setattr(queue, "steps_ahead", 2))
    for name in ("batch_is_here", "step_is_queued", "finish"):
        monkeypatch.setattr(StepQueue, name, lambda queue: None)
    results = evaluated([4, 0, 2, 1, 3], on_logits=lambda *both: late.append(both))
    assert torch.equal(results.scores, expected.scores) and results.loss == expected.loss
    assert [samples for samples, _ in late] == [samples for samples, _ in prompt]
    assert all(torch.equal(a, b) for (_, a), (_, b) in zip(late, prompt, strict=True))


def test_a_batch_that_is_lost_is_an_error():
    with pytest.raises(RuntimeError, match="were not scored 2 times"):
        evaluated([0, 1, 2, 3, 4], Loader(lost=[2]))
