from dataclasses import FrozenInstanceError

import pytest
import torch

from evaluation.metrics import Accuracies, VideoScores, accuracies, confusion_matrix, truth_ranks


def scored(logits, targets, videos=None, clips_per_video=1):
    """Results of clips with these logits; without `videos`, clip i is video i's."""
    videos = torch.arange(len(logits)) if videos is None else videos
    scores = VideoScores(targets, logits.shape[1], clips_per_video)
    for part in torch.arange(len(logits)).split(3):
        losses = torch.nn.functional.cross_entropy(logits[part], targets[videos[part]], reduction="none")
        scores.update(videos[part], logits[part], losses)
    return scores.reduce(torch.arange(len(targets)))


def slow_accuracy(scores, targets, k):
    right = 0
    for row, target in zip(scores.tolist(), targets.tolist(), strict=True):
        best = sorted(range(len(row)), key=lambda i: (-row[i], i))[:k]
        right += target in best
    return 100 * right / len(targets)


def test_percents_are_as_short_as_they_can_be():
    ranks = torch.tensor([0] * 15 + [7] * 9)
    assert accuracies(ranks) == Accuracies(62.5, 62.5, 24)  # 15 times 100 / 24 is 62.50000000000001
    results = scored(torch.eye(2)[[0] * 15 + [1] * 9], torch.zeros(24, dtype=torch.int64))
    assert results.clip == Accuracies(62.5, 100.0, 24)


@pytest.mark.parametrize("num_classes", [2, 4, 9])
def test_accuracies_agree_with_a_loop(num_classes):
    generator = torch.Generator().manual_seed(num_classes)
    logits = torch.randn(40, num_classes, generator=generator)
    targets = torch.randint(num_classes, (20,), generator=generator)
    videos = torch.arange(20).repeat(2)[torch.randperm(40, generator=generator)]
    results = scored(logits, targets, videos, clips_per_video=2)
    means = torch.stack([logits[videos == video].softmax(1).mean(0) for video in range(20)])
    for k, clip, video in ((1, results.clip.top1, results.video.top1), (5, results.clip.top5, results.video.top5)):
        assert clip == pytest.approx(slow_accuracy(logits, targets[videos], k))
        assert video == pytest.approx(slow_accuracy(means, targets, k))
    expected = torch.nn.functional.cross_entropy(logits.double(), targets[videos])
    assert results.loss == pytest.approx(expected.item(), rel=1e-5)
    assert (results.clip.count, results.video.count, results.clips_per_video) == (40, 20, 2)


def test_the_results_of_two_videos_computed_by_hand():
    scores = VideoScores(torch.tensor([1, 0, 1]), num_classes=2, clips_per_video=2)  # video 0 is not validated
    odds = torch.tensor([[3.0, 1.0], [1.0, 7.0], [1.0, 3.0], [1.0, 1.0]])  # right, wrong, right, undecided: class 0
    losses = torch.tensor([0.5, 2.0, 0.25, 2.25])
    scores.update(torch.tensor([1, 1, 2]), odds[:3].log(), losses[:3])
    scores.update(torch.tensor([2]), odds[3:].log(), losses[3:])
    results = scores.reduce(torch.tensor([2, 1]))
    assert results.videos.tolist() == [2, 1] and results.targets.tolist() == [1, 0]
    # Video 2: the mean of (1/4, 3/4) and (1/2, 1/2); video 1: that of (3/4, 1/4) and (1/8, 7/8).
    expected = torch.tensor([[3 / 8, 5 / 8], [7 / 16, 9 / 16]], dtype=torch.float64)
    torch.testing.assert_close(results.scores, expected, rtol=1e-6, atol=0)
    assert results.ranks.tolist() == [0, 1] and results.predictions.tolist() == [1, 1]
    assert results.clip == Accuracies(top1=50.0, top5=100.0, count=4) and results.loss == 1.25
    assert results.video == Accuracies(top1=50.0, top5=100.0, count=2) and results.clips_per_video == 2
    assert (results.seconds, results.data_seconds) == (0, 0)  # until somebody has timed the validation


