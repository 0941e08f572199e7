import itertools
import math
import random
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.errors import UserError
from videos.frame_selection import (
    FRAME_SELECTORS,
    VideoTiming,
    official,
    official_clip,
    official_clips,
    official_strip,
    snap,
    strip_rule,
)

RATES = [
    10.0,
    12.0,
    15.0,
    24000 / 1001,
    24.0,
    25.0,
    30000 / 1001,
    30.0,
    50.0,
    60000 / 1001,
    60.0,
    7.3,
    630000 / 47281,
    1000.0,
]


def slow_official_strip(n, fps, r, clip_len):
    """The rule, written as obviously as it can be."""
    total = n * r / fps
    if total < clip_len:
        r = math.ceil(clip_len / (n / fps))
        total = clip_len
    step = fps / r
    if step == int(step):
        frames = []
        frame = 0
        while frame < n:
            frames.append(frame)
            frame += int(step)
        return frames
    return [int(np.floor(np.float32(i) * np.float32(step))) for i in range(math.floor(total))]


def slow_official_clip(n, fps, r, clip_len, clip, clips_per_video):
    strip = slow_official_strip(n, fps, r, clip_len)
    start = int(np.floor(np.linspace(0, len(strip) - clip_len, clips_per_video)[clip]))
    return strip[start : start + clip_len]


def test_the_official_rule_agrees_with_the_slow_one_on_a_wide_table():
    draw = random.Random(0)
    for number in range(6_000):
        n = draw.randint(1, 40) if number % 3 == 0 else draw.randint(1, 400)
        fps = draw.choice(RATES) if number % 2 else draw.uniform(0.5, 240)
        r = draw.choice([1, 2, 4, 5, 7.5, 8, 15, 30, 30000 / 1001])
        clip_len = draw.choice([1, 4, 8, 16, 32])
        strip = official_strip(n, fps, r, clip_len)
        assert strip.dtype == torch.int64
        assert strip.tolist() == slow_official_strip(n, fps, r, clip_len), (n, fps, r, clip_len)
        clips_per_video = draw.choice([1, 1, 2, 3, 5, 10])
        clip = draw.randrange(clips_per_video)
        found = official_clip(n, fps, r, clip_len, clip, clips_per_video)
        assert found.tolist() == slow_official_clip(n, fps, r, clip_len, clip, clips_per_video)


def test_the_official_rule_on_every_small_count_and_common_rate():
    for fps in RATES:
        for n in range(1, 400):
            clip = official_clip(n, fps, 4, 16)
            assert clip.tolist() == slow_official_strip(n, fps, 4, 16)[:16]
            assert len(clip) == 16 and clip.min() >= 0 and clip.max() < n and (clip.diff() >= 0).all()


def test_known_clips():
    assert official_clip(150, 30.0, 4, 16).tolist() == [math.floor(i * 7.5) for i in range(16)]
    assert official_clip(12, 12.0, 4, 3).tolist() == [0, 3, 6]
    assert official_clip(12, 12.0, 4, 3, clip=1, clips_per_video=2).tolist() == [3, 6, 9]
    # Half a second at 30: the rate rises to 32 frames a second, above the video's own, and frames repeat.
    assert official_strip(15, 30.0, 4, 16).tolist() == [math.floor(i * 30 / 32) for i in range(16)]
    assert official_clip(1, 25.0, 4, 16).tolist() == [0] * 16


def test_starts_are_spread_in_float64():
    """Start 1 of 0 .. 100 over 15,999,999 is 159,999.99, which in float32 is 160,000."""
    assert official_clip(16_000_015, 4.0, 4, 16, clip=1, clips_per_video=101)[0] == 159_999


