"""Opening splits: which videos each selection sees, and the space that all of them need."""

import hashlib
import os
import re
import shutil
from contextlib import contextmanager
from dataclasses import FrozenInstanceError, replace
from itertools import islice
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from caching import cache_building, clip_cache, splits
from caching.clip_cache import CacheError
from caching.splits import (
    ClipOptions,
    Clips,
    DifferentVideos,
    UnreadableVideos,
    join,
    open_clips,
    open_splits,
)
from clips.dataset import ClipDataset
from clips.preprocessing import Preprocessing
from clips.samplers import Sample
from clips.strong_augmentation import StrongClipDataset
from helpers.numbered_videos import set_display_matrix
from helpers.small_datasets import make_dataset
from runtime.columns import Ragged
from runtime.worker_pool import WorkerDied
from videos import index
from videos.decoding import VideoError
from videos.folder import DatasetError, VideoFolder
from videos.index import VideoIndex, scan_videos

PREPROCESSING = Preprocessing(4, resize_size=(32, 40), crop_size=(28, 28))
OPTIONS = {
    "skip_unreadable": True,
    "batch_size": 4,
    "num_workers": 0,
}


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Written once, as encoding takes longest; not to be changed."""
    return make_dataset(tmp_path_factory.mktemp("written"), ["a", "b"], num_train=1, num_val=2)


@pytest.fixture
def data(written, tmp_path):
    return shutil.copytree(written, tmp_path / "data")


def test_the_space_for_all_splits_is_checked_before_the_first_is_built(data, tmp_path, monkeypatch):
    options = ClipOptions(PREPROCESSING, **OPTIONS, cached=True, cache_dir=tmp_path / "cache")
    splits = [(VideoFolder(data / split), options) for split in ("train", "val", "val")]
    videos = 2 + 4  # those of val once
    needed = videos * 4 * 3 * 32 * 40  # 4 frames of 32x40 each
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=needed - 1))
    with pytest.raises(CacheError, match="are free"):
        open_splits(splits)
    assert not list((tmp_path / "cache").glob("*/*.shard"))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=needed))
    assert [len(clips.videos) for clips in open_splits(splits)] == [2, 4, 4]


def test_a_file_on_which_a_worker_died_is_left_out_by_all_selections(data, tmp_path, monkeypatch):
    real = cache_building.map_in_workers

    def results(function, paths, *rest, on_death):
        for number, result in enumerate(real(function, paths, *rest)):
            yield on_death(WorkerDied("", -9)) if number == 1 else result

    monkeypatch.setattr(cache_building, "map_in_workers", results)
    options = {**OPTIONS, "cached": True, "cache_dir": tmp_path / "cache"}
    wanted = [replace(PREPROCESSING, frame_selection=name, candidate_rate=8.0) for name in ("official", "uniform")]
    splits = [(VideoFolder(data / "val"), ClipOptions(preprocessing, **options)) for preprocessing in wanted]
    assert [clips.videos.tolist() for clips in open_splits(splits)] == [[0, 2, 3]] * 2


@pytest.mark.parametrize("selections", [["official"], ["official", "motion"], ["motion", "uniform"]])
def test_all_selections_see_the_same_videos(data, tmp_path, monkeypatch, selections):
    """One file's header is whole, and it decodes for a while: only reading all of it finds the damage."""
    real = index.open_whole

    @contextmanager
    def open_whole(path):
        with real(path) as video:
            if Path(path).parts[-2:] == ("b", "00000001.mp4"):
                frames = [*islice(video.frames(), 15)]
                monkeypatch.setattr(video, "frames", lambda: damaged_after(frames, path))
            yield video

    def damaged_after(frames, path):
        yield from frames
        raise VideoError(path, "damaged")

    monkeypatch.setattr(index, "open_whole", open_whole)
    folder = VideoFolder(data / "val")
    wanted = [replace(PREPROCESSING, frame_selection=name) for name in selections]
    splits = [(folder, ClipOptions(preprocessing, **OPTIONS, cache_dir=tmp_path / "cache")) for preprocessing in wanted]
    expected = [0, 1, 2] if "motion" in selections else [0, 1, 2, 3]
    for _ in range(2):
        assert [clips.videos.tolist() for clips in open_splits(splits)] == [expected] * len(splits)


