"""The clip cache: what it serves, and what makes it build again."""

import hashlib
import json
import os
import sys
from dataclasses import FrozenInstanceError, replace

import av
import numpy as np
import pytest
import torch

from caching import clip_cache, jpeg
from caching.clip_cache import UNREADABLE, CacheError, CacheSettings, ClipCache, write_unreadable
from caching.jpeg import decode_jpeg, encode_jpeg
from clips import dataset
from clips.dataset import Augmentation, ClipDataset, DecodingReader
from clips.preprocessing import Preprocessing
from clips.samplers import Sample
from helpers.clip_caches import (
    PREPROCESSING,
    SETTINGS,
    assert_serves_the_videos,
    expected_frames,
    open_cache,
    read_frames_of,
    shard_of,
)
from helpers.small_datasets import write_moving_bar
from runtime.errors import MissingExtra
from videos.folder import VideoFolder
from videos.frame_selection import FRAME_SELECTORS, official_strip
from videos.index import scan_videos
from videos.resizing import Region


@pytest.fixture(autouse=True)
def without_torchvision(monkeypatch):
    """Pillow alone, as torchvision takes a second to load: `test_jpeg` is about both."""
    monkeypatch.setattr(jpeg, "torchvision_codec", lambda: None)
    jpeg.find_codec.cache_clear()
    yield
    jpeg.find_codec.cache_clear()


@pytest.fixture
def no_codec(monkeypatch):
    """Neither torchvision's operators nor Pillow."""
    monkeypatch.setitem(sys.modules, "PIL.Image", None)
    jpeg.find_codec.cache_clear()
    yield
    jpeg.find_codec.cache_clear()


# What is served.


def test_a_hit_equals_a_miss_pixel_for_pixel(root, tmp_path, decoded):
    assert_serves_the_videos(open_cache(root, tmp_path / "cache"))
    assert sorted(decoded) == ["0.mp4", "1.mp4", "2.mp4", "3.mp4"]
    again = open_cache(root, tmp_path / "cache")
    assert_serves_the_videos(again)
    assert len(decoded) == 4
    region, whole = Region(3, 5, 28, 30), read_frames_of(again, 1, [0, 7, 15])
    assert np.array_equal(read_frames_of(again, 1, [0, 7, 15], region), whole[:, 3:31, 5:35])
    assert np.array_equal(read_frames_of(again, 1, [0, 15, 15]), whole[[0, 2, 2]])


def test_jpeg_entries_are_the_encoded_frames(root, tmp_path):
    cache = open_cache(root, tmp_path / "cache", CacheSettings(PREPROCESSING, "jpeg"))
    pixels = expected_frames(cache.files.path(0), [0, 7])
    for frame, stored in zip(pixels, read_frames_of(cache, 0, [0, 7]), strict=True):
        encoded = encode_jpeg(torch.from_numpy(frame).permute(2, 0, 1))
        assert np.array_equal(stored, decode_jpeg(encoded).permute(1, 2, 0).numpy())
    region = Region(2, 4, 10, 12)
    assert np.array_equal(read_frames_of(cache, 0, [7], region), read_frames_of(cache, 0, [7])[:, 2:12, 4:16])


def test_a_missing_jpeg_codec_is_reported_before_anything_is_decoded(root, tmp_path, decoded, no_codec):
    with pytest.raises(MissingExtra, match="requirements-extras.txt"):
        open_cache(root, tmp_path / "cache", CacheSettings(PREPROCESSING, "jpeg"))
    assert not decoded


