"""How many frames a container promises beyond those that it held: is the end of the file missing, or a piece of it?"""

import math
import os
import struct

import av
from av.container import InputContainer

from references.dataset_tools.reading import Reading

MOV = "mov,mp4,m4a,3gp,3g2,mj2"
MATROSKA = "matroska,webm"
ASF = "asf"
# Elsewhere FFmpeg works the duration out from the file's end or its size, which a missing tail changes with it.
DURATION_IS_IN_HEADER = {MOV, MATROSKA, ASF, "flv", "avi"}
TRANSPORT_PACKET_BYTES = (188, 192, 204)
ASF_HEADER = bytes.fromhex("3026B2758E66CF11A6D900AA0062CE6C")
ASF_FILE_PROPERTIES = bytes.fromhex("A1DCAB8C47A9CF118EE400C00C205365")
ASF_DATA_HEADER_BYTES = 50
ASF_BROADCAST = 1  # the flag of a live recording, whose counts are not valid


def count_swallowed_frames(reading: Reading) -> int:
    """Frames that went into the decoder and did not come out."""
    expected = reading.packets - reading.discarded - reading.silent
    if reading.interlaced:
        expected = (expected + 1) // 2  # each of a frame's two fields may be a packet
    return max(expected - reading.frames, 0)


def count_missing_frames(path: str, container: InputContainer, stream: av.VideoStream, reading: Reading) -> int:
    """Frames that the container promises but does not hold, at least; 0 where the container makes no promise."""
    if stream.frames:
        missing = stream.frames - reading.packets - reading.empty_packets
        if missing > 0 and container.format.name == MOV:
            # An edit list hides what lies outside of it; without it, every sample must be there.
            missing = stream.frames - _count_packets_without_edit_list(path, stream.index)
        return max(missing, 0)
    shortfall = _missing_seconds(container, stream, reading)
    if container.format.name == ASF and shortfall <= 0:
        shortfall = _missing_asf_seconds(path, reading)
    if shortfall > 0:
        return max(math.ceil(shortfall * float(stream.average_rate or 1)), 1)
    return int(_ends_in_the_middle(path, container))


def _count_packets_without_edit_list(path: str, index: int) -> int:
    with av.open(path, options={"ignore_editlist": "1", "protocol_whitelist": "file"}) as container:
        return sum(packet.size > 0 for packet in container.demux(container.streams[index]))


def _missing_seconds(container: InputContainer, stream: av.VideoStream, reading: Reading) -> float:
    if container.format.name not in DURATION_IS_IN_HEADER or not container.duration:
        return 0.0
    promised = container.duration / av.time_base
    # Some containers count the time before the first frame, some do not.
    shortfall = promised - max(reading.last_end, reading.last_end - (reading.start or 0.0))
    # The last frame may stay longer than the header's rounding, or than its packet says.
    rate = float(stream.average_rate or 0)
    allowance = 0.05 + 1.5 * max(reading.longest_gap, 1 / rate if rate else 0.0)
    return shortfall if shortfall > allowance else 0.0


def _missing_asf_seconds(path: str, reading: Reading) -> float:
    """The part of its play time that an ASF file lacks, where it is too short for the data packets it declares.

    FFmpeg passes over the declared time where the file's size is another than the declared one.
    """
    with open(path, "rb") as file:
        kind, size = struct.unpack("<16sQ", file.read(24).ljust(24))
        header = file.read(min(size, 1 << 20) - 24) if kind == ASF_HEADER and size > 24 else b""
    start = header.find(ASF_FILE_PROPERTIES)
    if start < 0 or len(header) < start + 104:
        return 0.0
    packets, play_time, _, preroll, flags, packet_bytes = struct.unpack_from("<56x4Q2I", header, start)
    data_end = size + ASF_DATA_HEADER_BYTES + packets * packet_bytes
    if flags & ASF_BROADCAST or data_end <= os.path.getsize(path):
        return 0.0
    return max(play_time / 1e7 - preroll / 1e3 - reading.last_end, 1e-3)


def _ends_in_the_middle(path: str, container: InputContainer) -> bool:
    """Whether the file stops within a packet of a transport stream, or within a fragment of an MP4."""
    size = os.path.getsize(path)
    with open(path, "rb") as file:
        if container.format.name == "mpegts":
            return file.read(1) == b"\x47" and all(size % packet for packet in TRANSPORT_PACKET_BYTES)
        if container.format.name != MOV:
            return False
        start = 0
        while start + 8 <= size:
            file.seek(start)
            length, kind = struct.unpack(">I4s", file.read(8))
            if length == 1:
                length = struct.unpack(">Q", file.read(8).rjust(8, b"\0"))[0]
            if length == 0:  # reaches to the end
                return False
            if length < 8 or start + length > size:
                return kind in (b"moof", b"mdat")
            start += length
    return False
