"""Odd videos through everything that reads videos: the scan, both readers, prediction and annotated copies."""

from dataclasses import replace

import av
import numpy as np
import pytest

from caching.cache_building import DecodeStrip
from caching.clip_cache import CacheSettings
from caching.splits import ClipOptions, UnreadableVideos, open_clips
from clips.dataset import DecodingReader
from clips.preprocessing import Preprocessing
from clips.samplers import Sample
from deployment import annotating
from deployment.annotating import Annotation, annotate
from deployment.prediction import read_clips
from helpers.evaluations import made_up_evaluation
from helpers.extras import require_extra
from helpers.numbered_videos import (
    frame_number,
    set_display_matrix,
    write_exif_video,
    write_numbered_video,
    write_size_changes,
)
from helpers.small_datasets import write_moving_bar
from references.dataset_tools import walking
from training.screen import print_results
from videos import decoding, motion, pixels
from videos.decoding import VideoError, iter_rgb, probe_video
from videos.folder import VIDEO_ENDINGS, VideoFolder
from videos.index import Scan, Unreadable
from videos.resizing import Region, resize_crop

pytestmark = pytest.mark.evaluator

PREPROCESSING = Preprocessing(4, 4.0, "official", None, (32, 40), (32, 40), (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))

ODD_VIDEOS = {
    "sizes that change": lambda path: write_size_changes(path.with_suffix(".ts")),
    "EXIF": lambda path: write_exif_video(path.with_suffix(".avi"), 6, num_frames=20),
    "empty chunks": lambda path: write_numbered_video(
        path.with_suffix(".avi"), 20, codec="mpeg4", pts=[number + number * number // 20 for number in range(20)]
    ),
    "mirrored": lambda path: set_display_matrix(write_numbered_video(path, 20), -1, 0, 0, 1),
}


def options(tmp_path, **changes):
    return ClipOptions(
        **{
            "preprocessing": PREPROCESSING,
            "clips_per_video": 1,
            "cache_dir": tmp_path / "cache",
            "skip_unreadable": False,
            "batch_size": 1,
            "num_workers": 0,
            **changes,
        }
    )


@pytest.mark.parametrize("kind", ODD_VIDEOS)
def test_every_reader_reads_it_alike(tmp_path, kind):
    (tmp_path / "data" / "a").mkdir(parents=True)
    path = ODD_VIDEOS[kind](tmp_path / "data" / "a" / "v.mp4")
    folder = VideoFolder(tmp_path / "data")
    clips = {}
    for cached, selection in ((False, "official"), (True, "official"), (False, "motion"), (True, "motion")):
        wanted = replace(PREPROCESSING, frame_selection=selection, candidate_rate=8.0)
        source = open_clips(folder, options(tmp_path, preprocessing=wanted, cached=cached))
        assert source.videos.tolist() == [0]
        (batch,) = source.loader.batches([Sample(0)])
        clips[cached, selection] = batch.clips[0].numpy()
        indices = source.loader.dataset.plan([Sample(0)])[0].indices.tolist()
        # Each frame is resized from its own size.
        frames = dict(iter_rgb(path, indices))
        expected = np.stack([resize_crop(frames[index], (32, 40)) / 255 for index in indices])
        np.testing.assert_allclose(clips[cached, selection] / (255 if cached else 1), expected, atol=0.6 / 255)
    (predicted,) = read_clips([str(path)], PREPROCESSING, 1, num_workers=0)
    np.testing.assert_array_equal(predicted[0], clips[False, "official"])


@pytest.mark.parametrize("kind", ODD_VIDEOS)
def test_an_annotated_copy_shows_every_frame(tmp_path, kind):
    require_extra("PIL")
    path = ODD_VIDEOS[kind](tmp_path / "v.mp4")
    copy = tmp_path / "copies" / "v.mp4"
    assert annotate(Annotation(str(path), copy, ()), tmp_path) is None
    info, copied = probe_video(path), probe_video(copy)
    assert (copied.frames, copied.height, copied.width) == (info.frames, info.height, info.width)
    if kind == "sizes that change":
        assert [frame_number(frame) for _, frame in iter_rgb(copy, [11, 12, 35])] == [11, 12, 35]


ERRORS = {
    "side data without a name": ValueError("31 is not a valid Type"),
    "a name that is no text": UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"),
    "a key that is not there": KeyError("DISPLAYMATRIX"),
    "a format without an array": NotImplementedError("not supported"),
    "a conversion that is refused": av.error.OSError(95, "Operation not supported"),
    "too large": MemoryError(),
}


@pytest.mark.parametrize("error", ERRORS.values(), ids=ERRORS)
def test_what_pyav_raises_is_a_video_error_everywhere(tmp_path, monkeypatch, error):
    bad = write_moving_bar(tmp_path / "data" / "a" / "bad.mp4", seed=0)

    def refuse(frame):
        raise error

    monkeypatch.setattr(pixels, "_without_tags", refuse)
    monkeypatch.setattr(motion, "_luma_bits", lambda pix_fmt: 0)  # so that motion goes the same way
    with pytest.raises(VideoError, match=r"bad\.mp4: \w+"):
        list(iter_rgb(bad))
    scanned = Scan(with_motion=True)(str(bad))
    result = DecodeStrip(CacheSettings(PREPROCESSING))(str(bad))
    for found in (scanned, result):
        assert isinstance(found, Unreadable) and found.is_lasting == (not isinstance(error, MemoryError))
    reader = DecodingReader(VideoFolder(tmp_path / "data"), PREPROCESSING)
    with pytest.raises(VideoError, match=r"bad\.mp4: \w+"):
        reader.read_into(np.empty((1, 32, 40, 3), np.float32), 0, np.array([0]), Region(0, 0, 32, 40))
    (predicted,) = read_clips([str(bad)], PREPROCESSING, 1, num_workers=0)
    assert isinstance(predicted, VideoError)
    monkeypatch.setattr(annotating, "_label", lambda *_: np.zeros((8, 8, 3), np.uint8))
    reason = annotate(Annotation(str(bad), tmp_path / "copies" / "v.mp4", ()), tmp_path)
    assert reason and "cannot be written" not in reason


@pytest.mark.parametrize("cached", [False, True])
def test_unreadable_pictures_are_skipped_where_that_is_asked_for(tmp_path, monkeypatch, cached):
    write_moving_bar(tmp_path / "data" / "a" / "bad.mp4", seed=0)
    write_numbered_video(tmp_path / "data" / "b" / "good.mp4", 20)
    real = pixels.display_matrix

    def refuse(frame):
        if frame.width == 64:
            raise KeyError("DISPLAYMATRIX")
        return real(frame)

    for module in (decoding, pixels):
        monkeypatch.setattr(module, "display_matrix", refuse)
    folder = VideoFolder(tmp_path / "data")
    with pytest.raises(UnreadableVideos, match=r"bad\.mp4: PyAV fails on it \(KeyError"):
        open_clips(folder, options(tmp_path, cached=cached))
    assert open_clips(folder, options(tmp_path, cached=cached, skip_unreadable=True)).videos.tolist() == [1]


@pytest.mark.parametrize("cached", [False, True])
def test_validation_says_how_many_videos_the_evaluator_would_not_turn(tmp_path, cached):
    for number, matrix in enumerate([(0, -1, 1, 0), (1, 0, 0, 1), (-1, 0, 0, 1)]):
        path = write_moving_bar(tmp_path / "data" / "a" / f"{number}.mp4", seed=number)
        set_display_matrix(path, *matrix)
    for _ in range(2):  # the second time from what was kept
        assert open_clips(VideoFolder(tmp_path / "data"), options(tmp_path, cached=cached)).turned == 2


def test_turned_videos_are_told_of_where_there_are_any(capsys):
    results = made_up_evaluation().results
    print_results(results, "the rule", "decoded, float", 0, turned=3)
    assert "3 of them turned or mirrored for display" in capsys.readouterr().out
    print_results(results, "the rule", "decoded, float", 0)
    assert "turned" not in capsys.readouterr().out


def test_training_takes_the_endings_that_the_check_takes():
    assert {ending.lstrip(".") for ending in VIDEO_ENDINGS} == set(walking.VIDEO_ENDINGS)
