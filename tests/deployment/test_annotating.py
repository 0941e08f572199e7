"""Copies of videos with text drawn in."""

from fractions import Fraction

import numpy as np
import pytest

from deployment import annotating
from deployment.annotating import Annotation, annotate
from helpers.extras import require_extra
from helpers.numbered_videos import write_video
from runtime.errors import UserError
from videos.decoding import probe_video


@pytest.mark.parametrize(
    "height, width, fps, expected", [(1, 64, 12, (2, 64)), (47, 1, 12, (48, 2)), (16, 16, Fraction(1, 5000), (16, 16))]
)
def test_copies_of_odd_sizes_and_slow_videos(tmp_path, height, width, fps, expected):
    require_extra("PIL")
    frames = np.full((3, height, width, 3), 200, np.uint8)
    source = write_video(tmp_path / "v.mov", frames, fps, "png", pix_fmt="rgb24")
    assert annotate(Annotation(str(source), tmp_path / "copies" / "v.mp4", ("dips 100.0 %",)), tmp_path) is None
    copy = probe_video(tmp_path / "copies" / "v.mp4")
    assert (copy.frames, copy.height, copy.width) == (3, *expected)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["copies", "v.mov"]


@pytest.mark.parametrize("height, width", [(640, 360), (568, 320), (200, 200), (120, 90)])
def test_the_label_fits_narrow_pictures(height, width):
    font = require_extra("PIL.ImageFont")
    label = "lying_down_in_random_position 100.0 %"
    size, lines = annotating.fit_text([label, "dips 0.0 %"], height, width)
    assert size >= 10 and "".join(lines) == f"{label}dips 0.0 %"
    assert all(font.load_default(size).getlength(line.rstrip()) <= width - size + 1 for line in lines)
    assert any("100.0 %" in line for line in lines)
    assert len(lines) == 2 or size == 10


def test_a_wide_picture_has_large_text_in_one_line():
    require_extra("PIL")
    label = "lying_down_in_random_position 100.0 %"
    assert annotating.fit_text([label], 720, 1280) == (40, [label])


def test_copies_have_names_of_their_own(tmp_path):
    names = ["w/a.avi", "w/a.avi.mp4", "w/a.avi_2.mp4", "b.MP4"]
    copies = annotating.destinations([str(tmp_path / name) for name in names], tmp_path)
    assert [str(copy.relative_to(tmp_path)) for copy in copies] == [
        *("w/a.avi.mp4", "w/a.avi_2.mp4", "w/a.avi_2_2.mp4", "b.MP4")
    ]


def test_a_copy_replaces_a_copy_and_no_other_video(tmp_path):
    require_extra("PIL")
    source = write_video(tmp_path / "v.mp4", np.full((3, 16, 16, 3), 200, np.uint8))
    copies = [tmp_path / "copies" / "v.mp4"]
    annotating.prepare_copies(copies[0].parent, copies)
    assert annotate(Annotation(str(source), copies[0], ("dips",)), tmp_path) is None
    annotating.prepare_copies(copies[0].parent, copies)
    for content in (source.read_bytes(), b"no video"):
        copies[0].write_bytes(content)
        with pytest.raises(UserError, match="v.mp4 is no copy of this script: choose another folder"):
            annotating.prepare_copies(copies[0].parent, copies)
