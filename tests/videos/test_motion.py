import numpy as np
import pytest

from helpers.numbered_videos import write_video
from videos.decoding import iter_frames
from videos.motion import MotionMeter, motion_from_curve


def meter(path):
    motion = MotionMeter()
    for frame in iter_frames(path):
        motion.add(frame)
    return motion.curve()


def moving_square(num_frames, moves):
    """A square that moves only in the frames that `moves` accepts."""
    x = 0
    for i in range(num_frames):
        x += 3 * moves(i)
        frame = np.full((96, 192, 3), 40, np.uint8)
        frame[20:76, x : x + 40] = 220
        yield frame


@pytest.mark.parametrize("codec, pix_fmt", [("libx264", "yuv420p"), ("libx265", "yuv420p10le")])
def test_the_motion_curve_rises_where_something_moves(tmp_path, codec, pix_fmt):
    options = {"x265-params": "log-level=none"} if codec == "libx265" else {}
    frames = moving_square(90, lambda i: 30 <= i < 60)
    curve = meter(write_video(tmp_path / "v.mp4", frames, codec=codec, pix_fmt=pix_fmt, options=options))
    assert curve.dtype == np.uint8 and len(curve) == 89
    motion = motion_from_curve(curve)
    assert motion[32:57].mean() > 5 * motion[:25].mean() and motion[32:57].mean() > 5 * motion[65:].mean()


def test_the_motion_curve_of_a_still_and_of_a_long_video(tmp_path):
    still = write_video(tmp_path / "still.mp4", moving_square(20, lambda i: False))
    assert not meter(still).any()
    assert len(meter(write_video(tmp_path / "one.mp4", moving_square(1, bool)))) == 0
    long = write_video(tmp_path / "long.mp4", moving_square(700, lambda i: i % 50 == 0))
    assert len(meter(long)) == 512
