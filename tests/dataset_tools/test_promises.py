"""Promises of hand-made files and readings, each with the number of frames that a person counts as missing."""

import struct
from pathlib import Path
from types import SimpleNamespace

import av
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.damaged_videos import write_textured_video
from references.dataset_tools import promises
from references.dataset_tools.promises import complaint_concerns_video, count_missing_frames, count_swallowed_frames
from references.dataset_tools.reading import Reading

RATE = 20


def container_of(format_name: str, seconds: float | None = None, streams: int = 1) -> SimpleNamespace:
    duration = None if seconds is None else round(seconds * 1_000_000)  # FFmpeg counts in microseconds
    return SimpleNamespace(format=SimpleNamespace(name=format_name), duration=duration, streams=[None] * streams)


def stream_of(frames: int = 0, rate: float | None = RATE, index: int = 0) -> SimpleNamespace:
    return SimpleNamespace(frames=frames, average_rate=rate, index=index)


@pytest.fixture
def path(tmp_path) -> str:
    (tmp_path / "file").write_bytes(b"")
    return str(tmp_path / "file")


@pytest.mark.parametrize(
    "facts, swallowed",
    [
        (dict(packets=40, frames=40), 0),
        (dict(packets=40, frames=39), 1),
        (dict(packets=40, frames=41), 0),
        (dict(packets=40, frames=30, discarded=4, silent=3), 3),
        (dict(packets=40, frames=30, leading=3), 7),
        (dict(packets=40, frames=38, leading=3), 0),
        (dict(packets=40, frames=20, interlaced=True), 0),
        (dict(packets=41, frames=20, interlaced=True), 1),
        (dict(packets=40, frames=15, interlaced=True, leading=2), 3),
    ],
)
def test_frames_that_did_not_come_out(facts, swallowed):
    assert count_swallowed_frames(Reading(**facts)) == swallowed


@pytest.mark.parametrize(
    "format_name, packets, empty, missing",
    [("flv", 40, 0, 0), ("flv", 39, 0, 1), ("flv", 0, 0, 40), ("flv", 30, 4, 6), ("flv", 38, 4, 0), ("flv", 45, 0, 0)],
)
def test_a_count_in_the_header(path, format_name, packets, empty, missing):
    reading = Reading(packets=packets, empty_packets=empty)
    assert count_missing_frames(path, container_of(format_name), stream_of(40), reading) == missing


def test_an_edit_list_hides_what_is_there(tmp_path):
    source = write_textured_video(tmp_path / "long.mp4", 60, options={"g": "30", "bf": "0"})
    hidden, cut = tmp_path / "hidden.mp4", tmp_path / "cut.mp4"
    with av.open(str(source)) as container, av.open(str(hidden), "w", options={"movflags": "faststart"}) as output:
        stream = output.add_stream_from_template(container.streams.video[0])
        for packet in container.demux(video=0):
            if packet.dts is not None:
                shift = int(0.4 / packet.time_base)  # 12 frames are before the start
                packet.pts, packet.dts, packet.stream = packet.pts - shift, packet.dts - shift, stream
                output.mux(packet)
    with av.open(str(hidden)) as container:
        last = max(packet.pos for packet in container.demux(video=0) if packet.size)
    cut.write_bytes(hidden.read_bytes()[:last])
    for file, missing in ((hidden, 0), (cut, 1)):
        with av.open(str(file)) as container:
            assert container.streams.video[0].frames == 60
            reading = Reading(packets=47)
            assert count_missing_frames(str(file), container, container.streams.video[0], reading) == missing
    assert count_missing_frames(str(hidden), container_of("flv"), stream_of(60), Reading(packets=47)) == 13
    assert count_missing_frames(str(hidden), container_of(promises.MOV), stream_of(60), Reading(packets=59)) == 0