def test_a_single_video_counts_in_full_and_none_at_all_is_no_error():
    results = scored(torch.tensor([[0.0, 1.0]]).log_softmax(1), torch.tensor([1]))
    assert results.clip == results.video == Accuracies(100.0, 100.0, 1)
    assert results.loss == pytest.approx(0.313262, abs=1e-6)  # log(1 + 1 / e)
    results = VideoScores(torch.tensor([1]), 2, 1).reduce(torch.tensor([], dtype=torch.int64))
    assert results.clip == results.video == Accuracies(0.0, 0.0, 0) and results.loss == 0


def test_losses_are_summed_in_float64_and_results_hold_no_graph():
    scores = VideoScores(torch.tensor([0, 0, 0]), 2, 1)
    logits = torch.zeros(3, 2, requires_grad=True)
    for part in (slice(0, 2), slice(2, 3)):  # float32 and bfloat16 would lose the ones
        losses = torch.tensor([16_777_216.0, 1.0, 1.0], dtype=torch.bfloat16)[part]
        scores.update(torch.arange(3)[part], logits[part], losses)
    results = scores.reduce(torch.arange(3))
    assert results.loss == 5_592_406.0 and isinstance(results.clip.count, int)
    assert not results.scores.requires_grad


def test_results_cannot_be_changed():
    results = scored(torch.zeros(2, 3), torch.tensor([0, 1]))
    for changed, field in ((results, "loss"), (results.clip, "top1")):
        with pytest.raises(FrozenInstanceError):
            setattr(changed, field, 0.0)


def test_with_one_clip_a_video_both_are_the_same_however_large_the_logits():
    generator = torch.Generator().manual_seed(0)
    logits = 200 * torch.randn(60, 12, generator=generator)  # float32 softmax would be 0 nearly everywhere
    results = scored(logits, torch.randint(12, (60,), generator=generator))
    assert (results.clip.top1, results.clip.top5) == (results.video.top1, results.video.top5)


def test_a_video_that_is_scored_too_seldom_or_too_often_is_noticed():
    logits, targets = torch.zeros(3, 2), torch.tensor([0, 1, 0])
    for videos in ([0, 1], [0, 1, 2, 2]):
        scores = VideoScores(targets, 2, 1)
        scores.update(torch.tensor(videos), logits[:1].expand(len(videos), 2), torch.zeros(len(videos)))
        with pytest.raises(RuntimeError, match="1 videos were not scored 1 times"):
            scores.reduce(torch.arange(3))


def test_equal_outputs_are_right_for_one_class_only_and_none_for_no_numbers():
    assert truth_ranks(torch.zeros(3, 3), torch.arange(3)).tolist() == [0, 1, 2]
    for num_classes, rank in ((3, 5), (5, 5), (8, 8)):  # behind every class, and behind the top 5 of fewer
        ranks = truth_ranks(torch.full((1, num_classes), torch.nan), torch.tensor([0]))
        assert ranks.tolist() == [rank] and accuracies(ranks) == Accuracies(0.0, 0.0, 1)
    results = scored(torch.tensor([[torch.nan, 1.0], [0.0, 1.0]]), torch.tensor([0, 1]))
    assert results.predictions.tolist() == [-1, 1] and results.video.top1 == 50


def test_the_confusion_matrix_agrees_with_a_loop():
    generator = torch.Generator().manual_seed(0)
    targets, predictions = torch.randint(5, (2, 300), generator=generator)
    predictions[:7] = -1
    expected = [[0] * 5 for _ in range(5)]
    for target, prediction in zip(targets.tolist(), predictions.tolist(), strict=True):
        if prediction >= 0:
            expected[target][prediction] += 1
    assert confusion_matrix(targets, predictions, 5).tolist() == expected
    # The cells after the last one that holds a video are there, too.
    small = confusion_matrix(torch.tensor([1, 0, 1]), torch.tensor([0, -1, 0]), 3)
    assert small.tolist() == [[0, 0, 0], [2, 0, 0], [0, 0, 0]]
