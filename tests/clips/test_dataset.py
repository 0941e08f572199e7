import numpy as np
import pytest
import torch
from torchvision.transforms._presets import VideoClassification

from clips.dataset import Augmentation, ClipDataset, DecodingReader
from clips.preprocessing import Preprocessing
from clips.presets import flippable
from clips.samplers import EVALUATION, REPEAT, Sample
from helpers.numbered_videos import frame_number, write_numbered_video
from videos.decoding import read_frames
from videos.folder import VideoFolder
from videos.frame_selection import FRAME_SELECTORS, VideoTiming, official_clip


@pytest.fixture
def make(tmp_path):
    """Makes a ClipDataset over two numbered videos, `left_leg` and `squats`."""
    for name in ("left_leg", "squats"):
        write_numbered_video(tmp_path / name / "v.mp4", 90, width=96, height=64)
    folder = VideoFolder(tmp_path)

    def timing(video):
        return VideoTiming(90, 30.0, torch.linspace(0, 1, 89))

    def make_dataset(selection="official", is_random=False, seed=0, **changes):
        sizes = {"resize_size": (64, 96), "crop_size": (64, 96)}
        preprocessing = Preprocessing(frame_selection=selection, **{"clip_len": 8, **sizes, **changes})
        augmentation = Augmentation(seed, may_flip=flippable(folder.classes)) if is_random else None
        reader = DecodingReader(folder, preprocessing)
        return ClipDataset(folder, timing, reader, preprocessing, augmentation=augmentation)

    return make_dataset


def read(dataset, sample):
    clip = np.empty(dataset.clip_shape, np.float32)
    (flip,) = dataset.read_into(clip[None], [sample])
    return clip, flip


def test_the_clip_holds_the_frames_that_were_planned(make):
    dataset = make(is_random=True)
    for sample in (Sample(0), Sample(1, 0, 3), Sample(1, 0, 4)):
        clip, _ = read(dataset, sample)
        numbers = [frame_number(np.rint(frame * 255)) for frame in clip]
        assert numbers == dataset.plan([sample])[0].indices.tolist()
    assert dataset.plan([Sample(0)])[0].indices.tolist() == official_clip(90, 30.0, 4, 8).tolist()


def test_repeated_frames_are_filled_in(make):
    dataset = make(clip_len=200)
    clip, _ = read(dataset, Sample(0))
    assert [frame_number(np.rint(frame * 255)) for frame in clip] == official_clip(90, 30.0, 4, 200).tolist()


def test_evaluation_takes_the_centre_and_never_flips(make):
    dataset = make(is_random=True, resize_size=(128, 171), crop_size=(112, 112))
    (plan,) = dataset.plan([Sample(1)])
    # torchvision's CenterCrop: round((128 - 112) / 2), round((171 - 112) / 2), halves to even.
    assert plan.region == (8, 30, 112, 112) and plan.flip is False
    still = make(resize_size=(128, 171), crop_size=(112, 112))
    (same,) = still.plan([Sample(1, 0, 5)])
    assert same[1:] == plan[1:] and same.indices.tolist() == plan.indices.tolist()


def test_draws_depend_on_seed_epoch_and_video_alone(make):
    def plans(dataset):
        samples = [Sample(video, 0, epoch) for video in (0, 1) for epoch in range(20)]
        return [(p.indices.tolist(), *p[1:]) for p in dataset.plan(samples)]

    options = {"is_random": True, "resize_size": (80, 100), "crop_size": (64, 64)}
    first = plans(make(seed=1, **options))
    assert first == plans(make(seed=1, **options)) and first != plans(make(seed=2, **options))
    assert len({str(plan) for plan in first}) > 30
    tops = {plan[1].top for plan in first}
    assert min(tops) >= 0 and max(tops) <= 16 and len(tops) > 8