def test_a_file_that_holds_all_is_not_read_again(path):
    """It is empty, so that it could not be opened."""
    with pytest.raises(av.FFmpegError):
        count_missing_frames(path, container_of(promises.MOV), stream_of(40), Reading(packets=39))
    assert count_missing_frames(path, container_of(promises.MOV), stream_of(40), Reading(packets=40)) == 0


def avi(chunks: list[tuple[bytes, int]]) -> bytes:
    """A RIFF of one list, with these (name, length) chunks in it, each padded to an even length."""
    inner = b"".join(struct.pack("<4sI", *chunk) + b"x" * (chunk[1] + chunk[1] % 2) for chunk in chunks)
    content = b"AVI " + struct.pack("<4sI4s", b"LIST", 4 + len(inner), b"movi") + inner
    return struct.pack("<4sI", b"RIFF", len(content)) + content


@settings(deadline=None, database=None, max_examples=50)
@given(st.lists(st.tuples(st.sampled_from([b"00dc", b"00db", b"01wb", b"01dc", b"idx1"]), st.integers(0, 5))))
def test_empty_chunks_are_counted(tmp_path_factory, chunks):
    path = tmp_path_factory.getbasetemp() / "chunks.avi"
    path.write_bytes(avi(chunks))
    for index, name in enumerate((b"00", b"01")):
        empty = sum(kind[:2] == name and length == 0 for kind, length in chunks)
        assert promises._count_empty_chunks(str(path), index) == empty


@pytest.mark.parametrize(
    "packets, last_dts_end, missing",
    [
        (7, 10, 0),  # three are repeats, and the time is full
        (9, 10, 0),
        (6, 10, 0),  # the count says that one is lost, the time that none is
        (6, 9, 1),
        (6, 2, 1),
        (4, 2, 3),
        (4, 8, 2),
        (10, 0, 0),
    ],
)
def test_empty_chunks_of_an_avi_file_repeat_frames(tmp_path, packets, last_dts_end, missing):
    """Of ten frames that it promises, three are empty chunks."""
    chunks = [(b"00dc", 3), (b"00dc", 0), (b"00dc", 0), (b"01wb", 0), (b"00dc", 2), (b"00dc", 0)]
    (tmp_path / "video.avi").write_bytes(avi(chunks))
    reading = Reading(packets=packets, last_dts_end=last_dts_end)
    path, stream = str(tmp_path / "video.avi"), stream_of(10)
    assert count_missing_frames(path, container_of("avi"), stream, reading) == missing
    assert count_missing_frames(path, container_of("flv"), stream, reading) == 10 - packets


def reading_until(end: float, start: float | None = 0.0, gap: float = 1 / RATE) -> Reading:
    """A reading whose frames are `gap` seconds apart, and whose last packet ends at `end`."""
    return Reading(packets=40, frames=40, start=start, end=end, last_end=end, times=[0.0, gap])


@pytest.mark.parametrize("format_name", sorted(promises.DURATION_IS_IN_HEADER - {"asf"}))
@pytest.mark.parametrize(
    "promised, reading, missing",
    [
        (2.0, reading_until(2.0), 0),
        (2.0, reading_until(2.5), 0),
        (2.0, reading_until(1.0), 20),
        (2.0, reading_until(1.52), 10),  # 0.48 s at 20 frames/s are 9.6 frames
        (2.0, reading_until(1.88), 0),  # 0.05 s and one and a half frames, 0.125 s in all, are allowed
        (2.0, reading_until(1.87), 3),
        (2.0, reading_until(1.0, gap=0.7), 0),  # 0.05 s and one and a half gaps, 1.1 s in all
        (2.0, reading_until(0.8, gap=0.7), 24),
        (2.0, reading_until(1.5, start=-0.5), 0),
        (2.0, reading_until(1.5, start=0.5), 10),
        (2.0, reading_until(1.0, start=None), 20),
        (None, reading_until(1.0), 0),
    ],
)
def test_a_duration_in_the_header(path, format_name, promised, reading, missing):
    container = container_of(format_name, promised)
    assert count_missing_frames(path, container, stream_of(), reading) == missing


