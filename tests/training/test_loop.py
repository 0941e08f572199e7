from types import SimpleNamespace

import pytest
import torch
from torch import nn

from clips.dataset import Batch
from clips.samplers import EVALUATION, Sample
from helpers.evaluations import made_up_evaluation
from network.precision import Precision
from training.engine import EpochSummary
from training.loop import epoch_entry, recalibrate_batch_norm

DATA = torch.randn(10, 3, 2, 4, 4, generator=torch.Generator().manual_seed(0)) * 3 + 5


class Clips:
    """Ten clips in batches of four."""

    def __init__(self):
        self.options = SimpleNamespace(batch_size=4)
        dataset = SimpleNamespace(to_inputs=lambda clips, flips, seeds: clips)
        self.loader = SimpleNamespace(dataset=dataset, batches=self.batches)
        self.seen = []

    def epoch_samples(self, seed, epoch):
        return [Sample(video, 0, epoch) for video in range(len(DATA))]

    def batches(self, samples):
        self.seen += samples
        for rows in torch.tensor([sample.video for sample in samples]).split(4):
            yield Batch(DATA[rows], rows, rows, torch.zeros(len(rows), dtype=torch.bool))


def network():
    model = nn.Sequential(nn.BatchNorm3d(3), nn.BatchNorm3d(3), nn.Flatten(), nn.Linear(96, 2))
    for norm in model[:2]:
        norm.running_mean.fill_(-50)
    return model


def test_the_statistics_are_the_mean_over_whole_batches_and_frozen_ones_stay():
    model, clips = network(), Clips()
    recalibrate_batch_norm(model, ["1"], clips, Precision.of("off", torch.device("cpu")), seed=0)
    batches = DATA[:8].split(4)
    means = torch.stack([batch.mean((0, 2, 3, 4)) for batch in batches])
    variances = torch.stack([batch.transpose(0, 1).flatten(1).var(1) for batch in batches])
    torch.testing.assert_close(model[0].running_mean, means.mean(0))
    torch.testing.assert_close(model[0].running_var, variances.mean(0))
    assert (model[1].running_mean == -50).all() and model[0].momentum == pytest.approx(0.1)
    assert not model.training and len(clips.seen) == 8 and {s.epoch for s in clips.seen} == {EVALUATION}


def test_without_a_trained_norm_nothing_is_read():
    model, clips = network(), Clips()
    recalibrate_batch_norm(model, ["0", "1"], clips, Precision.of("off", torch.device("cpu")), seed=0)
    assert not clips.seen and (model[0].running_mean == -50).all()


def test_an_epochs_line_holds_what_it_came_to():
    results = made_up_evaluation(4, 6).results
    entry = epoch_entry(EpochSummary(1.5, 50.0, 20.0, 5.0, 3), results, 0.01)
    assert entry["val_video_acc1"] == results.video.top1 and entry["val_clip_acc5"] == results.clip.top5
    assert (entry["epoch"], entry["train_loss"], entry["lr"]) == (3, 1.5, 0.01)
    assert (entry["seconds"], entry["data_seconds"]) == (20.0, 5.0)
    assert (entry["val_seconds"], entry["val_data_seconds"]) == (12.5, 1.25)