def test_several_clips_of_a_video_interleave():
    options = {"clip": 1, "clips_per_video": 2}
    assert FRAME_SELECTORS["uniform"](VideoTiming(301, 30.0), 8, 4, **options).tolist() == [
        40 * i + 20 for i in range(8)
    ]
    assert FRAME_SELECTORS["segment"](VideoTiming(160, 30.0), 16, 4, **options).tolist() == [
        10 * i + 7 for i in range(16)
    ]
    steady = VideoTiming(161, 30.0, torch.ones(160))
    assert FRAME_SELECTORS["motion"](steady, 20, 4, **options).tolist() == [8 * i + 6 for i in range(20)]


def test_a_batch_of_official_clips_is_that_of_the_slow_rule():
    draw = random.Random(1)
    for r, clip_len, clips_per_video, start_prob in ((4, 16, 1, 0.5), (7.5, 4, 3, 0.0), (30, 32, 2, 1.0)):
        videos = [VideoTiming(draw.randint(1, 400), draw.choice(RATES)) for _ in range(300)]
        clips = [draw.randrange(clips_per_video) for _ in videos]
        drawn = [None if draw.random() < 0.3 else [draw.random(), draw.random(), 7.0] for _ in videos]
        found = official_clips(videos, clip_len, r, clips, clips_per_video, drawn, start_prob)
        assert found.dtype == np.int64 and found.shape == (300, clip_len)
        for row, video, clip, numbers in zip(found.tolist(), videos, clips, drawn, strict=True):
            if numbers is None:
                assert row == slow_official_clip(video.num_frames, video.fps, r, clip_len, clip, clips_per_video)
            else:
                strip = slow_official_strip(video.num_frames, video.fps, r, clip_len)
                start = 0 if numbers[0] < start_prob else math.floor(numbers[1] * (len(strip) - clip_len + 1))
                assert row == strip[start : start + clip_len]


def test_numbers_drawn_before_take_the_place_of_a_generator():
    video = VideoTiming(300, 30.0, torch.rand(299, generator=torch.Generator().manual_seed(1)))
    # 40 frames in the strip, 25 starts: half of the way is start 12.
    found = FRAME_SELECTORS["official"](video, 16, 4, generator=[0.5, 0.5])
    assert found.dtype == torch.int64 and found.tolist() == [math.floor((12 + i) * 7.5) for i in range(16)]
    assert FRAME_SELECTORS["official"](video, 16, 4, generator=[0.49, 0.5]).tolist()[0] == 0
    centres = [*([0.5] * 16), 0.0]  # as evaluation takes them
    for name in ("uniform", "segment", "motion"):
        select = FRAME_SELECTORS[name]
        assert select(video, 16, 4, generator=centres).tolist() == select(video, 16, 4, generator=None).tolist()
    early = FRAME_SELECTORS["segment"](video, 3, 4, generator=[0.0, 0.25, 0.999])
    assert early.tolist() == [0, 125, 299]


@pytest.mark.parametrize("name, count", [("official", 2), ("uniform", 0), ("segment", 16), ("motion", 16)])
def test_a_generator_is_asked_for_no_more_numbers_than_promised(name, count):
    used, expected = (torch.Generator().manual_seed(3) for _ in range(2))
    FRAME_SELECTORS[name](VideoTiming(300, 30.0, torch.ones(299)), 16, 4, generator=used)
    torch.rand(count, generator=expected, dtype=torch.float64)
    assert torch.equal(used.get_state(), expected.get_state())


LAST_NUMBER = 1 - 2**-53  # that a generator can draw


@pytest.mark.parametrize("name", ["segment", "motion"])
def test_the_first_and_the_last_number_reach_the_first_and_the_last_frame(name):
    video = VideoTiming(100, 30.0, torch.ones(99))
    found = FRAME_SELECTORS[name](video, 16, 4, generator=[0.0] * 15 + [LAST_NUMBER])  # which 15 and it round up to 16
    assert (found[0], found[-1]) == (0, 99)


def test_float32_leads_to_no_frame_beyond_the_last():
    """The last of 16,029,919 frames is float32(16,029,918) * float32(1 / 16,029,919) = float32(1)."""
    assert official(VideoTiming(1, 1.0), 16, 16_029_919.0, generator=[0.9, LAST_NUMBER]).tolist() == [0] * 16