@pytest.mark.parametrize(
    "rate, gap, missing",
    [
        (None, 3.0, 6),  # allowed are 0.05 s and one and a half gaps, 4.55 s in all; without a rate a second is a frame
        (0, 3.0, 6),
        (0.5, 0.01, 3),  # allowed are 3.05 s; 5.5 s are 2.75 frames
        (0.5, 3.0, 3),
        (0.5, 4.0, 0),  # 6.05 s
        (10, 0.01, 55),
    ],
)
def test_a_shortfall_of_five_and_a_half_seconds(path, rate, gap, missing):
    container, reading = container_of("flv", 6.5), reading_until(1.0, gap=gap)
    assert count_missing_frames(path, container, stream_of(rate=rate), reading) == missing


def test_without_a_rate_only_the_gaps_are_allowed_for(path):
    container, reading = container_of("flv", 2.0), reading_until(1.0, gap=0.01)
    assert count_missing_frames(path, container, stream_of(rate=None), reading) == 1


def test_a_duration_that_is_derived_from_the_file_promises_nothing(path):
    assert count_missing_frames(path, container_of("ogg", 2.0), stream_of(), reading_until(1.0)) == 0


@pytest.mark.parametrize(
    "error, frames, streams, times, concerns",
    [
        ("", 0, 1, [0, 1, 2], False),
        ("broken", 40, 1, [0, 1, 2], False),
        ("broken", 0, 1, [0, 1, 2], True),
        ("broken", 0, 2, [0, 1, 2], False),
        ("broken", 0, 2, [0, 1, 2, 3.4], False),
        ("broken", 0, 2, [0, 1, 2, 3.5], True),
        ("broken", 0, 2, [3.5, 2, 0, 1], True),
        ("broken", 0, 2, [0], True),
    ],
)
def test_whether_a_complaint_concerns_the_video(error, frames, streams, times, concerns):
    reading = Reading(container_error=error, times=times)
    assert complaint_concerns_video(container_of("flv", streams=streams), stream_of(frames), reading) is concerns


def asf(packets: int = 5, packet_bytes: int = 100, seconds: float = 4.0, preroll: float = 1.0, flags: int = 0) -> bytes:
    """The header of an ASF file, by the fields of the specification's 3.1 and 3.2, and its data packets."""
    properties = promises.ASF_FILE_PROPERTIES + struct.pack("<Q16sQQ", 104, bytes(16), 0, 0)
    properties += struct.pack("<QQQQ", packets, int(seconds * 1e7), 0, int(preroll * 1e3))
    properties += struct.pack("<IIII", flags, packet_bytes, packet_bytes, 0)
    assert len(properties) == 104
    header = promises.ASF_HEADER + struct.pack("<QIBB", 30 + 104, 1, 1, 2) + properties
    return header + bytes(50) + bytes(packets * packet_bytes)


def asf_missing(tmp_path, data: bytes, last_end: float = 1.0) -> int:
    path = tmp_path / "video.wmv"
    path.write_bytes(data)
    reading = reading_until(last_end)
    return count_missing_frames(str(path), container_of("asf"), stream_of(), reading)


def test_an_asf_file_that_is_shorter_than_its_packets(tmp_path):
    whole = asf()
    assert len(whole) == 134 + 50 + 500
    assert asf_missing(tmp_path, whole) == 0 == asf_missing(tmp_path, whole + b"x")
    assert asf_missing(tmp_path, whole[:-1]) == 40, "4 s less 1 s before its start, of which 1 s was read"
    assert asf_missing(tmp_path, whole[:-1], last_end=2.52) == 10
    assert asf_missing(tmp_path, whole[:-1], last_end=3.0) == 1, "something is missing"
    assert asf_missing(tmp_path, whole[:160]) == 40
    assert asf_missing(tmp_path, asf(flags=2)[:-1]) == 40
    assert asf_missing(tmp_path, asf(flags=promises.ASF_BROADCAST)[:-1]) == 0
    assert asf_missing(tmp_path, asf(flags=3)[:-1]) == 0