def test_motion_is_metered_when_a_cache_is_first_asked_for_it(data, tmp_path, monkeypatch):
    """Its frames are decoded once for all selections, and its curves once for all runs."""
    folder, metered = VideoFolder(data / "val"), []
    preprocessing = replace(PREPROCESSING, candidate_rate=8.0)
    options = ClipOptions(preprocessing, **OPTIONS, cached=True, cache_dir=tmp_path / "cache")
    by_motion = replace(options, preprocessing=replace(preprocessing, frame_selection="motion"))
    expected = scan_videos(folder, tmp_path / "x.index", 0, with_motion=True)
    real = index.MotionMeter
    monkeypatch.setattr(index, "MotionMeter", lambda: metered.append(1) or real())
    assert open_clips(folder, options).built == 4 and not metered
    for again in (False, True):
        clips = open_clips(folder, by_motion)
        assert clips.built == 0 and len(metered) == 4
        for video in range(4):
            timing, true = clips.loader.dataset.timing(video), expected.timing(video)
            assert torch.equal(timing.motion, true.motion) and timing.num_frames == true.num_frames, again


def test_curves_that_an_earlier_version_put_into_the_cache_are_used(data, tmp_path, monkeypatch):
    folder = VideoFolder(data / "val")
    options = ClipOptions(PREPROCESSING, **OPTIONS, cached=True, cache_dir=tmp_path / "cache")
    open_clips(folder, options)
    curves = [np.arange(video, video + 9, dtype=np.uint8) for video in range(4)]
    real = clip_cache.open_shards

    def open_shards(where):
        shards, damage = real(where)
        for shard in shards:
            shard.columns["motion"] = Ragged.of(curves, np.uint8)
        return shards, damage

    monkeypatch.setattr(clip_cache, "open_shards", open_shards)
    monkeypatch.setattr(splits, "scan_videos", None)
    clips = open_clips(folder, replace(options, preprocessing=replace(PREPROCESSING, frame_selection="motion")))
    for video, curve in enumerate(curves):
        assert clips.loader.dataset.timing(video).motion.tolist() == pytest.approx((curve / 255.0) ** 2)


def gathered(monkeypatch, change):
    """A second process has what `change` makes of this one's."""
    monkeypatch.setattr(splits, "gather_objects", lambda value: [value, change(value)])


def small_index(frames=(20, 20, 20, 20), reasons=None):
    count = len(frames)
    unmeasured = [np.zeros(0, np.uint8)] * count
    return VideoIndex(np.array(frames), np.full(count, 30.0), np.ones(count, bool), unmeasured, reasons or {})


def test_what_any_process_cannot_read_is_left_out(data, monkeypatch):
    folder, found = VideoFolder(data / "val"), small_index((20, 20, 0, 20), {2: "cut short"})
    gathered(
        monkeypatch, lambda value: {2: "of another disk", 0: "no permission"} if value == {2: "cut short"} else value
    )
    splits._agree(folder, found)
    assert found.reasons == {2: "cut short", 0: "no permission"}
    assert found.num_frames.tolist() == [0, 20, 0, 20] and found.fps.tolist() == [0.0, 30.0, 0.0, 30.0]


def test_a_video_without_frames_has_a_reason_or_it_is_an_error(data):
    told = "rank 0: 2 can be read, 1 are neither read nor known to be unreadable"
    with pytest.raises(DifferentVideos, match=told):
        splits._agree(VideoFolder(data / "val"), small_index((20, 0, 0, 20), {2: "cut short"}))