def test_float32_decides_where_float64_would_pick_another_frame():
    n, fps = 100_000, 30000 / 1001
    step = fps / 4
    exact = [math.floor(i * step) for i in range(math.floor(n * 4 / fps))]
    strip = official_strip(n, fps, 4, 16)
    assert strip.tolist() == slow_official_strip(n, fps, 4, 16)
    assert strip.tolist() != exact


def test_a_whole_step_is_exact_beyond_what_float32_can_count():
    assert official_strip(100_000_000, 33_333_333.0, 1, 3).tolist() == [0, 33_333_333, 66_666_666, 99_999_999]


def test_a_strip_is_as_long_as_float32_counts_in_ones_and_no_longer():
    assert strip_rule(16_777_216, 4.0, 4, 16) == (1.0, 16_777_216)
    with pytest.raises(ValueError, match="too far apart") as raised:
        strip_rule(16_777_217, 4.0, 4, 16)
    assert isinstance(raised.value, UserError) and "--frame-rate" in str(raised.value)  # one line, and what to do


@pytest.mark.parametrize("name", FRAME_SELECTORS)
def test_a_selector_takes_the_first_clip_of_one_unless_told(name):
    select = partial(FRAME_SELECTORS[name], VideoTiming(300, 30.0, torch.linspace(0, 1, 299)), 16, 4)
    assert select().tolist() == select(clip=0, clips_per_video=1, generator=None).tolist()
    assert select().tolist() != select(clip=1, clips_per_video=2, generator=None).tolist()
    assert select(clips_per_video=2).tolist() == select(clip=0, clips_per_video=2).tolist()


def test_official_training_starts_at_zero_half_of_the_time_unless_told():
    video = VideoTiming(300, 30.0)
    starts = [int(official(video, 16, 4, generator=[draw, 0.9])[0]) for draw in (0.0, 0.499, 0.5, 0.999)]
    assert starts == [0, 0, 165, 165]  # start 22 of 25, at 7.5 frames each


def test_a_batch_whose_columns_differ_in_length_is_refused():
    videos = [VideoTiming(300, 30.0)] * 2
    for clips, drawn in (([0], [None, None]), ([0, 0], [None])):
        with pytest.raises(ValueError, match="shorter"):
            official_clips(videos, 16, 4, clips, 1, drawn, 0.5)


@pytest.mark.parametrize("name", FRAME_SELECTORS)
@pytest.mark.parametrize("seed", [None, 0])
def test_every_selector_gives_sorted_indices_within_the_video(name, seed):
    select = FRAME_SELECTORS[name]
    for n in [*range(1, 40), 97, 300, 5000]:
        for clip_len in (1, 2, 16, 33):
            for clips_per_video in (1, 3):
                motion = torch.rand(max(n - 1, 1), generator=torch.Generator().manual_seed(n))
                generator = None if seed is None else torch.Generator().manual_seed(seed)
                for clip in range(clips_per_video):
                    chosen = select(
                        VideoTiming(n, 29.97, motion),
                        clip_len,
                        4,
                        clip=clip,
                        clips_per_video=clips_per_video,
                        generator=generator,
                    )
                    assert chosen.dtype == torch.int64 and chosen.shape == (clip_len,)
                    assert chosen.min() >= 0 and chosen.max() < n and (chosen.diff() >= 0).all()


@pytest.mark.parametrize("name", ["official", "segment", "motion"])
def test_training_draws_from_the_generator_alone(name):
    video = VideoTiming(300, 30.0, torch.rand(299, generator=torch.Generator().manual_seed(1)))
    select = partial(FRAME_SELECTORS[name], video, 16, 4, clip=0, clips_per_video=1)
    draws = [select(generator=torch.Generator().manual_seed(seed)).tolist() for seed in range(20)]
    again = [select(generator=torch.Generator().manual_seed(seed)).tolist() for seed in range(20)]
    assert draws == again
    assert len(set(map(tuple, draws))) > 5
    assert select(generator=None).tolist() == select(generator=None).tolist()