@pytest.mark.parametrize("selection", FRAME_SELECTORS)
def test_cached_and_uncached_clips_are_the_same_within_the_rounding(root, tmp_path, selection):
    candidate_rate = None if selection == "official" else 10.0
    preprocessing = replace(PREPROCESSING, frame_selection=selection, candidate_rate=candidate_rate)
    cache = open_cache(root, tmp_path / "cache", CacheSettings(preprocessing))
    index = scan_videos(cache.files, tmp_path / "x.index", 0, with_motion=True)
    rest = (preprocessing, 1, Augmentation(may_flip=torch.ones(3, dtype=torch.bool)))
    cached = ClipDataset(cache.files, replace(cache.index, motion=index.motion).timing, cache, *rest)
    uncached = ClipDataset(cache.files, index.timing, DecodingReader(cache.files, preprocessing), *rest)
    for sample in [Sample(video, 0, epoch) for video in range(4) for epoch in range(-1, 4)]:
        a, b = np.empty(cached.clip_shape, np.uint8), np.empty(cached.clip_shape, np.float32)
        (plan,), (other,) = cached.plan([sample]), uncached.plan([sample])
        assert plan[1:] == other[1:] and plan.indices.tolist() == other.indices.tolist()
        assert cached.read_into(a[None], [sample]) == uncached.read_into(b[None], [sample])
        assert np.abs(a - 255 * b).max() <= 0.501


def test_candidates_are_kept_beside_the_official_strip():
    both = CacheSettings(replace(PREPROCESSING, candidate_rate=10.0)).frames_to_keep(60, 30.0).tolist()
    assert set(official_strip(60, 30.0, 4.0, 4).tolist()) | set(range(0, 60, 3)) == set(both)
    assert both == sorted(both)


def test_frames_that_are_not_kept_are_refused_with_the_flag_to_add(root, tmp_path):
    cache = open_cache(root, tmp_path / "cache")
    for indices in ([0, 1], [10_000]):
        with pytest.raises(CacheError, match="--cache-frame-rate"):
            read_frames_of(cache, 0, indices)


# What makes it build again.


def test_a_changed_file_alone_is_decoded_again(root, tmp_path, decoded):
    open_cache(root, tmp_path / "cache")
    decoded.clear()
    write_moving_bar(root / "a" / "0.mp4", seed=9, num_frames=33)  # another size
    os.utime(root / "b" / "1.mp4")  # another time
    assert_serves_the_videos(open_cache(root, tmp_path / "cache"))
    assert sorted(decoded) == ["0.mp4", "1.mp4"]
    decoded.clear()
    assert_serves_the_videos(open_cache(root, tmp_path / "cache"))
    assert decoded == []


def test_a_file_of_the_same_size_and_another_time_is_decoded_again(tmp_path, decoded):
    path = write_moving_bar(tmp_path / "data" / "a" / "0.mp4", seed=1)
    cache = open_cache(tmp_path / "data", tmp_path / "cache")
    before, size = read_frames_of(cache, 0, [0]), path.stat().st_size
    write_moving_bar(path, seed=8)
    with open(path, "ab") as file:  # the same size: an mp4 may end in anything
        file.write(bytes(max(0, size - path.stat().st_size)))
    cache = open_cache(tmp_path / "data", tmp_path / "cache")
    assert len(decoded) == 2 and not np.array_equal(read_frames_of(cache, 0, [0]), before)


def test_a_deleted_video_drops_out_and_a_new_one_comes_in(root, tmp_path, decoded):
    open_cache(root, tmp_path / "cache")
    decoded.clear()
    (root / "a" / "0.mp4").unlink()
    assert_serves_the_videos(open_cache(root, tmp_path / "cache"))
    assert decoded == []
    write_moving_bar(root / "c" / "0new.mp4", seed=5)
    assert_serves_the_videos(open_cache(root, tmp_path / "cache"))
    assert decoded == ["0new.mp4"]


def test_shards_without_a_video_left_are_removed(root, tmp_path):
    cache = open_cache(root, tmp_path / "cache")
    first = shard_of(cache)
    for path in root.glob("*/*.mp4"):
        os.utime(path)
    assert shard_of(open_cache(root, tmp_path / "cache")) != first


@pytest.mark.parametrize(
    "change", [{"resize_size": (40, 32)}, {"clip_len": 5}, {"frame_rate": 5.0}, {"candidate_rate": 10.0}]
)
def test_another_setting_is_another_cache(root, tmp_path, decoded, change):
    open_cache(root, tmp_path / "cache")
    open_cache(root, tmp_path / "cache", CacheSettings(replace(PREPROCESSING, **change)))
    assert len(decoded) == 8
    assert_serves_the_videos(open_cache(root, tmp_path / "cache"))
    assert len(decoded) == 8


