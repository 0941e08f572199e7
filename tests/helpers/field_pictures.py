"""H.264 in field pictures (PAFF), which no encoder at hand makes: each field is a picture, and a packet, of its own."""

from fractions import Fraction
from pathlib import Path

import av

WIDTH, HEIGHT = 32, 32  # two macroblocks a field


class Bits:
    """The bits of one NAL unit."""

    def __init__(self) -> None:
        self.text = ""

    def u(self, value: int, count: int) -> "Bits":
        self.text += f"{value:0{count}b}"
        return self

    def ue(self, *values: int) -> "Bits":
        for value in values:
            self.text += f"{value + 1:b}".rjust(2 * (value + 1).bit_length() - 1, "0")
        return self

    def align(self) -> "Bits":
        self.text += "0" * (-len(self.text) % 8)
        return self

    def nal(self, header: int) -> bytes:
        text = self.text + "1"
        text += "0" * (-len(text) % 8)
        payload = int(text, 2).to_bytes(len(text) // 8, "big")
        assert b"\0\0\0" not in payload and b"\0\0\1" not in payload, "would need emulation prevention"
        return b"\0\0\0\1" + bytes([header]) + payload


def _parameter_sets() -> bytes:
    sps = Bits().u(77, 8).u(0, 8).u(30, 8)  # main profile, level 3
    sps.ue(0, 0, 2, 1).u(0, 1)  # id, 4 bits of frame_num, order of output = of decoding, 1 reference frame, no gaps
    sps.ue(WIDTH // 16 - 1, HEIGHT // 32 - 1).u(0, 1).u(0, 1).u(1, 1).u(0, 2)  # not only frames, no MBAFF
    pps = Bits().ue(0, 0).u(0, 2).ue(0, 0, 0).u(0, 3).ue(0, 0, 0).u(0, 3)  # CAVLC
    return sps.nal(0x67) + pps.nal(0x68)


def _field(number: int, is_bottom: bool) -> bytes:
    """An intra field of gray macroblocks, uncompressed (I_PCM)."""
    is_idr = number == 0 and not is_bottom
    bits = Bits().ue(0, 7, 0).u(number % 16, 4).u(1, 1).u(is_bottom, 1)  # an I slice of a field
    if is_idr:
        bits.ue(0).u(0, 2)
    else:
        bits.u(0, 1)
    bits.ue(0)  # the quantizer as in the PPS
    for _ in range(WIDTH // 16 * HEIGHT // 32):
        bits.ue(25).align()
        bits.text += f"{(100 + number) % 256:08b}" * 384
    return bits.nal(0x25 if is_idr else 0x21)


def write_field_pictures(path: Path, num_frames: int) -> Path:
    """A video of 25 frames per second, in two packets a frame."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height = WIDTH, HEIGHT
        for number in range(num_frames):
            for is_bottom in (False, True):
                data = _field(number, is_bottom)
                packet = av.Packet(_parameter_sets() + data if number % 10 == 0 and not is_bottom else data)
                packet.stream, packet.time_base = stream, Fraction(1, 50)
                packet.pts = packet.dts = 2 * number + is_bottom
                packet.is_keyframe = number == 0 and not is_bottom
                container.mux(packet)
    return path
