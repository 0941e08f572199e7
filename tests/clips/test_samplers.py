from itertools import islice

import numpy as np
import torch

from clips.samplers import (
    EVALUATION,
    Sample,
    balanced_order,
    evaluation_samples,
    hashed,
    seeded_generator,
    training_samples,
    uniform_numbers,
)


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


def test_a_video_that_comes_again_has_the_epoch_that_it_always_had():
    samples = training_samples(torch.tensor([5, 6, 7, 9]), 1, 0, 3, balance=torch.tensor([0, 0, 0, 1]))
    assert sorted(sample.epoch for sample in samples if sample.video == 9) == [3, 3 + 16_777_216]
    assert [sample.epoch for sample in samples if sample.video != 9] == [3, 3]


def test_a_video_alone_is_its_first_clip_with_nothing_drawn():
    assert Sample(7) == (7, 0, EVALUATION) and EVALUATION < 0  # which is no epoch


def test_the_usual_order_is_as_it_was():
    # Half of `printf '(0, 1)' | b2sum -l 64`, the bytes of which are read from right to left.
    assert seeded_generator(0, 1).initial_seed() == 0xFA4BFD72665AC7ED // 2
    order = torch.randperm(6, generator=seeded_generator(0, 1)).tolist()
    assert training_samples(torch.arange(3), 2, 0, 1) == [Sample(i // 2, i % 2, 1) for i in order]


def test_every_clip_is_seen_once_an_epoch_whatever_the_world():
    videos = torch.tensor([3, 5, 8, 9, 11])
    whole = training_samples(videos, 2, seed=0, epoch=1)
    assert sorted((s.video, s.clip) for s in whole) == [(v, c) for v in videos.tolist() for c in (0, 1)]
    assert whole != training_samples(videos, 2, seed=0, epoch=2) and whole != training_samples(
        videos, 2, seed=1, epoch=1
    )
    for world_size in (2, 3, 4, 16):
        parts = [training_samples(videos, 2, 0, 1, rank, world_size) for rank in range(world_size)]
        assert len({len(part) for part in parts}) == 1
        seen = [sample for step in zip(*parts, strict=True) for sample in step]
        assert seen[: len(whole)] == whole  # the same order, dealt out
        assert len(seen) - len(whole) < world_size
        assert seen[len(whole) :] == (2 * whole)[: len(seen) - len(whole)]  # filled up from the start
    for rank in range(3):
        assert training_samples(torch.tensor([8]), 1, 0, 1, rank, 3) == [Sample(8, 0, 1)]


def test_evaluation_is_dealt_out_without_padding():
    assert evaluation_samples(torch.tensor([8, 5]), 2) == [(v, c, EVALUATION) for v in (8, 5) for c in (0, 1)]
    videos = torch.arange(7)
    for world_size in (1, 2, 3, 9):
        parts = [evaluation_samples(videos, 3, rank, world_size) for rank in range(world_size)]
        assert sorted(s for part in parts for s in part) == [Sample(v, c) for v in range(7) for c in range(3)]
        for part in parts:
            assert all(len([s for s in part if s.video == v]) in (0, 3) for v in range(7))


def test_neighbouring_keys_give_unrelated_draws():
    draws = [
        torch.rand(1, generator=seeded_generator(0, epoch, video)).item() for epoch in range(30) for video in range(30)
    ]
    grid = torch.tensor(draws).reshape(30, 30)
    assert abs(torch.corrcoef(torch.stack([grid[:-1].flatten(), grid[1:].flatten()]))[0, 1]) < 0.15
    assert len(set(draws)) > 890 and 0.45 < grid.mean() < 0.55


def splitmix64(state):
    """The published generator, one number after the other, in Python's own integers."""
    while True:
        state = (state + 0x9E3779B97F4A7C15) % 2**64
        z = (state ^ (state >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        z = (z ^ (z >> 27)) * 0x94D049BB133111EB % 2**64
        yield z ^ (z >> 31)


def test_numbers_are_those_of_splitmix64():
    # The first five of its reference implementation for the seed 1234567.
    known = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431, 16408922859458223821]
    assert list(islice(splitmix64(1234567), 5)) == known
    seeds = [1234567, 0, 2**64 - 1]
    found = uniform_numbers(np.array(seeds, np.uint64), 5)
    assert found.tolist() == [[(bits >> 11) / 2**53 for bits in islice(splitmix64(seed), 5)] for seed in seeds]
    assert (found < 1).all()


def test_a_seed_depends_on_every_column_and_on_nothing_else():
    columns = np.array([[0, 1, 5, 1 << 40, -1], [7, 7, 0, 3, 2]])
    expected = []
    for row in zip(*columns.tolist(), strict=True):
        state = 0
        for number in (2**63 + 3, *row):
            state = next(splitmix64(state ^ (number % 2**64)))
        expected.append(state)
    assert hashed(2**63 + 3, *columns).tolist() == expected
    assert hashed(2**63 + 3, *columns[:, 2:3]).tolist() == expected[2:3]


def test_neighbouring_seeds_give_unrelated_numbers():
    epochs, videos = np.divmod(np.arange(10_000), 100)
    numbers = uniform_numbers(hashed(0, epochs, videos), 3).reshape(100, 100, 3)
    grid = torch.from_numpy(numbers)
    neighbours = [grid[:-1, :, 0], grid[1:, :, 0]], [grid[:, :-1, 0], grid[:, 1:, 0]], [grid[..., 0], grid[..., 1]]
    for a, b in neighbours:
        assert abs(torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1]) < 0.05
    assert len(set(numbers.flatten().tolist())) == 30_000
    assert torch.histc(grid, 10, 0, 1).sub(3000).abs().max() < 250


def test_an_epoch_whose_last_step_was_filled_up_has_no_clips_left():
    for rank in range(2):  # 7 clips under two processes: 8 are seen
        assert training_samples(torch.arange(7), 1, 0, 0, rank, 2, seen=8) == []
    assert training_samples(torch.arange(3), 1, 0, 0, seen=5) == []  # of seven videos that then were there
