import shutil
from functools import partial

import numpy as np
import pytest
import torch

from clips.dataset import ClipDataset, DecodingReader
from clips.presets import flippable
from clips.samplers import Sample, evaluation_samples, seeded_generator, training_samples
from helpers.numbered_videos import frame_number, write_numbered_video
from helpers.small_datasets import write_moving_bar
from videos.folder import DatasetError, VideoFolder
from videos.frame_selection import FRAME_SELECTORS, VideoTiming, official_clip


def test_a_folder_lists_videos_by_class_and_name(tmp_path):
    for name in ("b/2.mp4", "b/10.MP4", "a/x.MOV", "a/-dash.webm", "c/.hidden.mp4", "c/notes.txt", ".clip_cache/d.mp4"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x" * len(name))
    folder = VideoFolder(tmp_path)
    assert folder.classes == ["a", "b", "c"]
    assert folder.names.strings() == ["a/-dash.webm", "a/x.MOV", "b/10.MP4", "b/2.mp4"]
    assert folder.labels.tolist() == [0, 0, 1, 1] and folder.sizes.tolist() == [12, 7, 8, 7]
    assert folder.path(2) == str(tmp_path / "b/10.MP4")
    assert VideoFolder(tmp_path, ["c", "b", "z", "a"]).labels.tolist() == [3, 3, 1, 1]


def test_a_folder_that_is_not_what_training_needs(tmp_path):
    with pytest.raises(DatasetError, match="not a folder"):
        VideoFolder(tmp_path / "absent")
    (tmp_path / "a").mkdir()
    with pytest.raises(DatasetError, match="no videos"):
        VideoFolder(tmp_path)
    with pytest.raises(DatasetError, match="does not know: a"):
        VideoFolder(tmp_path, ["b"])


@pytest.fixture
def make(tmp_path):
    """Makes a ClipDataset over two numbered videos, `left_leg` and `squats`."""
    for name in ("left_leg", "squats"):
        write_numbered_video(tmp_path / name / "v.mp4", 90, width=96, height=64)
    folder = VideoFolder(tmp_path)

    def make_dataset(selection="official", crop_size=(64, 96), resize_size=(64, 96), **options):
        reader = DecodingReader(folder, resize_size)
        timing = partial(VideoTiming, 90, 30.0)
        options = {"clip_len": 8, "frame_rate": 4, "clips_per_video": 1, **options}
        return ClipDataset(
            folder,
            lambda _: timing(),
            reader,
            FRAME_SELECTORS[selection],
            resize_size=resize_size,
            crop_size=crop_size,
            may_flip=flippable(folder.classes),
            **options,
        )

    return make_dataset


def read(dataset, sample):
    clip = np.empty(dataset.clip_shape, np.float32)
    flip = dataset.read_into(clip, sample)
    return clip, flip


def test_the_clip_holds_the_frames_that_were_planned(make):
    dataset = make(random=True)
    for sample in (Sample(0), Sample(1, 0, 3), Sample(1, 0, 4)):
        clip, _ = read(dataset, sample)
        numbers = [frame_number(np.rint(frame * 255)) for frame in clip]
        assert numbers == dataset.plan(sample).indices.tolist()
    assert dataset.plan(Sample(0)).indices.tolist() == official_clip(90, 30.0, 4, 8).tolist()


def test_repeated_frames_are_filled_in(make, tmp_path):
    dataset = make(clip_len=200)
    clip, _ = read(dataset, Sample(0))
    assert [frame_number(np.rint(frame * 255)) for frame in clip] == official_clip(90, 30.0, 4, 200).tolist()


def test_evaluation_takes_the_centre_and_never_flips(make):
    dataset = make(random=True, resize_size=(128, 171), crop_size=(112, 112))
    plan = dataset.plan(Sample(1))
    # torchvision's CenterCrop: round((128 - 112) / 2), round((171 - 112) / 2), halves to even.
    assert plan.region == (8, 30, 112, 112) and plan.flip is False
    still = make(random=False, resize_size=(128, 171), crop_size=(112, 112))
    assert [x.tolist() if torch.is_tensor(x) else x for x in still.plan(Sample(1, 0, 5))] == [
        x.tolist() if torch.is_tensor(x) else x for x in plan
    ]


def test_draws_depend_on_seed_epoch_and_video_alone(make):
    def plans(dataset):
        samples = [Sample(video, 0, epoch) for video in (0, 1) for epoch in range(20)]
        return [(p.indices.tolist(), *p[1:]) for p in map(dataset.plan, samples)]

    options = {"random": True, "resize_size": (80, 100), "crop_size": (64, 64)}
    first = plans(make(seed=1, **options))
    assert first == plans(make(seed=1, **options)) and first != plans(make(seed=2, **options))
    assert len({str(plan) for plan in first}) > 30
    tops = {plan[1].top for plan in first}
    assert min(tops) >= 0 and max(tops) <= 16 and len(tops) > 8


def test_sides_are_never_flipped_and_the_others_half_of_the_time(make):
    dataset = make(random=True)
    flips = [[dataset.plan(Sample(video, 0, epoch)).flip for epoch in range(400)] for video in (0, 1)]
    assert not any(flips[0]) and 150 < sum(flips[1]) < 250


def test_candidates_bind_the_choice(make):
    dataset = make("uniform", candidate_rate=6)
    assert all(index % 5 == 0 for index in dataset.plan(Sample(0)).indices.tolist())


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


def test_evaluation_is_dealt_out_without_padding():
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


def test_a_dangling_link_is_listed_for_the_scan_to_report(tmp_path):
    write_moving_bar(tmp_path / "a" / "v.mp4", seed=0)
    (tmp_path / "a" / "gone.mp4").symlink_to(tmp_path / "nowhere")
    assert len(VideoFolder(tmp_path)) == 2
    shutil.rmtree(tmp_path / "a")