def test_processes_that_hold_other_rates_are_told_so(data, monkeypatch):
    gathered(monkeypatch, lambda value: ("another", *value[1:]) if isinstance(value, tuple) else value)
    with pytest.raises(DifferentVideos, match="rank 0: 4 can be read, 0 are neither .*; rank 1: 4 can be read, 0 are"):
        splits._agree(VideoFolder(data / "val"), small_index())


def test_an_option_left_out_reads_each_video_once_as_evaluation_does(data, tmp_path, capsys):
    folder = VideoFolder(data / "val")
    clips = open_clips(folder, ClipOptions(PREPROCESSING, tmp_path / "cache", batch_size=4, num_workers=0))
    assert (clips.videos.tolist(), clips.pixels) == ([0, 1, 2, 3], "decoded, float")
    assert (clips.skipped, clips.turned, clips.built, clips.seen) == (0, 0, 0, False)
    assert not list(tmp_path.glob("cache/*/*.shard"))
    dataset = clips.loader.dataset
    assert type(dataset) is ClipDataset and dataset.clips_per_video == 1
    planned = [dataset.plan([Sample(video, 0, epoch) for video in range(4)]) for epoch in (-1, 0, 1)]
    assert all([plan[1:] for plan in plans] == [plan[1:] for plan in planned[0]] for plans in planned)
    assert sorted(sample.video for sample in clips.epoch_samples(seed=0, epoch=0)) == [0, 1, 2, 3]
    assert clips.order_digest().split()[1:] == ["0", "1", "False"]
    assert capsys.readouterr().out == ""
    with pytest.raises(UnreadableVideos):  # which is not skipped unasked
        splits._report_unreadable(folder, small_index(reasons={0: "bad"}), clips.options.skip_unreadable)


def test_training_draws_crops_starts_and_flips(data, tmp_path):
    options = ClipOptions(PREPROCESSING, tmp_path / "cache", batch_size=4, num_workers=0, random=True)
    planned = []
    for wanted in (options, replace(options, seed=1), replace(options, strong=True)):
        dataset = open_clips(VideoFolder(data / "val"), wanted).loader.dataset
        assert isinstance(dataset, StrongClipDataset) == wanted.strong
        planned += [
            [plan[1:] for plan in dataset.plan([Sample(0, 0, epoch) for epoch in epochs])]
            for epochs in (range(8), range(8))
        ]
    assert planned[0] == planned[1] != planned[2] == planned[3]
    assert len(set(map(str, planned[0]))) > 4