def test_another_encoding_is_another_cache(root, tmp_path, decoded):
    open_cache(root, tmp_path / "cache")
    open_cache(root, tmp_path / "cache", CacheSettings(PREPROCESSING, "jpeg"))
    assert len(decoded) == 8


@pytest.mark.parametrize(
    "change",
    [
        {"crop_size": (20, 24)},
        {"frame_selection": "uniform"},
        {"mean": (0, 0, 0), "std": (1, 1, 1)},
        {"frame_rate": 4.0},
    ],
)
def test_what_stored_pixels_do_not_depend_on_is_the_same_cache(root, tmp_path, decoded, change):
    open_cache(root, tmp_path / "cache")
    assert_serves_the_videos(open_cache(root, tmp_path / "cache", CacheSettings(replace(PREPROCESSING, **change))))
    assert len(decoded) == 4


def test_caches_of_earlier_versions_are_found(tmp_path, monkeypatch):
    """The keys' text, as caches on disk were named by it."""
    versions = {"libavcodec": (61, 19, 101), "libswscale": (8, 3, 100), "libavutil": (59, 39, 100)}
    monkeypatch.setattr(av, "library_versions", versions)
    key = (
        '{"candidate_rate": %s, "clip_len": 16, "encoding": "%s", "frame_rate": 4.0, "libraries": {"libavcodec": '
        '[61, 19, 101], "libswscale": [8, 3, 100]}, "rgb": "PyAV 16.0.1, turned and mirrored, 1", "root": "%s", '
        '"size": [128, 171], "version": 2}'
    )
    for candidate_rate, encoding, text in ((None, "raw", "null"), (8, "jpeg", "8.0")):
        settings = CacheSettings(Preprocessing(candidate_rate=candidate_rate), encoding)
        digest = hashlib.sha256((key % (text, encoding, tmp_path.resolve())).encode()).hexdigest()
        assert settings.folder(tmp_path / "cache", tmp_path).name == digest[:16]


def test_a_cache_of_other_pixels_is_not_served(root, tmp_path, monkeypatch):
    def keys():
        return SETTINGS.folder(tmp_path, root), DecodingReader(VideoFolder(root), PREPROCESSING).source

    before = keys()
    for module in (clip_cache, dataset):
        monkeypatch.setattr(module, "RGB_RULE", "another")
    assert not set(keys()) & set(before)


def test_another_data_path_is_never_served_this_ones_entries(root, tmp_path, decoded):
    other = tmp_path / "other"
    for path in root.glob("*/*.mp4"):  # the same names, sizes and times, and other pixels
        copy = other / path.relative_to(root)
        copy.parent.mkdir(parents=True, exist_ok=True)
        write_moving_bar(copy, seed=50 + int(path.stem), num_frames=30 + int(path.stem))
        size = max(copy.stat().st_size, path.stat().st_size)
        for file in (copy, path):
            os.truncate(file, size)
            os.utime(file, ns=(1, 1))
    assert_serves_the_videos(open_cache(root, tmp_path / "cache"))
    assert_serves_the_videos(open_cache(other, tmp_path / "cache"))
    assert_serves_the_videos(open_cache(root, tmp_path / "cache"))
    assert len(decoded) == 8


def test_the_same_folder_by_another_name_is_the_same_cache(root, tmp_path, decoded):
    (tmp_path / "link").symlink_to(root)
    open_cache(root, tmp_path / "cache")
    open_cache(tmp_path / "link", tmp_path / "cache")
    assert len(decoded) == 4


# What may be asked of it.


def test_settings_that_are_handed_on_cannot_be_changed():
    with pytest.raises(FrozenInstanceError):
        SETTINGS.encoding = "jpeg"


def test_frames_of_many_sizes_are_refused():
    settings = CacheSettings(replace(PREPROCESSING, resize_size=(32,)))
    with pytest.raises(CacheError, match="give the resize sizes as height and width"):
        _ = settings.frame_size
    assert SETTINGS.frame_size == (32, 40)


