import torch

from clips.samplers import EVALUATION, Sample, balanced_order, seeded_generator, training_samples


def order_of(counts, epoch=0):
    labels = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    order, repeats = balanced_order(labels, seeded_generator(0, epoch))
    return labels, order, repeats


def test_classes_are_seen_equally_often_and_the_epoch_is_as_long():
    for counts in ([50, 3, 7], [1, 1, 100], [4, 4, 4], [9], [5, 0, 2]):
        labels, order, repeats = order_of(counts)
        assert len(order) == len(repeats) == sum(counts)
        seen = labels[order].bincount(minlength=len(counts))[torch.tensor(counts) > 0]
        assert seen.max() - seen.min() <= 1


def test_within_a_class_clips_are_seen_equally_often_and_repeats_are_counted():
    _, order, repeats = order_of([50, 3, 7])
    times = order.bincount(minlength=60)
    assert times[:50].max() == 1 and times[50:53].max() - times[50:53].min() <= 1 and times[53:].min() >= 2
    for clip in (51, 55):
        assert sorted(repeats[order == clip].tolist()) == list(range(times[clip]))


def test_epochs_differ_and_the_large_class_comes_to_its_turn():
    seen = {epoch: set(order_of([50, 3, 7], epoch)[1].tolist()) for epoch in range(12)}
    assert seen[0] != seen[1] and set().union(*seen.values()) == set(range(60))
    assert torch.equal(order_of([50, 3, 7], 4)[1], order_of([50, 3, 7], 4)[1])


def test_processes_share_the_balanced_epoch_and_repeats_are_drawn_anew():
    videos, labels = torch.arange(12), torch.tensor([0] * 10 + [1] * 2)
    whole = training_samples(videos, 1, 0, 3, balance=labels)
    assert len(whole) == len(set(whole)) == 12  # a video that comes again has an epoch of its own
    assert sum(sample.video >= 10 for sample in whole) == 6
    parts = [training_samples(videos, 1, 0, 3, rank, 2, balance=labels) for rank in range(2)]
    assert [sample for step in zip(*parts, strict=True) for sample in step] == whole
    assert training_samples(videos, 1, 0, 3, seen=5, balance=labels) == whole[5:]
    assert all(sample.epoch != EVALUATION for sample in whole)


def test_the_usual_order_is_as_it_was():
    assert training_samples(torch.arange(3), 2, 0, 1)[0]._fields == Sample._fields
    order = torch.randperm(6, generator=seeded_generator(0, 1)).tolist()
    assert training_samples(torch.arange(3), 2, 0, 1) == [Sample(i // 2, i % 2, 1) for i in order]
