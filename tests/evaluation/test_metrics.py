import pytest
import torch

from evaluation.metrics import VideoScores, accuracies, confusion_matrix, truth_ranks


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
    ranks = truth_ranks(torch.full((1, 3), torch.nan), torch.tensor([0]))
    assert accuracies(ranks).top5 == 0
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