def test_official_training_starts_at_zero_as_often_as_asked():
    video = VideoTiming(300, 30.0)  # 40 frames in the strip, 25 starts
    generator = torch.Generator().manual_seed(0)
    for start_prob, low, high in ((0.0, 0.01, 0.08), (0.5, 0.47, 0.58), (1.0, 1.0, 1.0)):
        starts = [
            int(official(video, 16, 4, clip=0, clips_per_video=1, generator=generator, start_prob=start_prob)[0])
            for _ in range(1000)
        ]
        assert low <= starts.count(0) / 1000 <= high
        if start_prob < 1:
            assert set(starts) == {math.floor(i * 7.5) for i in range(25)}


def test_uniform_reaches_from_the_first_frame_to_the_last():
    chosen = FRAME_SELECTORS["uniform"](VideoTiming(301, 30.0), 16, 4, clip=0, clips_per_video=1, generator=None)
    assert chosen.tolist() == [20 * i for i in range(16)]


def test_segment_takes_one_frame_of_each_part():
    select = partial(FRAME_SELECTORS["segment"], VideoTiming(160, 30.0), 16, 4, clip=0, clips_per_video=1)
    assert select(generator=None).tolist() == [10 * i + 5 for i in range(16)]
    for seed in range(50):
        chosen = select(generator=torch.Generator().manual_seed(seed))
        assert (chosen // 10).tolist() == list(range(16))


def slow_motion(motion, n, clip_len):
    """Walks along the cumulated mass in small steps."""
    mass = np.sqrt(motion)
    mass = 0.7 * mass / mass.sum() + 0.3 / len(mass)
    grid = np.linspace(0, n - 1, 200 * (n - 1) + 1)
    cumulated = np.interp(grid, np.arange(n), np.concatenate([[0], np.cumsum(mass)]))
    return [grid[np.searchsorted(cumulated, (part + 0.5) / clip_len)] for part in range(clip_len)]


def test_motion_takes_the_frame_nearest_each_centre_of_equal_mass():
    generator = np.random.default_rng(0)
    for n in (20, 97, 250):
        motion = generator.random(n - 1) ** 3
        video = VideoTiming(n, 30.0, torch.from_numpy(motion))
        chosen = FRAME_SELECTORS["motion"](video, 16, 4, clip=0, clips_per_video=1, generator=None)
        assert np.abs(chosen.numpy() - slow_motion(motion, n, 16)).max() <= 0.51


def test_motion_goes_where_the_movement_is():
    motion = torch.zeros(99)
    motion[60:80] = 1.0
    select = partial(FRAME_SELECTORS["motion"], VideoTiming(100, 30.0, motion), 20, 4, clip=0, clips_per_video=1)
    chosen = select(generator=None)
    inside = ((chosen >= 60) & (chosen <= 80)).sum()
    assert inside >= 14  # 0.7 of the mass, and a fifth of the rest
    drawn = select(generator=torch.Generator().manual_seed(0))
    assert ((drawn >= 60) & (drawn <= 80)).sum() >= 13


@given(st.lists(st.integers(0, 9), min_size=1, max_size=20), st.integers(1, 40), st.integers(1, 40), st.booleans())
@settings(deadline=None, database=None, max_examples=100)
def test_motion_depends_on_the_shape_of_the_curve_alone_and_keeps_to_the_video(curve, num_frames, clip_len, drawn):
    numbers = [LAST_NUMBER] * clip_len if drawn else None
    found = []
    for scale in (2.0**-80, 1.0, 2.0**10):
        video = VideoTiming(num_frames, 30.0, torch.tensor(curve, dtype=torch.float64) * scale)
        found.append(FRAME_SELECTORS["motion"](video, clip_len, 4, generator=numbers).tolist())
    assert found[0] == found[1] == found[2] == sorted(found[1])
    assert found[0][0] >= 0 and found[0][-1] < num_frames


def test_motion_of_a_still_video_is_the_uniform_choice():
    for n in (1, 7, 100):
        video = VideoTiming(n, 30.0, torch.zeros(max(n - 1, 0)))
        options = {"clip": 0, "clips_per_video": 1, "generator": None}
        uniform = FRAME_SELECTORS["uniform"](video, 16, 4, **options)
        assert FRAME_SELECTORS["motion"](video, 16, 4, **options).tolist() == uniform.tolist()


@pytest.mark.parametrize("seed", [None, 0])
def test_a_single_frame_needs_no_motion_curve(seed):
    generator = None if seed is None else torch.Generator().manual_seed(seed)
    assert FRAME_SELECTORS["motion"](VideoTiming(1, 30.0), 4, 4, generator=generator).tolist() == [0] * 4


@pytest.mark.parametrize("num_frames", [2, 10])
def test_motion_without_a_curve_is_refused(num_frames):
    with pytest.raises(ValueError, match="motion curve"):
        FRAME_SELECTORS["motion"](VideoTiming(num_frames, 30.0), 4, 4, clip=0, clips_per_video=1, generator=None)


@pytest.mark.parametrize(
    "arguments",
    [
        *((0, 30.0, 4, 16), (10, 0.0, 4, 16), (10, 30.0, 0, 16), (10, math.nan, 4, 16), (10, 30.0, math.nan, 16)),
        *((10, math.inf, 4, 16), (10, 30.0, math.inf, 16), (10, 30.0, -4, 16), (10, 30.0, 4, 0)),
    ],
)
def test_impossible_counts_and_rates_are_refused(arguments):
    with pytest.raises(ValueError, match="positive"):
        official_strip(*arguments)


def test_absurd_rates_give_the_official_rule_or_are_refused():
    rates = [5e-324, 1e-300, 1e-9, 1.0, 1e9, 1e300, 1e308, 1.7e308]
    refused = 0
    for n, fps, frame_rate, clip_len in itertools.product((1, 16, 10_000), rates, rates, (1, 16)):
        try:
            strip = official_strip(n, fps, frame_rate, clip_len)
        except ValueError as error:
            assert "too far apart" in str(error)
            refused += 1
        else:
            assert strip.tolist() == slow_official_strip(n, fps, frame_rate, clip_len), (n, fps, frame_rate, clip_len)
            assert len(strip) >= clip_len and strip.max() < n
    assert 0 < refused < 3 * 2 * len(rates) ** 2


@pytest.mark.parametrize("clip, clips_per_video", [(-1, 1), (1, 1), (5, 5), (0, 0)])
def test_a_clip_that_there_is_not_is_refused(clip, clips_per_video):
    with pytest.raises(ValueError, match="there is no clip"):
        official_clip(100, 30.0, 4, 4, clip, clips_per_video)


def test_a_second_clip_is_not_of_one():
    for select in (partial(official_clip, 100, 30.0, 4, 4), partial(official, VideoTiming(100, 30.0), 4, 4)):
        with pytest.raises(ValueError, match="there is no clip 1 of 1"):
            select(clip=1)


@given(st.lists(st.integers(-3, 40), min_size=1), st.sets(st.integers(0, 30), min_size=1))
@settings(deadline=None, database=None, max_examples=100)
def test_snap_takes_the_nearest_candidate_and_the_earlier_of_two(indices, candidates):
    expected = [min(candidates, key=lambda candidate: (abs(candidate - index), candidate)) for index in indices]
    assert snap(torch.tensor(indices), torch.tensor(sorted(candidates))).tolist() == expected


def test_snap_takes_the_nearest_candidate():
    assert snap(torch.tensor([0, 2, 3, 4, 9, 50]), torch.tensor([1, 4, 6])).tolist() == [1, 1, 4, 4, 6, 6]