def test_drawn_clips_are_as_features_on_disk_were_drawn(make):
    """First frame, top, left and flip, computed apart: other ones need another `random` in `describe`."""
    dataset = make(seed=3, is_random=True, resize_size=(80, 100), crop_size=(64, 64))
    plans = dataset.plan([Sample(1, 0, epoch) for epoch in range(6)])
    expected = [
        (0, 0, 15, True),
        (30, 8, 21, False),
        (22, 14, 25, True),
        (0, 12, 6, True),
        (0, 5, 9, True),
        (7, 11, 35, True),
    ]
    assert [(plan.indices[0], *plan.region[:2], plan.flip) for plan in plans] == expected
    assert dataset.describe(drawn=True)["random"] == "splitmix64"


def test_a_plan_is_the_same_in_any_company(make):
    for selection in FRAME_SELECTORS:
        dataset = make(selection, is_random=True, resize_size=(80, 100), crop_size=(64, 64))
        samples = [Sample(video, 0, epoch) for epoch in (3, EVALUATION, 4, REPEAT + 3) for video in (0, 1)]
        plans = dataset.plan(samples)
        for sample, plan in list(zip(samples, plans, strict=True))[::-1]:
            (alone,) = dataset.plan([sample])
            assert alone.indices.tolist() == plan.indices.tolist() and alone[1:] == plan[1:]


def test_sides_are_never_flipped_and_the_others_half_of_the_time(make):
    dataset = make(is_random=True)
    flips = [[plan.flip for plan in dataset.plan([Sample(v, 0, epoch) for epoch in range(400)])] for v in (0, 1)]
    assert not any(flips[0]) and 150 < sum(flips[1]) < 250


def test_candidates_bind_the_choice(make):
    dataset = make("uniform", candidate_rate=6)
    assert all(index % 5 == 0 for index in dataset.plan([Sample(0)])[0].indices.tolist())


def test_a_shorter_side_is_that_of_each_video(tmp_path):
    """A wide and a tall video: each keeps its shape, and gives clips of one size, as torchvision's transforms do."""
    for name, width, height in (("a/wide", 96, 64), ("b/tall", 64, 96)):
        write_numbered_video(tmp_path / f"{name}.mp4", 30, width=width, height=height)
    folder = VideoFolder(tmp_path)
    preprocessing = Preprocessing(4, resize_size=(48,), crop_size=(40, 32), mean=(0.45,) * 3, std=(0.225,) * 3)
    reader = DecodingReader(folder, preprocessing)
    still, drawn = (
        ClipDataset(folder, lambda _: VideoTiming(30, 30.0), reader, preprocessing, augmentation=augmentation)
        for augmentation in (None, Augmentation())
    )
    official = VideoClassification(crop_size=(40, 32), resize_size=(48,), mean=(0.45,) * 3, std=(0.225,) * 3)
    for video in (0, 1):
        clip, _ = read(still, Sample(video))
        frames = read_frames(folder.path(video), still.plan([Sample(video)])[0].indices)
        expected = official(frames.permute(0, 3, 1, 2) / 255)
        found = still.to_inputs(torch.from_numpy(clip)[None], torch.zeros(1, dtype=torch.bool))[0]
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)
        clips = [read(drawn, Sample(video, 0, epoch))[0] for epoch in range(4)]
        assert all(clip.shape == (4, 40, 32, 3) for clip in clips)
        assert any((clip != clips[0]).any() for clip in clips[1:])


def test_what_features_depend_on_is_as_it_was_unless_the_network_is_fed_otherwise(make):
    sizes = {"resize_size": (128, 171), "crop_size": (112, 112)}
    assert make(**sizes).describe(drawn=False)["crop"] == [(16, 59), (112, 112)]
    assert "normalize" not in make(**sizes).describe(drawn=False)
    other = make(resize_size=(128,), crop_size=(112, 112), mean=(0.45,) * 3).describe(drawn=False)
    assert other["crop"] == [(128,), (112, 112)] and other["normalize"][0] == (0.45,) * 3
