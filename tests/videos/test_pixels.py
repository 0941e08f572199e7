"""RGB against stored bytes of PyAV 16.0.1, which the challenge's evaluator pins; run under it and under newer ones.

`data/rgb_of_pyav_16.json` has the first 16 hex digits of the SHA-256 of what `frame.to_ndarray(format="rgb24")` of
PyAV 16.0.1 gave on x86-64: for noise in every pixel format, and for the frames of small files beside it, whose encoders
are not lossless. Under PyAV 16.0.1 itself the same call is compared again.
"""

import hashlib
import json
import platform
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from videos.decoding import iter_frames, iter_rgb, read_frames
from videos.motion import MotionMeter
from videos.pixels import stored_rgb

DATA = Path(__file__).parent / "data"
STORED = json.loads((DATA / "rgb_of_pyav_16.json").read_text())
SIZES = [(96, 64), (97, 65), (161, 48)]  # width, height: FFmpeg has other code for odd sizes
# colorspace and color_range: none, 709, 709 full, 601 full, 2020, 2020 constant luminance, YCgCo, ICtCp, unknown, RGB
TAGS = [(2, 0), (1, 1), (1, 2), (5, 2), (9, 1), (10, 1), (8, 1), (14, 2), (3, 0), (0, 2)]

pytestmark = [
    pytest.mark.evaluator,
    pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="the stored bytes are of x86-64"),
]


def digest(rgb):
    return hashlib.sha256(np.ascontiguousarray(rgb).tobytes()).hexdigest()[:16]


def bits_of(pix_fmt):
    return next((bits for bits in (9, 10, 12, 14, 16) if f"{bits}le" in pix_fmt), 8)


def noise_frame(pix_fmt, width, height, seed=0):
    """The same samples in every version of numpy and PyAV, whatever the padding of the lines."""
    frame, bits = av.VideoFrame(width, height, pix_fmt), bits_of(pix_fmt)
    for number, plane in enumerate(frame.planes):
        rows = np.frombuffer(plane, np.uint8).reshape(plane.height, -1)
        noise = np.frombuffer(hashlib.shake_128(bytes([number, seed])).digest(plane.height * 1024), np.uint8)
        if bits > 8:
            noise = (noise.view("<u2") & (1 << bits) - 1).view(np.uint8)
        rows[:] = noise.reshape(plane.height, 1024)[:, : rows.shape[1]]
    return frame


def with_tags(frame, colorspace, color_range):
    frame.colorspace, frame.color_range = colorspace, color_range
    return frame


@pytest.mark.parametrize("width, height", SIZES)
@pytest.mark.parametrize("pix_fmt", STORED["noise"])
def test_every_pixel_format_and_tag(pix_fmt, width, height):
    expected = STORED["noise"][pix_fmt][f"{width}x{height}"]
    frame = noise_frame(pix_fmt, width, height)
    assert digest(stored_rgb(frame)) == expected
    for tags in TAGS:
        assert (tags, digest(stored_rgb(with_tags(frame, *tags)))) == (tags, expected)
        assert (frame.colorspace, frame.color_range) == tags  # nothing is left changed
    if av.__version__ == "16.0.1":
        assert digest(frame.to_ndarray(format="rgb24")) == expected


@pytest.mark.skipif(not hasattr(av.VideoFrame, "color_trc"), reason="this PyAV does not tell them, nor heed them")
@pytest.mark.parametrize("name", ["color_trc", "color_primaries"])
def test_transfer_functions_and_primaries_change_nothing(name):
    frame = noise_frame("yuv420p", 96, 64)
    for value in (0, 3, 9, 16, 18):  # 0 and 3 are reserved
        setattr(frame, name, value)
        assert digest(stored_rgb(frame)) == STORED["noise"]["yuv420p"]["96x64"]


LOSSLESS = {
    # name: (codec, options, pixel format, attribute of the frame that the case is about, its value)
    "bt709": ("libx264", {"qp": "0", "x264-params": "colormatrix=bt709"}, "yuv420p", "colorspace", 1),
    "bt2020nc": ("libx264", {"qp": "0", "x264-params": "colormatrix=bt2020nc"}, "yuv420p", "colorspace", 9),
    "bt2020c": ("libx264", {"qp": "0", "x264-params": "colormatrix=bt2020c"}, "yuv420p", "colorspace", 10),
    "YCgCo": ("libx264", {"qp": "0", "x264-params": "colormatrix=YCgCo"}, "yuv420p", "colorspace", 8),
    "ICtCp": ("libx264", {"qp": "0", "x264-params": "colormatrix=ICtCp"}, "yuv420p", "colorspace", 14),
    "chroma at the top left": ("libx264", {"qp": "0", "x264-params": "chromaloc=2"}, "yuv420p", "colorspace", 2),
    "interlaced": ("libx264", {"qp": "0", "x264-params": "tff=1"}, "yuv420p", "interlaced_frame", True),
    "4:2:2": ("libx264", {"qp": "0"}, "yuv422p", "interlaced_frame", False),
    "4:4:4": ("libx264", {"qp": "0"}, "yuv444p", "interlaced_frame", False),
    "RGB": ("libx264rgb", {"qp": "0"}, "rgb24", "colorspace", 0),
    "10 bits": ("libx264", {"qp": "0"}, "yuv420p10le", "interlaced_frame", False),
    "HEVC": ("libx265", {"x265-params": "lossless=1:log-level=none:colormatrix=bt709"}, "yuv420p", "colorspace", 1),
    "HEVC, 10 bits": ("libx265", {"x265-params": "lossless=1:log-level=none"}, "yuv420p10le", "colorspace", 2),
    "VP9": ("libvpx-vp9", {"lossless": "1"}, "yuv420p", "interlaced_frame", False),
}


def write_lossless(path, codec, options, pix_fmt):
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=30, options=options)
        stream.width, stream.height, stream.pix_fmt = 96, 64, pix_fmt
        frame = noise_frame(pix_fmt, 96, 64)
        frame.pts, frame.time_base = 0, Fraction(1, 30)
        container.mux([*stream.encode(frame), *stream.encode()])
    return path


@pytest.mark.parametrize("case", LOSSLESS)
def test_decoded_frames(tmp_path, case):
    codec, options, pix_fmt, attribute, value = LOSSLESS[case]
    path = write_lossless(tmp_path / "v.mkv", codec, options, pix_fmt)
    (frame,) = iter_frames(path)
    decoded_as = {"rgb24": "gbrp"}.get(pix_fmt, pix_fmt)
    assert (frame.format.name, getattr(frame, attribute)) == (decoded_as, value)  # else the case shows nothing
    assert digest(read_frames(path, [0])[0].numpy()) == STORED["noise"][pix_fmt]["96x64"]


@pytest.mark.parametrize("name", STORED["files"])
def test_files_of_lossy_codecs(name):
    digests = [digest(rgb) for _, rgb in iter_rgb(DATA / name)]
    assert digests == STORED["files"][name]
    if av.__version__ == "16.0.1":
        with av.open(str(DATA / name)) as container:
            assert [digest(frame.to_ndarray(format="rgb24")) for frame in container.decode(video=0)] == digests


@pytest.mark.parametrize("pix_fmt", STORED["motion"])
def test_the_motion_curve_is_the_same_under_every_pyav(pix_fmt):
    """Stored values are this project's own under PyAV 16.0.1: only their being equal everywhere counts."""
    meter = MotionMeter()
    for number in range(8):
        meter.add(with_tags(noise_frame(pix_fmt, 97, 65, seed=number), *TAGS[number]))
    assert meter.curve().tolist() == STORED["motion"][pix_fmt]