def test_what_declares_no_packets_misses_none(tmp_path):
    whole = asf()
    for data in (whole[:133], whole[:40], whole[:20], b"", b"x" + whole[1:-1], whole[:30] + b"x" + whole[31:-1]):
        assert asf_missing(tmp_path, data) == 0


def test_a_duration_in_an_asf_header_comes_first(tmp_path):
    (tmp_path / "video.wmv").write_bytes(asf()[:-1])
    container = container_of("asf", 2.0)
    assert count_missing_frames(str(tmp_path / "video.wmv"), container, stream_of(), reading_until(1.0)) == 20


@pytest.mark.parametrize("size", [188, 192, 204])
def test_a_transport_stream_that_ends_within_a_packet(tmp_path, size):
    data = (b"\x47" + bytes(size - 1)) * 7
    for content, is_cut in ((data, 0), (data[:-1], 1), (data + b"\x47", 1), (b"\x48" + data[1:-1], 0), (b"", 0)):
        (tmp_path / "video.ts").write_bytes(content)
        assert (
            count_missing_frames(str(tmp_path / "video.ts"), container_of("mpegts"), stream_of(), Reading()) == is_cut
        )
    (tmp_path / "video.ts").write_bytes(data[:-1])
    assert count_missing_frames(str(tmp_path / "video.ts"), container_of("mpeg"), stream_of(), Reading()) == 0


def box(kind: bytes, content: int, is_long: bool = False) -> bytes:
    length = struct.pack(">I4sQ", 1, kind, 16 + content) if is_long else struct.pack(">I4s", 8 + content, kind)
    return length + b"x" * content


BOXES = [box(b"ftyp", 4), box(b"moov", 3), box(b"moof", 5), box(b"mdat", 6), box(b"moof", 2), box(b"mdat", 7, True)]


@pytest.mark.parametrize("last", [b"", box(b"mfra", 9), box(b"free", 0, True)])
def test_a_fragmented_mp4_that_ends_within_a_fragment(tmp_path, last):
    """Cut at every byte. A cut within a box's length and name, 8 bytes, is not told from bytes that follow the end."""
    path, position = tmp_path / "video.mp4", 0
    for content in [*BOXES, last]:
        for count in range(len(content)):
            path.write_bytes(b"".join(BOXES + [last])[: position + count])
            is_cut = count >= 8 and content[4:8] in (b"moof", b"mdat")
            found = count_missing_frames(str(path), container_of(promises.MOV), stream_of(), Reading())
            assert found == is_cut, (content, count)
        position += len(content)
    path.write_bytes(b"".join(BOXES + [last]))
    assert count_missing_frames(str(path), container_of(promises.MOV), stream_of(), Reading()) == 0


@pytest.mark.parametrize(
    "data, is_cut",
    [
        (box(b"moof", 1) + struct.pack(">I4s", 0, b"mdat") + b"rest", False),  # 0: up to the end
        (box(b"moof", 1) + struct.pack(">I4s", 7, b"mdat"), True),  # no box is that short
        (box(b"moof", 1) + struct.pack(">I4s", 7, b"free"), False),
        (box(b"moof", 1) + struct.pack(">I4s", 8, b"mdat"), False),
        (struct.pack(">I4sQ", 1, b"mdat", 0), True),
        (struct.pack(">I4sQ", 1, b"mdat", 1 << 40), True),
    ],
)
def test_odd_lengths_of_boxes(tmp_path, data, is_cut):
    (tmp_path / "video.mp4").write_bytes(data)
    path = str(Path(tmp_path / "video.mp4"))
    assert count_missing_frames(path, container_of(promises.MOV), stream_of(), Reading()) == is_cut
    assert count_missing_frames(path, container_of("flv"), stream_of(), Reading()) == 0
