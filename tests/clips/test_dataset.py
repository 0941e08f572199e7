import numpy as np
import pytest
import torch

from clips.dataset import Augmentation, ClipDataset, DecodingReader
from clips.preprocessing import Preprocessing
from clips.presets import flippable
from clips.samplers import Sample
from helpers.numbered_videos import frame_number, write_numbered_video
from videos.folder import VideoFolder
from videos.frame_selection import VideoTiming, official_clip


@pytest.fixture
def make(tmp_path):
    """Makes a ClipDataset over two numbered videos, `left_leg` and `squats`."""
    for name in ("left_leg", "squats"):
        write_numbered_video(tmp_path / name / "v.mp4", 90, width=96, height=64)
    folder = VideoFolder(tmp_path)

    def make_dataset(selection="official", is_random=False, seed=0, **changes):
        sizes = {"resize_size": (64, 96), "crop_size": (64, 96)}
        preprocessing = Preprocessing(frame_selection=selection, **{"clip_len": 8, **sizes, **changes})
        augmentation = Augmentation(seed, may_flip=flippable(folder.classes)) if is_random else None
        reader = DecodingReader(folder, preprocessing)
        return ClipDataset(folder, lambda _: VideoTiming(90, 30.0), reader, preprocessing, augmentation=augmentation)

    return make_dataset


def read(dataset, sample):
    clip = np.empty(dataset.clip_shape, np.float32)
    flip = dataset.read_into(clip, sample)
    return clip, flip


def test_the_clip_holds_the_frames_that_were_planned(make):
    dataset = make(is_random=True)
    for sample in (Sample(0), Sample(1, 0, 3), Sample(1, 0, 4)):
        clip, _ = read(dataset, sample)
        numbers = [frame_number(np.rint(frame * 255)) for frame in clip]
        assert numbers == dataset.plan(sample).indices.tolist()
    assert dataset.plan(Sample(0)).indices.tolist() == official_clip(90, 30.0, 4, 8).tolist()


def test_repeated_frames_are_filled_in(make):
    dataset = make(clip_len=200)
    clip, _ = read(dataset, Sample(0))
    assert [frame_number(np.rint(frame * 255)) for frame in clip] == official_clip(90, 30.0, 4, 200).tolist()


def test_evaluation_takes_the_centre_and_never_flips(make):
    dataset = make(is_random=True, resize_size=(128, 171), crop_size=(112, 112))
    plan = dataset.plan(Sample(1))
    # torchvision's CenterCrop: round((128 - 112) / 2), round((171 - 112) / 2), halves to even.
    assert plan.region == (8, 30, 112, 112) and plan.flip is False
    still = make(resize_size=(128, 171), crop_size=(112, 112))
    assert [x.tolist() if torch.is_tensor(x) else x for x in still.plan(Sample(1, 0, 5))] == [
        x.tolist() if torch.is_tensor(x) else x for x in plan
    ]


def test_draws_depend_on_seed_epoch_and_video_alone(make):
    def plans(dataset):
        samples = [Sample(video, 0, epoch) for video in (0, 1) for epoch in range(20)]
        return [(p.indices.tolist(), *p[1:]) for p in map(dataset.plan, samples)]

    options = {"is_random": True, "resize_size": (80, 100), "crop_size": (64, 64)}
    first = plans(make(seed=1, **options))
    assert first == plans(make(seed=1, **options)) and first != plans(make(seed=2, **options))
    assert len({str(plan) for plan in first}) > 30
    tops = {plan[1].top for plan in first}
    assert min(tops) >= 0 and max(tops) <= 16 and len(tops) > 8


def test_sides_are_never_flipped_and_the_others_half_of_the_time(make):
    dataset = make(is_random=True)
    flips = [[dataset.plan(Sample(video, 0, epoch)).flip for epoch in range(400)] for video in (0, 1)]
    assert not any(flips[0]) and 150 < sum(flips[1]) < 250


def test_candidates_bind_the_choice(make):
    dataset = make("uniform", candidate_rate=6)
    assert all(index % 5 == 0 for index in dataset.plan(Sample(0)).indices.tolist())
