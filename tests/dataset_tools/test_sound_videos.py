"""Kinds of sound videos that look damaged at first sight; and that damage to them is still seen."""

from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest

from helpers.damaged_videos import replace_range, textured_frames, write_textured_video, write_with_audio
from helpers.field_pictures import write_field_pictures
from helpers.numbered_videos import write_video
from references.dataset_tools.probing import ProbeOptions, Verdict, probe
from references.dataset_tools.reading import demux_packets
from references.dataset_tools.remuxing import remux

PROBERS = ["av", "ffmpeg"]
pytestmark = pytest.mark.usefixtures("ffmpeg_on_path")
FPS = 30


def verdicts(path: Path) -> list[Verdict]:
    return [probe(str(path), ProbeOptions(prober)) for prober in PROBERS]


def assert_ok(path: Path, frames: int) -> None:
    for prober, verdict in zip(PROBERS, verdicts(path), strict=True):
        assert (verdict.status, verdict.frames) == ("ok", frames), (prober, verdict.reason)


def assert_damage_is_seen(path: Path) -> None:
    """Cut at many places, and with a piece zeroed or taken out, the file is bad."""
    data = path.read_bytes()
    size = len(data)
    damaged = {f"cut at {part} %": data[: size * part // 100 | 1] for part in (30, 60, 90)}
    damaged["zeroed"] = replace_range(data, size // 3, bytes(size // 4))
    damaged["taken out"] = data[: size // 2] + data[size // 2 + size // 10 :]
    for damage, content in damaged.items():
        broken = path.with_name(f"broken{path.suffix}")
        broken.write_bytes(content)
        assert [verdict.status for verdict in verdicts(broken)] == ["bad", "bad"], damage


def write_packets(path: Path, template: Path, change: Callable[[list[av.Packet]], list[av.Packet]]) -> Path:
    """The packets of the template's video, as `change` returns them, in a container without further filters."""
    with av.open(str(template)) as source, av.open(str(path), "w", options={"fflags": "-autobsf"}) as output:
        template = source.streams.video[0]
        stream = output.add_stream_from_template(template, opaque=template.codec_context.name == "libdav1d")
        for packet in change([packet for packet in source.demux(video=0) if packet.size]):
            packet.stream = stream
            output.mux(packet)
    return path


@pytest.mark.parametrize("codec", ["mpeg4", "mjpeg", "libx264", "libvpx-vp9", "msmpeg4"])
def test_avi_repeats_frames_by_empty_chunks(tmp_path, codec):
    shown = [number for number in range(40) if number % 5 != 3]
    options = {"bf": "2"} if codec == "mpeg4" else {}
    pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
    path = write_textured_video(
        tmp_path / "video.avi", len(shown), codec=codec, pts=shown, pix_fmt=pix_fmt, options=options
    )
    with av.open(str(path)) as container:
        assert container.streams.video[0].frames > len(shown)
    assert_ok(path, len(shown))
    assert_damage_is_seen(path)


def test_avi_may_end_with_empty_chunks(tmp_path):
    data = write_textured_video(tmp_path / "good.avi", 20, codec="mjpeg", pix_fmt="yuvj420p").read_bytes()
    index = data.rindex(b"idx1")
    last = data.rindex(b"00dc", 0, index)
    path = tmp_path / "video.avi"
    path.write_bytes(data[:last] + b"00dc" + bytes(4) + data[index:])
    assert_ok(path, 19)
    path.write_bytes(data[:last])
    assert [verdict.status for verdict in verdicts(path)] == ["bad", "bad"]


def cut_at_second_keyframe(packets: list[av.Packet]) -> list[av.Packet]:
    keyframes = [index for index, packet in enumerate(packets) if packet.is_keyframe]
    kept = packets[keyframes[1] :]
    shift = min(packet.pts for packet in kept)
    for packet in kept:
        packet.pts, packet.dts = packet.pts - shift, packet.dts - shift
    return kept


def cut_with_negative_times(packets: list[av.Packet]) -> list[av.Packet]:
    kept = cut_at_second_keyframe(packets)
    shift = kept[0].pts
    for packet in kept:
        packet.pts, packet.dts = packet.pts - shift, packet.dts - shift
    return kept


OPEN_GOPS = {
    "libx264": {"x264-params": "keyint=12:min-keyint=12:scenecut=0:open-gop=1:bframes=3:b-adapt=0"},
    "libx264 ": {"x264-params": "keyint=12:min-keyint=12:scenecut=0:open-gop=1:bframes=2:b-adapt=0:ref=1:b-pyramid=2"},
    "libx265": {"x265-params": "keyint=12:min-keyint=12:scenecut=0:open-gop=1:bframes=3:b-adapt=0:log-level=none"},
    "mpeg2video": {"bf": "2", "g": "12", "b_strategy": "0"},
}


@pytest.mark.parametrize("cut", [cut_at_second_keyframe, cut_with_negative_times])
@pytest.mark.parametrize("codec", OPEN_GOPS)
@pytest.mark.parametrize("suffix", [".mkv", ".ts", ".mp4"])
def test_open_gop_cut_at_a_keyframe(tmp_path, codec, suffix, cut):
    whole = write_textured_video(tmp_path / "whole.ts", 60, codec=codec.strip(), options=OPEN_GOPS[codec])
    path = write_packets(tmp_path / f"video{suffix}", whole, cut)
    with av.open(str(path)) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
    keyframe = next(index for index, packet in enumerate(packets) if packet.is_keyframe)
    assert keyframe == 0
    with av.open(str(path)) as container, av.logging.Capture():
        frames = sum(1 for _ in container.decode(video=0))
    assert 0 < len(packets) - frames <= 4, "its leading pictures are not decoded"
    assert_ok(path, frames)
    assert_damage_is_seen(path)


def test_leading_pictures_do_not_excuse_errors_of_others(tmp_path):
    whole = write_textured_video(tmp_path / "whole.ts", 60, options=OPEN_GOPS["libx264 "])
    path = write_packets(tmp_path / "video.ts", whole, cut_at_second_keyframe)
    with av.open(str(path)) as container:
        positions = [packet.pos for packet in container.demux(video=0) if packet.size]
    data = path.read_bytes()
    path.write_bytes(data[: positions[20]] + data[positions[21] :])  # a packet that others refer to
    assert [verdict.status for verdict in verdicts(path)] == ["bad", "bad"]


@pytest.mark.parametrize("suffix", [".webm", ".mkv"])
def test_vp9_hidden_frames_in_packets_of_their_own(tmp_path, suffix):
    """Every frame a keyframe, whose header allows show_frame to be cleared; one of them is then shown by reference."""
    good = write_textured_video(tmp_path / "good.webm", 30, codec="libvpx-vp9", options={"g": "1"})

    def hide(packets):
        changed = []
        for index, packet in enumerate(packets):
            data = bytearray(packet)
            if index % 10 == 5:
                data[0] &= ~0b10
            if index % 10 == 6:
                data = bytearray([0b10001000])  # show_existing_frame: the one before
            new = av.Packet(bytes(data))
            new.pts, new.dts, new.time_base = packet.pts, packet.dts, packet.time_base
            new.is_keyframe = packet.is_keyframe
            changed.append(new)
        return changed

    path = write_packets(tmp_path / f"video{suffix}", good, hide)
    assert_ok(path, 27)
    assert_damage_is_seen(path)


@pytest.mark.parametrize("suffix", [".mkv"])
def test_av1_hidden_frames_in_packets_of_their_own(tmp_path, suffix):
    good = write_textured_video(tmp_path / "good.mkv", 40, codec="libsvtav1", options={"preset": "8"})
    with av.open(str(good)) as source:
        split = av.bitstream.BitStreamFilterContext("av1_frame_split", source.streams.video[0])
        path = write_packets(
            tmp_path / f"video{suffix}",
            good,
            lambda packets: [new for packet in packets for new in split.filter(packet)],
        )
    with av.open(str(path)) as container:
        assert sum(packet.size > 0 for packet in container.demux(video=0)) > 40
    assert_ok(path, 40)
    assert_damage_is_seen(path)


@pytest.mark.parametrize("suffix", [".mkv", ".mp4"])
def test_frames_closer_than_a_tick_of_the_average_rate(tmp_path, suffix):
    times = [index // 2 * 67 + index % 2 * 3 for index in range(40)]  # milliseconds: pairs 3 ms apart
    path = write_video(tmp_path / f"video{suffix}", textured_frames(40), fps=1000, pts=times)
    assert_ok(path, 40)
    assert_damage_is_seen(path)


@pytest.mark.parametrize("suffix", [".ts", ".mkv"])
def test_field_pictures(tmp_path, suffix):
    path = write_field_pictures(tmp_path / f"video{suffix}", 20)
    with av.open(str(path)) as container:
        assert sum(packet.size > 0 for packet in container.demux(video=0)) == 40
    assert_ok(path, 20)


def sound_payloads(path: Path) -> list[tuple[int, int]]:
    """Where the sound's packets lie in the file, as (start, size)."""
    data = path.read_bytes()
    with av.open(str(path)) as container:
        packets = [bytes(packet) for packet in container.demux(audio=0) if packet.size > 16]
    return [(data.index(packet), len(packet)) for packet in packets if packet in data]


def complaints_of_container(path: Path) -> list[str]:
    av.logging.set_level(av.logging.ERROR)
    with av.logging.Capture() as log, av.open(str(path)) as container:
        for _ in container.demux():
            pass
        return [message for _, source, message in log if source == container.format.name]


@pytest.mark.parametrize("codec", ["wmv2", "libx264"])
def test_damage_to_the_sound_alone_of_an_asf_file(tmp_path, codec):
    path = write_with_audio(tmp_path / "video.asf", codec=codec, sound_codec="wmav2")
    data = path.read_bytes()
    assert_ok(path, 40)
    start, _ = sound_payloads(path)[5]
    assert data[start - 17] & 0x7F == 2, "the payload's header begins with the number of the stream"
    path.write_bytes(replace_range(data, start - 17, b"\x05"))
    assert any("unknown stream" in message for message in complaints_of_container(path))
    assert_ok(path, 40)
    assert_damage_is_seen(path)


def test_a_complaint_about_the_container_counts_where_frames_are_lost(tmp_path):
    path = write_with_audio(tmp_path / "video.asf", codec="wmv2", sound_codec="wmav2")
    data = path.read_bytes()
    with av.open(str(path)) as container:
        packets = [bytes(packet) for packet in container.demux(video=0) if packet.size]
    lost = next(packet for packet in packets[15:] if packet in data)
    start = data.index(lost) - 17
    assert data[start] & 0x7F == 1
    path.write_bytes(replace_range(data, start, b"\x05"))
    assert [verdict.status for verdict in verdicts(path)] == ["bad", "bad"]


@pytest.mark.parametrize("suffix, sound_codec", [(".mkv", "aac"), (".flv", "aac"), (".ts", "mp2"), (".avi", "mp2")])
def test_damage_to_the_sound_alone_elsewhere(tmp_path, suffix, sound_codec):
    path = write_with_audio(tmp_path / f"video{suffix}", sound_codec=sound_codec)
    data, noise = path.read_bytes(), np.random.default_rng(0)
    for start, size in sound_payloads(path):
        data = replace_range(data, start, noise.bytes(size))
    path.write_bytes(data)
    assert_ok(path, 40)


def cut_within_its_index(data: bytes) -> bytes:
    return data[:-1]


def with_a_tag_too_long(data: bytes) -> bytes:
    """The first tag is said to be 16 bytes longer than the list that it is in."""
    at = data.index(b"\x67\xc8") + 2
    return replace_range(data, at, bytes([data[at] + 16]))


@pytest.mark.parametrize("change", [cut_within_its_index, with_a_tag_too_long])
def test_damage_to_the_index_or_the_tags_alone(tmp_path, change):
    path = write_textured_video(tmp_path / "video.mkv")
    path.write_bytes(change(path.read_bytes()))
    assert_ok(path, 40)
    assert [verdict.reason for verdict in verdicts(path)] == ["", ""]


class LateStream:
    """Stands for a container in which a stream began after it was opened; PyAV itself raises only at times."""

    def demux(self, streams):
        yield from streams
        raise IndexError("list index out of range")


def test_a_stream_that_begins_late_is_no_error():
    assert list(demux_packets(LateStream(), [1, 2])) == [1, 2]


@pytest.mark.parametrize("codec", ["libsvtav1", "libvpx-vp9"])
def test_a_remux_needs_no_encoder(tmp_path, codec):
    good = write_textured_video(tmp_path / "good.mkv", codec=codec, options={})
    remux(str(good), str(tmp_path / "remuxed.mkv"))
    assert_ok(tmp_path / "remuxed.mkv", 40)


def test_tags_in_another_encoding_are_no_error(tmp_path):
    with av.open(str(tmp_path / "good.avi"), "w") as container:
        container.metadata["title"] = "Uebung"
        stream = container.add_stream("mpeg4", rate=FPS)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        for array in textured_frames(5):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(array, format="rgb24")))
        container.mux(stream.encode())
    path = tmp_path / "video.avi"
    path.write_bytes((tmp_path / "good.avi").read_bytes().replace(b"Uebung", b"\xdcbungX"))
    if int(av.__version__.split(".")[0]) < 19:  # which passes over them by itself
        with pytest.raises(UnicodeDecodeError):
            av.open(str(path))
    assert_ok(path, 5)