def test_half_of_the_clips_begin_at_the_official_start_and_the_others_anywhere(data, tmp_path):
    preprocessing = replace(PREPROCESSING, frame_rate=15.0)  # 20 frames at 30 a second: 10, with 7 starts
    options = ClipOptions(preprocessing, tmp_path / "cache", batch_size=4, num_workers=0, random=True)
    plans = open_clips(VideoFolder(data / "val"), options).loader.dataset.plan([Sample(0, 0, n) for n in range(400)])
    starts = [int(plan.indices[0]) // 2 for plan in plans]
    assert set(starts) == set(range(7))
    assert 0.49 < starts.count(0) / 400 < 0.65  # 1/2 + 1/2 * 1/7 = 0.57, and a seed decides
    assert options.start_prob == 0.5 and not options.balanced and options.seed == 0


def test_steps_are_counted_over_all_processes(data, tmp_path, monkeypatch):
    options = ClipOptions(PREPROCESSING, tmp_path / "cache", 2, 0, clips_per_video=7, batches_per_step=3)
    clips = open_clips(VideoFolder(data / "val"), options)  # 28 clips an epoch
    for processes, a_step, steps in ((1, 6, 5), (2, 12, 3), (5, 30, 1)):
        monkeypatch.setattr(splits, "world_size", lambda processes=processes: processes)
        assert (clips.clips_per_step(), clips.steps_per_epoch()) == (a_step, steps)
    assert replace(clips, options=ClipOptions(PREPROCESSING, tmp_path, 2, 0)).clips_per_step() == 10


def test_an_epoch_goes_on_after_the_clips_that_were_seen(data, tmp_path):
    clips = open_clips(
        VideoFolder(data / "val"), ClipOptions(PREPROCESSING, tmp_path / "cache", 2, 0, clips_per_video=3)
    )
    whole = clips.epoch_samples(seed=1, epoch=2)
    assert len(whole) == 12 and clips.epoch_samples(1, 2, seen=5) == whole[5:]


def test_what_cannot_be_read_is_listed_and_skipped_only_when_asked(data, tmp_path, capsys):
    for name in ("a/00000001.mp4", "b/00000000.mp4"):
        (data / "val" / name).write_bytes(b"")
    options = ClipOptions(PREPROCESSING, tmp_path / "cache", 4, 0, skip_unreadable=True)
    clips = open_clips(VideoFolder(data / "val"), options)
    assert (clips.videos.tolist(), clips.skipped) == ([0, 3], 2)
    listing = (
        rf"2 of 4 videos in {data / 'val'} cannot be read:\n"
        rf"  {data / 'val' / 'a' / '00000001.mp4'}: \S.*\n  {data / 'val' / 'b' / '00000000.mp4'}: \S.*\n"
    )
    assert re.fullmatch(listing + r"Going on without them \(--skip-unreadable\)\n", capsys.readouterr().out)
    refused = [(VideoFolder(data / split), replace(options, skip_unreadable=False)) for split in ("val", "train")]
    told = rf"{listing}Run check_videos.py --root {data} --quarantine DIR to repair or move them, or go on .*"
    for wanted in (refused, refused[:1]):
        with pytest.raises(UnreadableVideos) as caught:
            open_splits(wanted)
        assert re.fullmatch(told, str(caught.value)) and re.fullmatch(listing, caught.value.listing + "\n")


def test_a_folder_of_which_nothing_can_be_read_is_an_error(data, tmp_path):
    for path in (data / "val").glob("*/*"):
        path.write_bytes(b"")
    with pytest.raises(DatasetError, match="val: no video can be read"):
        open_clips(VideoFolder(data / "val"), ClipOptions(PREPROCESSING, tmp_path, 4, 0, skip_unreadable=True))


def test_videos_that_are_turned_for_display_are_counted(data, tmp_path):
    set_display_matrix(data / "val" / "b" / "00000000.mp4", 0, 1, -1, 0)
    options = ClipOptions(PREPROCESSING, tmp_path / "cache", 4, 0)
    for cached in (False, True):
        assert open_clips(VideoFolder(data / "val"), replace(options, cached=cached)).turned == 1


def test_cached_and_decoded_splits_of_one_folder_stay_apart(data, tmp_path):
    options, folder = ClipOptions(PREPROCESSING, tmp_path / "cache", 4, 0), VideoFolder(data / "val")
    decoded, cached = open_splits([(folder, options), (folder, replace(options, cached=True))])
    assert (decoded.pixels, decoded.built) == ("decoded, float", 0)
    assert (cached.pixels, cached.built) == ("clip cache, uint8 (raw)", 4)


def test_folders_side_by_side_are_read_as_one(data, tmp_path):
    (data / "val" / "a" / "00000000.mp4").write_bytes(b"")
    set_display_matrix(data / "train" / "b" / "00000000.mp4", 0, 1, -1, 0)
    options = ClipOptions(PREPROCESSING, tmp_path / "cache", 4, 0, skip_unreadable=True)
    parts = open_splits([(VideoFolder(data / split), options) for split in ("train", "val")])
    both = join([*parts, parts[1]])
    assert (both.videos.tolist(), both.skipped, both.turned) == ([0, 1, 3, 4, 5, 7, 8, 9], 2, 1)
    assert (both.pixels, both.options, both.built, both.seen) == ("decoded, float", options, 0, False)
    assert join(parts[1:]).videos.tolist() == parts[1].videos.tolist() == [1, 2, 3]
    joined = both.loader.dataset
    for video, (part, row) in {1: (0, 1), 3: (1, 1), 9: (1, 3)}.items():
        single = parts[part].loader.dataset
        a, b = (np.empty(dataset.clip_shape, np.float32) for dataset in (joined, single))
        assert joined.read_into(a[None], [Sample(video, 0, -1)]) == single.read_into(b[None], [Sample(row, 0, -1)])
        assert np.array_equal(a, b)


@pytest.mark.parametrize(
    "mirrors, expected",
    [(None, [False, False, True, False]), ([1, 0, 2, 3], [True, True, True, False])],
)
def test_a_class_is_mirrored_where_its_image_is_a_class(mirrors, expected):
    classes = ["left arm", "right arm", "squats", "right leg"]  # of the last, the map knows no mirror image
    assert splits._may_flip(classes, None if mirrors is None else torch.tensor(mirrors)).tolist() == expected


def test_settings_and_splits_that_are_handed_on_cannot_be_changed(data, tmp_path):
    options = ClipOptions(PREPROCESSING, tmp_path / "cache", 4, 0)
    assert not options.pin_memory  # which needs a GPU
    clips = open_clips(VideoFolder(data / "val"), options)
    assert vars(Clips(clips.loader, clips.videos, 0, clips.pixels, options)) == vars(clips)  # with the other defaults
    for record, name in ((options, "seed"), (clips, "skipped")):
        with pytest.raises(FrozenInstanceError):
            setattr(record, name, 7)


@pytest.mark.parametrize("is_first", [True, False])
def test_one_of_the_processes_tells_how_far_the_scan_is(data, tmp_path, monkeypatch, is_first):
    told, real = [], splits.scan_videos
    monkeypatch.setattr(splits, "is_main", lambda: is_first)
    monkeypatch.setattr(splits, "scan_videos", lambda *args, quiet, **kw: told.append(quiet) or real(*args, **kw))
    open_clips(VideoFolder(data / "val"), ClipOptions(PREPROCESSING, tmp_path / "cache", 4, 0))
    assert told == [not is_first]


def test_an_index_is_found_again_by_its_name(data, tmp_path):
    """As files of earlier versions are named: SHA-256 of the folder's bytes, 16 characters."""
    open_clips(VideoFolder(data / "val"), ClipOptions(PREPROCESSING, tmp_path / "cache", 4, 0))
    digest = hashlib.sha256(os.fsencode((data / "val").resolve())).hexdigest()
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [f"{digest[:16]}.index"]


@pytest.mark.parametrize("frames, is_scanned", [(1, False), (2, True)])
def test_the_motion_of_one_frame_need_not_be_measured(data, tmp_path, monkeypatch, frames, is_scanned):
    scanned = small_index()
    monkeypatch.setattr(splits, "_scan", lambda *_, **__: scanned)
    cached = small_index((frames, 0), {1: "bad"})
    folder, options = VideoFolder(data / "val"), ClipOptions(PREPROCESSING, tmp_path, 4, 0)
    assert (splits._with_motion(cached, folder, options).motion is scanned.motion) == is_scanned


def test_processes_that_list_other_videos_are_told_so(data, monkeypatch, tmp_path):
    listed = []
    monkeypatch.setattr(splits, "gather_objects", lambda value: listed.append(value) or listed)
    folder = VideoFolder(data / "val")
    splits._check_same_files(folder)
    (data / "val" / "b" / "00000001.mp4").unlink()
    with pytest.raises(DifferentVideos, match="rank 0: 4 videos of 2 classes; rank 1: 3 videos of 2"):
        splits._check_same_files(VideoFolder(data / "val"))
