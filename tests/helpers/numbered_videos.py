"""Videos whose pixels carry their frame number, so that a test can tell which frame it was given."""

import struct
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

NUMBER_BITS = 12


def numbered_frame(number: int, width: int = 96, height: int = 64) -> np.ndarray:
    """A gray uint8 RGB frame (H, W, 3) with `number` written as a row of black and white bars."""
    frame = np.full((height, width, 3), 128, np.uint8)
    bar = width // NUMBER_BITS
    for bit in range(NUMBER_BITS):
        frame[: height // 2, bit * bar : (bit + 1) * bar] = 255 * (number >> bit & 1)
    return frame


def frame_number(frame: np.ndarray) -> int:
    """The number in an RGB frame (H, W, 3) that `numbered_frame` drew, also after lossy coding."""
    height, width = frame.shape[:2]
    bar = width // NUMBER_BITS
    centres = [frame[height // 4, bit * bar + bar // 2].mean() > 127 for bit in range(NUMBER_BITS)]
    return sum(int(is_set) << bit for bit, is_set in enumerate(centres))


def decode_all(path):
    """Every frame by PyAV alone, as RGB; for videos without tags of their colours."""
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def write_video(
    path: Path,
    frames,
    fps: Fraction | int = 30,
    codec: str = "libx264",
    options: dict[str, str] | None = None,
    container_options: dict[str, str] | None = None,
    pts: list[int] | None = None,
    pix_fmt: str = "yuv420p",
) -> Path:
    """Encodes RGB uint8 frames (H, W, 3). `pts` gives presentation times in units of 1 / fps (variable rate)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", options=container_options or {}) as container:
        stream = None
        for index, array in enumerate(frames):
            if stream is None:
                stream = container.add_stream(codec, rate=fps, options=options or {})
                stream.height, stream.width = array.shape[:2]
                stream.pix_fmt = pix_fmt
            frame = av.VideoFrame.from_ndarray(array, format="rgb24")
            frame.pts = index if pts is None else pts[index]
            frame.time_base = 1 / Fraction(fps)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def set_display_matrix(path: Path, a: int, b: int, c: int, d: int) -> Path:
    """Writes into an MP4 file that the stored point (x, y) is shown at (a x + c y, b x + d y)."""
    data = bytearray(path.read_bytes())
    matrix = struct.pack(">9i", a << 16, b << 16, 0, c << 16, d << 16, 0, 0, 0, 1 << 30)
    start = data.index(b"tkhd") + 4 + 40
    data[start : start + len(matrix)] = matrix
    path.write_bytes(data)
    return path


def write_exif_video(path: Path, orientation: int, num_frames: int = 4) -> Path:
    """Motion JPEG whose pictures carry EXIF, as photos joined by stream copy do."""
    tiff = b"II*\0" + struct.pack("<IHHHIHHI", 8, 1, 0x112, 3, 1, orientation, 0, 0)
    segment = b"\xff\xe1" + struct.pack(">H", len(tiff) + 8) + b"Exif\0\0" + tiff
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mjpeg", rate=10)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuvj420p"
        for number in range(num_frames):
            frame = av.VideoFrame.from_ndarray(numbered_frame(number), format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, 10)
            for packet in stream.encode(frame):
                data = bytes(packet)
                with_exif = av.Packet(data[:2] + segment + data[2:])
                with_exif.pts, with_exif.dts, with_exif.time_base = packet.pts, packet.dts, packet.time_base
                with_exif.stream, with_exif.is_keyframe = stream, True
                container.mux(with_exif)
    return path


def write_size_changes(path: Path, sizes=((96, 64), (48, 32), (120, 88)), frames_each: int = 12) -> Path:
    """A transport stream joined of several, of `sizes` (width, height); the frames are numbered on."""
    parts = []
    for number, (width, height) in enumerate(sizes):
        frames = (numbered_frame(number * frames_each + i, width, height) for i in range(frames_each))
        part = write_video(path.with_suffix(f".{number}.ts"), frames)
        parts.append(part.read_bytes())
        part.unlink()
    path.write_bytes(_joined(parts))
    return path


def _joined(parts: list[bytes]) -> bytes:
    """Transport streams, one after the other, with a jump of the continuity counters in between."""
    packets, last = [], {}
    for part in parts:
        shift = {}
        for start in range(0, len(part), 188):
            packet = bytearray(part[start : start + 188])
            stream, counter = (packet[1] & 0x1F, packet[2]), packet[3] & 0xF
            shift.setdefault(stream, last.get(stream, 0) + 8 - counter)
            packet[3] = packet[3] & 0xF0 | (counter + shift[stream]) & 0xF
            last[stream] = packet[3] & 0xF
            packets.append(packet)
    return b"".join(packets)


def write_numbered_video(path: Path, num_frames: int, width: int = 96, height: int = 64, **kwargs) -> Path:
    """A video of `num_frames` numbered frames; further arguments as `write_video`."""
    return write_video(path, (numbered_frame(i, width, height) for i in range(num_frames)), **kwargs)
