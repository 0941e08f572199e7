"""Ways to damage a good video, one at a time, each a function of the bytes; and odd videos that are good."""

import struct
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from helpers.numbered_videos import numbered_frame, write_video


def write_textured_video(path: Path, num_frames: int = 40, width: int = 96, height: int = 64, **kwargs) -> Path:
    """A moving noise pattern: unlike flat frames, it leaves enough in every packet to damage."""
    kwargs.setdefault("options", {"g": "20"})
    return write_video(path, textured_frames(num_frames, width, height), **kwargs)


def textured_frames(num_frames: int, width: int = 96, height: int = 64) -> Iterator[np.ndarray]:
    noise = np.random.default_rng(0).integers(0, 255, (height + 40, width + 40, 3), dtype=np.uint8)
    corners = [(n % 40, n // 2 % 40) for n in range(num_frames)]
    return (np.ascontiguousarray(noise[y : y + height, x : x + width]) for y, x in corners)


def find_box(data: bytes, *kinds: str) -> tuple[int, int]:
    """Where the (nested) box of an MP4 file begins and ends, without its header."""
    start, end = 0, len(data)
    for kind in kinds:
        position = start
        while True:
            size, found = struct.unpack_from(">I4s", data, position)
            if found == kind.encode():
                start, end = position + 8, position + size
                break
            position += size
            assert position < end, f"no {kind}"
    return start, end


def replace_range(data: bytes, start: int, new: bytes) -> bytes:
    return data[:start] + new + data[start + len(new) :]


def cut(part: float) -> Callable[[bytes], bytes]:
    return lambda data: data[: int(len(data) * part)]


def zero_block(part: float, size: int = 512) -> Callable[[bytes], bytes]:
    """Zeroes a block in the video data, `part` of the way through it."""

    def damage(data: bytes) -> bytes:
        start, end = find_box(data, "mdat")
        return replace_range(data, start + int((end - start - size) * part), bytes(size))

    return damage


def flip_bits(places: int = 16, size: int = 64) -> Callable[[bytes], bytes]:
    """Inverts blocks all over the video data: H.264 has no checksum, so that one block alone may decode to noise
    without a complaint (4 of 10 do in pictures as small as these), and which one depends on the encoder's version."""

    def damage(data: bytes) -> bytes:
        first, end = find_box(data, "mdat")
        for place in range(places):
            start = first + (end - first - size) * (2 * place + 1) // (2 * places)
            data = replace_range(data, start, bytes(byte ^ 0xFF for byte in data[start : start + size]))
        return data

    return damage


def without_mdat(data: bytes) -> bytes:
    """A header with no data; the data must come last in the file."""
    return data[: find_box(data, "mdat")[0] - 8]


def without_first_keyframe(data: bytes) -> bytes:
    """Zeroes the first sample, which is the keyframe that the others refer to."""
    table, _ = find_box(data, "moov", "trak", "mdia", "minf", "stbl", "stsz")
    (size,) = struct.unpack_from(">I", data, table + 12)
    start, _ = find_box(data, "mdat")
    return replace_range(data, start, bytes(size))


def encrypted(data: bytes) -> bytes:
    """What an encrypted file looks like without its key: samples of the right size, of noise."""
    start, end = find_box(data, "mdat")
    return replace_range(data, start, np.random.default_rng(1).bytes(end - start))


def wrong_magic(data: bytes) -> bytes:
    return replace_range(data, 0, b"GIF89a" + bytes(58))


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "cut at 90 %, header intact": cut(0.9),
    "cut at 50 %, header intact": cut(0.5),
    "last byte missing": lambda data: data[:-1],
    "zeroed block at the start": zero_block(0.02),
    "zeroed block in the middle": zero_block(0.5),
    "zeroed block at the end": zero_block(1.0),
    "flipped bits": flip_bits(),
    "first keyframe missing": without_first_keyframe,
    "encrypted": encrypted,
    "a header with no data": without_mdat,
    "wrong magic": wrong_magic,
    "only zeros": lambda data: bytes(len(data)),
    "empty": lambda data: b"",
    "text": lambda data: b"version https://git-lfs.github.com/spec/v1\n",
}


def write_with_audio(
    path: Path,
    video: bool = True,
    cover: bool = False,
    container_options=None,
    codec: str = "libx264",
    sound_codec: str = "aac",
) -> Path:
    """A video of 40 frames with a sound track; without `video` only the sound, with `cover` also a picture."""
    with av.open(str(path), "w", options=container_options or {}) as container:
        if video:
            stream = container.add_stream(codec, rate=30)
            stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        sound = container.add_stream(sound_codec, rate=44100)
        sound.bit_rate = 64000
        if cover:
            picture = container.add_stream("png")
            picture.width, picture.height, picture.pix_fmt = 32, 32, "rgb24"
            picture.disposition = av.stream.Disposition.attached_pic.value
            frame = av.VideoFrame.from_ndarray(numbered_frame(1, 32, 32), format="rgb24")
            container.mux(picture.encode(frame))
        for number in range(40 if video else 0):
            frame = av.VideoFrame.from_ndarray(numbered_frame(number), format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, 30)
            container.mux(stream.encode(frame))
        noise = np.random.default_rng(0).uniform(-1, 1, (1, 1024 * 56)).astype(np.float32)
        for start in range(0, noise.shape[1], 1024):
            frame = av.AudioFrame.from_ndarray(noise[:, start : start + 1024], format="fltp", layout="mono")
            frame.sample_rate, frame.pts, frame.time_base = 44100, start, Fraction(1, 44100)
            container.mux(sound.encode(frame))
        container.mux(sound.encode())
        if video:
            container.mux(stream.encode())
    return path


def flag_transport_error(data: bytes, packet: int) -> bytes:
    """Sets the error flag of one packet of a transport stream, whose bytes are all right: a remux repairs it."""
    start = packet * 188 + 1
    return replace_range(data, start, bytes([data[start] | 0x80]))
