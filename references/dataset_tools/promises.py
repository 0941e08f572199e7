"""How many frames a container promises beyond those it holds: is the end of the file missing, or a piece of it?"""

import math
import os
import struct

import av
from av.container import InputContainer

from references.dataset_tools.reading import Reading, demux_packets, open_video

MOV = "mov,mp4,m4a,3gp,3g2,mj2"
MATROSKA = "matroska,webm"
ASF = "asf"
AVI = "avi"
# Elsewhere FFmpeg derives the duration from the file's end or its size, so that a missing tail shortens it too.
DURATION_IS_IN_HEADER = {MOV, MATROSKA, ASF, AVI, "flv"}
TRANSPORT_PACKET_BYTES = (188, 192, 204)
ASF_HEADER = bytes.fromhex("3026B2758E66CF11A6D900AA0062CE6C")
ASF_FILE_PROPERTIES = bytes.fromhex("A1DCAB8C47A9CF118EE400C00C205365")
ASF_DATA_HEADER_BYTES = 50
ASF_BROADCAST = 1  # the flag of a live recording, whose counts are not valid


def count_swallowed_frames(reading: Reading) -> int:
    """Frames that went into the decoder and did not come out.

    Leading packets may have been left out, as every player does; if they were decoded, as many others may be lost.
    """
    return max(reading.expected_frames - reading.leading - reading.frames, 0)


def count_missing_frames(path: str, container: InputContainer, stream: av.VideoStream, reading: Reading) -> int:
    """Frames that the container promises but does not hold, at least; 0 if the container makes no promise.

    Args:
        path: the file.
        container: the file, opened.
        stream: the video stream that was read.
        reading: the result of reading it to its end.
    """
    if stream.frames:
        missing = stream.frames - reading.packets - reading.empty_packets
        if missing > 0 and container.format.name == MOV:
            # An edit list hides what lies outside of it; without it, every sample must be there.
            missing = stream.frames - _count_packets_without_edit_list(path, stream.index)
        if missing > 0 and container.format.name == AVI:
            # An empty chunk repeats a frame, takes its time, and gives no packet.
            missing = min(missing - _count_empty_chunks(path, stream.index), stream.frames - reading.last_dts_end)
        return max(missing, 0)
    shortfall = _missing_seconds(container, stream, reading)
    if container.format.name == ASF and shortfall <= 0:
        shortfall = _missing_asf_seconds(path, reading)
    if shortfall > 0:
        return math.ceil(shortfall * float(stream.average_rate or 1))
    return int(_ends_in_the_middle(path, container))


def complaint_concerns_video(container: InputContainer, stream: av.VideoStream, reading: Reading) -> bool:
    """Whether what the container complained of while it was read may have cost frames of `stream`.

    Where the header counts frames, a loss shows in the count. Elsewhere a complaint may be of the sound alone: it is if
    the video goes on evenly to its promised end.
    """
    if not reading.container_error or stream.frames:
        return False
    return len(container.streams) == 1 or not reading.is_without_gap


def _count_packets_without_edit_list(path: str, index: int) -> int:
    with open_video(path, ignore_editlist="1") as container:
        return sum(packet.size > 0 for packet in demux_packets(container, [container.streams[index]]))


def _count_empty_chunks(path: str, index: int) -> int:
    """Chunks of an AVI file's stream that hold nothing, up to the end of the file or the first damage."""
    name, size = b"%02d" % index, os.path.getsize(path)
    position, count = 0, 0
    with open(path, "rb") as file:
        while position + 8 <= size:
            file.seek(position)
            kind, length = struct.unpack("<4sI", file.read(8))
            if kind in (b"RIFF", b"LIST"):  # chunks in a chunk, after four bytes that name it
                position += 12
                continue
            count += kind.startswith(name) and length == 0
            position += 8 + length + length % 2
    return count


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
    """The part of its play time that an ASF file lacks, if it is too short for the data packets it declares.

    FFmpeg ignores the declared time if the file's size differs from the declared one.
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
            if length == 0:  # reaches to the end
                return False
            if length == 1:  # the length has 64 bits; one that is cut off is as good as endless
                length = struct.unpack(">Q", file.read(8).ljust(8, b"\xff"))[0]
            if length < 8 or start + length > size:
                return kind in (b"moof", b"mdat")
            start += length
    return False