def test_frames_are_found_by_their_number(root, tmp_path):
    cache = open_cache(root, tmp_path / "cache")
    assert cache.files.names.string(0) == "a/0.mp4"  # 30 frames at 30 a second: each 7.5th is kept
    assert cache.column_row("frames", 0).tolist() == [0, 7, 15, 22]
    for indices, expected in (
        ([7, 15], range(1, 3)),
        ([0, 7, 15, 22], range(4)),
        ([22], range(3, 4)),
        ([0, 15], [0, 2]),
        ([22, 15], [3, 2]),
        ([7, 7], [1, 1]),
    ):
        assert cache.positions(0, np.array(indices)) == expected
    assert cache.stored_frames(0).shape == (4, 32, 40, 3)
    assert cache.is_fast and cache.dtype is np.uint8  # the loader reads it without workers


def test_what_a_video_lacks_is_empty(root, tmp_path):
    folder = SETTINGS.folder(tmp_path / "cache", root)
    cache = ClipCache(VideoFolder(root), SETTINGS, folder)
    assert cache.missing.tolist() == [0, 1, 2, 3] and cache.unused == []
    assert [len(cache.column_row("frames", video)) for video in range(4)] == [0] * 4
    assert cache.index.num_frames.tolist() == [0] * 4
    whole = open_cache(root, tmp_path / "cache")
    assert whole.missing.tolist() == [] and whole.unused == []
    assert [len(whole.index.motion[video]) for video in range(4)] == [0] * 4  # kept with the index of the videos


def test_a_shard_is_unused_when_no_video_in_it_is_as_it_was(root, tmp_path):
    open_cache(root, tmp_path / "cache")
    folder = SETTINGS.folder(tmp_path / "cache", root)
    paths = sorted(root.glob("*/*.mp4"))
    for path in paths[1:]:
        os.utime(path)
    cache = ClipCache(VideoFolder(root), SETTINGS, folder)
    assert cache.missing.tolist() == [1, 2, 3] and cache.unused == []
    os.utime(paths[0])
    cache = ClipCache(VideoFolder(root), SETTINGS, folder)
    assert cache.missing.tolist() == [0, 1, 2, 3] and [len(shard) for shard in cache.unused] == [4]


# What is noted of videos that cannot be read.


def noted(path, reason):
    return [path.stat().st_size, path.stat().st_mtime_ns, reason]


def test_a_note_holds_while_the_file_is_as_it_was(root, tmp_path):
    folder, files = tmp_path / "cache", VideoFolder(root)
    write_unreadable(folder, files, {0: "cut short", 2: "no frame"})
    first, third = root / "a" / "0.mp4", root / "b" / "1.mp4"
    assert [files.path(0), files.path(2)] == [str(first), str(third)]
    note = {"a/0.mp4": noted(first, "cut short"), "b/1.mp4": noted(third, "no frame")}
    assert json.loads((folder / "unreadable_videos.json").read_text()) == note  # as earlier versions wrote it
    cache = ClipCache(files, SETTINGS, folder)
    assert cache.index.reasons == {0: "cut short", 2: "no frame"} and cache.missing.tolist() == [1, 3]
    os.utime(first)
    third.write_bytes(third.read_bytes() + b"1")
    os.utime(third, ns=(note["b/1.mp4"][1],) * 2)
    cache = ClipCache(VideoFolder(root), SETTINGS, folder)
    assert cache.index.reasons == {} and cache.missing.tolist() == [0, 1, 2, 3]


NOTES = ["", "[]", "{", '{"a/0.mp4": 3}', '{"a/0.mp4": [1, 2]}', '{"a/0.mp4": SIZE_TIME, "b/1.mp4": [1, 2, "bad", 4]}']
NOTES += ['{"a/0.mp4": ["x", 2, "bad"]}', '{"a/0.mp4": [1e99, 2, "bad"]}']


@pytest.mark.parametrize("note", NOTES)
def test_a_damaged_note_of_unreadable_files_is_ignored(root, tmp_path, note):
    folder = tmp_path / "cache"
    folder.mkdir()
    (folder / UNREADABLE).write_text(note.replace("SIZE_TIME", json.dumps(noted(root / "a" / "0.mp4", "bad"))))
    cache = ClipCache(VideoFolder(root), SETTINGS, folder)
    assert cache.index.reasons == {} and cache.missing.tolist() == [0, 1, 2, 3]
