import errno
import os
import shutil
import struct
from fractions import Fraction
from types import SimpleNamespace

import av
import numpy as np
import pytest
import torch
from torch.nn import functional as F

from helpers.damaged_videos import find_box, write_textured_video
from helpers.numbered_videos import (
    decode_all,
    frame_number,
    numbered_frame,
    set_display_matrix,
    write_exif_video,
    write_numbered_video,
    write_size_changes,
    write_video,
)
from references.dataset_tools import probing
from references.dataset_tools.probing import ProbeOptions, probe
from videos import decoding
from videos.decoding import VideoError, iter_rgb, probe_video, read_frames
from videos.frame_selection import official_clip
from videos.resizing import resize_crop

pytestmark = pytest.mark.evaluator

B_FRAMES = {"bf": "3", "g": "24"}
VARIABLE = [0, 1, 2, 5, 6, 7, 15, 16, 17, 30, 31, 33, 40, 41, 42, 43, 60, 61, 62, 90]


def remux(source, target, start=0, options=None):
    """Copies the packets, later by `start` time units."""
    with av.open(str(source)) as reader, av.open(str(target), "w", options=options or {}) as writer:
        stream = reader.streams.video[0]
        copy = writer.add_stream_from_template(stream)
        for packet in reader.demux(stream):
            if packet.dts is not None:
                packet.pts, packet.dts = packet.pts + start, packet.dts + start
                packet.stream = copy
                writer.mux(packet)
    return target


def make(tmp_path, kind):
    if kind == "b_frames":
        return write_numbered_video(tmp_path / "v.mp4", 60, options=B_FRAMES)
    if kind == "variable_rate":
        frames = [numbered_frame(i) for i in range(len(VARIABLE))]
        return write_video(tmp_path / "v.mp4", frames, pts=VARIABLE, options=B_FRAMES)
    if kind == "edit_list_shift":  # the muxer writes an edit list for a video that starts late
        return remux(write_numbered_video(tmp_path / "v0.mp4", 60, options=B_FRAMES), tmp_path / "v.mp4", start=15360)
    if kind == "edit_list_cut":  # and for one whose first frames lie before time zero: they are not shown
        plain = write_numbered_video(tmp_path / "v0.mp4", 60, options={"bf": "0", "g": "60"})
        return remux(plain, tmp_path / "v.mp4", start=-512 * 10)
    if kind == "fragmented":
        flags = {"movflags": "frag_keyframe+empty_moov"}
        return write_numbered_video(tmp_path / "v.mp4", 60, options=B_FRAMES, container_options=flags)
    suffix, codec = {
        "vp9": (".webm", "libvpx-vp9"),
        "mpeg4_avi": (".avi", "mpeg4"),
        "hevc": (".mp4", "libx265"),
        "transport_stream": (".ts", "libx264"),
        "transport_stream_named_mp4": (".ts", "libx264"),
        "matroska": (".mkv", "libx264"),
        "mjpeg": (".avi", "mjpeg"),
    }[kind]
    options = {"x265-params": "log-level=none"} if codec == "libx265" else {}
    pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
    path = write_numbered_video(tmp_path / f"v{suffix}", 60, codec=codec, options=options, pix_fmt=pix_fmt)
    return path.rename(tmp_path / "named.mp4") if kind.endswith("named_mp4") else path


KINDS = [
    *("b_frames", "variable_rate", "edit_list_shift", "edit_list_cut", "fragmented", "vp9", "mpeg4_avi", "hevc"),
    *("transport_stream", "transport_stream_named_mp4", "matroska", "mjpeg"),
]

COUNTED_BY_PACKETS = {"b_frames", "variable_rate", "edit_list_shift", "fragmented", "hevc", "matroska"}


@pytest.mark.parametrize("kind", KINDS)
def test_indices_mean_decoded_frames_in_display_order(tmp_path, monkeypatch, kind):
    path = make(tmp_path, kind)
    shown = decode_all(path)
    real, counted = decoding.iter_frames, []
    monkeypatch.setattr(decoding, "iter_frames", lambda path: counted.append(path) or real(path))
    info = probe_video(path)
    assert len(counted) == (kind not in COUNTED_BY_PACKETS)  # else by decoding all
    assert info.frames == len(shown)
    assert (info.width, info.height, info.rotation) == (96, 64, 0)
    numbers = [frame_number(frame) for frame in shown]
    assert numbers == sorted(set(numbers))
    wanted = [0, 3, 3, 7, len(shown) // 2, len(shown) - 1]
    frames = read_frames(path, wanted)
    assert frames.dtype == torch.uint8 and frames.shape == (len(wanted), 64, 96, 3)
    assert [frame_number(frame.numpy()) for frame in frames] == [numbers[i] for i in wanted]
    assert all(np.array_equal(frame.numpy(), shown[i]) for frame, i in zip(frames, wanted, strict=True))


def count_decoded(monkeypatch):
    """A list that takes every frame that is decoded from now on."""
    decoded, add = [], decoding._PacketScan.add
    monkeypatch.setattr(
        decoding._PacketScan, "add", lambda self, packet, new: decoded.extend(new) or add(self, packet, new)
    )
    return decoded


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".ts"])
def test_frames_that_nobody_asks_for_are_left_out_where_no_other_needs_them(tmp_path, monkeypatch, suffix):
    """See `test_leaving_out.py` for other structures."""
    path = write_textured_video(tmp_path / f"v{suffix}", 50, options={"x264-params": "bframes=3:b-adapt=0:keyint=24"})
    shown, decoded = decode_all(path), count_decoded(monkeypatch)
    for wanted in ([0, 49], [5, 49], [49, 0, 13, 13]):
        decoded.clear()
        frames = read_frames(path, wanted)
        assert all(np.array_equal(frame.numpy(), shown[i]) for frame, i in zip(frames, wanted, strict=True)), wanted
        assert (len(decoded) < 30) == (suffix != ".ts"), wanted


@pytest.mark.parametrize("too_large", [False, True])
def test_none_is_left_out_of_a_file_too_large_to_hold(tmp_path, monkeypatch, too_large):
    path = write_textured_video(tmp_path / "v.mp4", 30, options={"x264-params": "bframes=3:b-adapt=0:keyint=24"})
    monkeypatch.setattr(decoding, "MAX_PACKETS_BYTES", path.stat().st_size - too_large)
    shown, decoded = decode_all(path), count_decoded(monkeypatch)
    assert np.array_equal(read_frames(path, [29])[0].numpy(), shown[29])
    assert (len(decoded) >= 29) == too_large


def test_nothing_is_decoded_after_the_last_frame_that_is_wanted(tmp_path, monkeypatch):
    path = write_textured_video(tmp_path / "v.mp4", 10, options={"x264-params": "keyint=1"})
    decoded = count_decoded(monkeypatch)
    with decoding.open_whole(path) as video:
        assert [index for index, _ in video.frames({4})] == [4]
    assert len(decoded) == 5


def test_none_is_left_out_of_interlaced_video(tmp_path, monkeypatch):
    """A packet may be one field of a frame."""
    options = {"x264-params": "bframes=3:b-adapt=0:interlaced=1:tff=1"}
    path = write_textured_video(tmp_path / "v.mp4", 30, options=options)
    decoded = count_decoded(monkeypatch)
    with decoding.open_whole(path) as video:
        assert [index for index, _ in video.frames({5, 29})] == [5, 29]
    assert len(decoded) >= 30


def test_a_pass_over_some_frames_tells_what_a_probe_does(tmp_path):
    path = write_numbered_video(tmp_path / "v.mp4", 30, options=B_FRAMES)
    for wanted in ({0}, {3, 17}, {29}, set(range(30)), None):
        with decoding.open_whole(path) as video:
            assert [index for index, _ in video.frames(wanted)] == sorted(range(30) if wanted is None else wanted)
            assert video.info() == probe_video(path) and video.count == 30
    assert [(index, frame_number(frame)) for index, frame in iter_rgb(path)] == [(i, i) for i in range(30)]


def test_the_duration_of_a_recording_without_one_is_that_of_all_its_packets(tmp_path):
    recorded = {"live": "1"}
    path = write_numbered_video(tmp_path / "v.mkv", 12, options=B_FRAMES, container_options=recorded)
    with av.open(str(path)) as container:
        assert not container.duration and not container.streams.video[0].duration
    assert probe_video(path).seconds == pytest.approx(12 / 30, abs=0.002)  # stored in milliseconds
    for number in range(12):
        with decoding.open_whole(path) as video:
            assert [index for index, _ in video.frames({number})] == [number]
            assert video.info() == probe_video(path)


def test_the_header_promises_how_many_frames_there_are(tmp_path, monkeypatch):
    streamed = write_numbered_video(tmp_path / "v.ts", 20, fps=25)
    with decoding.open_whole(streamed) as video:  # which has no header: it is probed
        assert video.promised_timing() == (20, 25.0)
    path = write_numbered_video(tmp_path / "v.mp4", 20, fps=25)
    monkeypatch.setattr(decoding, "probe_video", None)
    with decoding.open_whole(path) as video:
        assert video.promised_timing() == (20, 25.0)


def packet(pts, **changes):
    """What the decoder looks at in a packet, one time unit long."""
    usual = {"dts": pts, "duration": 1, "size": 9, "is_keyframe": pts == 0, "is_discard": False, "is_corrupt": False}
    return SimpleNamespace(pts=pts, **{**usual, **changes})


FLUSH = packet(None, size=0)


@pytest.mark.parametrize(
    "packets, order",
    [
        ([packet(0), packet(4), packet(2), FLUSH], [0, 2, 4]),
        ([FLUSH], None),
        ([packet(None, is_keyframe=True), FLUSH], None),
        ([packet(0), packet(None), FLUSH], None),
        ([packet(0), packet(2), packet(2), FLUSH], None),
        ([packet(0), packet(2)], None),  # no flush
        ([packet(0), packet(2, size=0), FLUSH], None),  # without data
        ([packet(0, is_keyframe=False), packet(2), FLUSH], None),
        ([packet(0), packet(-2), FLUSH], None),  # shown before the key frame
        ([packet(0), packet(2, is_discard=True), FLUSH], None),
        ([packet(0), packet(2, is_corrupt=True), FLUSH], None),
    ],
)
def test_the_order_of_frames_is_known_where_each_packet_surely_is_one(packets, order):
    assert decoding._display_order(packets) == order


MISLEADING = {  # what a video's packets may say of the times of its frames
    "first": lambda order: [order[1], order[0], *order[2:]],
    "within": lambda order: [*order[:17], order[17] + 1, *order[18:]],
    "swapped": lambda order: [*order[:3], order[17], *order[4:17], order[3], *order[18:]],
    "last": lambda order: [*order[:-1], order[-1] + 1],
}


@pytest.mark.parametrize("says", MISLEADING)
def test_a_video_that_is_not_as_its_packets_say_is_decoded_whole(tmp_path, monkeypatch, says):
    path = write_numbered_video(tmp_path / "v.mp4", 30, options=B_FRAMES)
    real = decoding._display_order
    monkeypatch.setattr(decoding, "_display_order", lambda packets: MISLEADING[says](real(packets)))
    assert [frame_number(frame.numpy()) for frame in read_frames(path, [3, 17, 29])] == [3, 17, 29]
    with decoding.open_whole(path) as video:
        shown = {index: frame_number(frame.to_ndarray(format="rgb24")) for index, frame in video.frames({0, 3, 17, 29})}
        assert shown == {0: 0, 3: 3, 17: 17, 29: 29} and video.info().frames == 30


def test_damage_in_a_frame_that_is_left_out_is_the_checks_matter(tmp_path):
    path = write_textured_video(tmp_path / "v.mp4", 30, options={"x264-params": "bframes=2:b-adapt=0:b-pyramid=none"})
    shown = decode_all(path)
    with av.open(str(path)) as container:
        packets = sorted((p for p in container.demux(video=0) if p.size), key=lambda packet: packet.pts)
        is_left_out = [not (p.is_keyframe or bytes(p)[4] & 0x60) for p in packets]  # by H.264's nal_ref_idc
        packet = packets[is_left_out.index(True)]
        data, place = bytes(packet), packet.pos
    content = bytearray(path.read_bytes())
    content[place + 5 : place + len(data)] = bytes(255 - byte for byte in data[5:])
    path.write_bytes(content)
    others = [i for i in range(30) if not is_left_out[i]]
    assert 5 < len(others) < 15
    assert all(np.array_equal(read_frames(path, [i])[0].numpy(), shown[i]) for i in others)
    assert probe(str(path), ProbeOptions()).status == "bad"


def test_an_edit_list_hides_frames(tmp_path):
    assert frame_number(decode_all(make(tmp_path, "edit_list_cut"))[0]) > 0  # else the case above shows nothing


def test_indices_in_any_order_with_repeats(tmp_path):
    path = write_numbered_video(tmp_path / "v.mp4", 20)
    frames = read_frames(path, torch.tensor([7, 2, 2, 19, 0]))
    assert [frame_number(frame.numpy()) for frame in frames] == [7, 2, 2, 19, 0]


def test_the_official_clip_has_the_official_pixels(tmp_path):
    generator = np.random.default_rng(0)
    noise = generator.integers(0, 256, (45, 12, 16, 3), dtype=np.uint8).repeat(12, axis=1).repeat(12, axis=2)
    path = write_video(tmp_path / "v.mp4", noise, fps=30)
    info = probe_video(path)
    indices = official_clip(info.frames, info.fps, 4, 16)
    frames = read_frames(path, indices)
    found = np.stack([resize_crop(frame, (128, 171)) for frame in frames.numpy()])[:, 8:120, 30:142] / 255
    everything = torch.from_numpy(np.stack(decode_all(path)))[indices]  # T H W C
    pixels = F.interpolate(everything.permute(0, 3, 1, 2) / 255, size=(128, 171), mode="bilinear", align_corners=False)
    expected = pixels[:, :, 8:120, 30:142].permute(0, 2, 3, 1).numpy()
    assert np.abs(found - expected).max() < 4e-6  # torch's own kernels differ by 3e-6, see test_resizing


@pytest.mark.parametrize(
    "matrix, rotation, mirrored",
    [
        ((1, 0, 0, 1), 0, False),
        ((0, -1, 1, 0), 90, False),
        ((0, 1, -1, 0), -90, False),
        ((-1, 0, 0, -1), 180, False),
        ((-1, 0, 0, 1), 0, True),  # left and right swapped, as selfie cameras write
        ((1, 0, 0, -1), 180, True),
        ((0, 1, 1, 0), 90, True),
        ((0, -1, -1, 0), -90, True),
    ],
)
def test_frames_are_turned_and_mirrored_by_the_display_matrix(tmp_path, matrix, rotation, mirrored):
    path = write_numbered_video(tmp_path / "v.mp4", 8)
    stored = decode_all(path)[5]
    set_display_matrix(path, *matrix)
    info = probe_video(path)
    assert (info.rotation, info.mirrored, info.is_upright) == (rotation, mirrored, matrix == (1, 0, 0, 1))
    # np.rot90 turns counter-clockwise.
    upright = np.rot90(stored[:, ::-1] if mirrored else stored, k=rotation // 90)
    assert (info.height, info.width) == upright.shape[:2]
    assert np.array_equal(read_frames(path, [5])[0].numpy(), upright)


@pytest.mark.parametrize("orientation, rotation", [(1, 0), (3, 180), (6, -90), (8, 90)])
def test_pictures_with_exif_are_turned(tmp_path, orientation, rotation):
    """PyAV 17 and 18 refuse to tell the side data of frames that carry EXIF, but for the angle."""
    path = write_exif_video(tmp_path / "v.avi", orientation)
    assert (probe_video(path).rotation, probe_video(path).mirrored) == (rotation, False)
    upright = np.rot90(read_frames(path, [2])[0].numpy(), k=-rotation // 90)
    assert frame_number(upright) == 2


def test_frames_of_several_sizes_are_read_and_stacked_where_they_are_alike(tmp_path):
    path = write_size_changes(tmp_path / "v.ts")
    with av.open(str(path)) as container:
        assert any(packet.is_corrupt for packet in container.demux(video=0))  # so does FFmpeg call a join
    assert probe_video(path).frames == 36
    frames = dict(iter_rgb(path, [0, 13, 35]))
    assert {number: frame.shape for number, frame in frames.items()} == {
        0: (64, 96, 3),
        13: (32, 48, 3),
        35: (88, 120, 3),
    }
    assert all(frame_number(frame) == number for number, frame in frames.items())
    assert read_frames(path, [12, 23]).shape == (2, 32, 48, 3)
    with pytest.raises(VideoError, match="size changes between the frames that were asked for"):
        read_frames(path, [0, 13])


@pytest.mark.parametrize("codec", ["libx264", "mjpeg", "mpeg4"])
def test_an_avi_file_of_variable_rate_is_whole(tmp_path, codec):
    """Its header counts the empty chunks too, which repeat a frame."""
    pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
    frames = [numbered_frame(i) for i in range(len(VARIABLE))]
    path = write_video(tmp_path / "v.avi", frames, pts=VARIABLE, codec=codec, pix_fmt=pix_fmt)
    with av.open(str(path)) as container:
        assert container.streams.video[0].frames > len(VARIABLE)  # else this shows nothing
    assert probe_video(path).frames == len(VARIABLE)


def test_an_avi_file_may_end_with_seconds_of_empty_chunks(tmp_path):
    """`check_videos.py` finds it whole, so it is read; without those chunks it is truncated for both."""
    data = write_numbered_video(tmp_path / "good.avi", 120, codec="mpeg4", options={"g": "1"}).read_bytes()
    index, kept = data.rindex(b"idx1"), data.index(b"movi") + 4
    for _ in range(50):  # whole chunks, of even length
        kept += 8 + (struct.unpack_from("<I", data, kept + 4)[0] + 1) // 2 * 2
    path = tmp_path / "v.avi"
    path.write_bytes(data[:kept] + (b"00dc" + bytes(4)) * 70 + data[index:])
    assert probe_video(path).frames == 50
    assert frame_number(read_frames(path, [49])[0].numpy()) == 49
    assert probe(str(path), ProbeOptions()).status == "ok"
    path.write_bytes(data[:kept])
    with pytest.raises(VideoError, match="truncated"):
        probe_video(path)
    assert probe(str(path), ProbeOptions()).status == "bad"


def chunk(name, length, stored=None):
    return name + struct.pack("<I", length) + bytes(length + length % 2 if stored is None else stored)


def test_empty_chunks_of_an_avi_file_are_counted_to_its_end(tmp_path):
    chunks = [
        *(chunk(b"00dc", 0), chunk(b"00dc", 5), chunk(b"01wb", 0), chunk(b"00dc", 0), chunk(b"01wb", 4)),
        *(chunk(b"00db", 0), chunk(b"00dc", 8), chunk(b"00dc", 0)),
    ]
    path = tmp_path / "v.avi"
    path.write_bytes(chunk(b"RIFF", 999, 0) + b"AVI " + chunk(b"LIST", 99, 0) + b"movi" + b"".join(chunks))
    assert [decoding._count_empty_chunks(path, stream) for stream in (0, 1, 2)] == [4, 1, 0]
    with open(path, "ab") as file:
        file.write(chunk(b"00dc", 0)[:7])  # cut off
    assert decoding._count_empty_chunks(path, 0) == 4


def scan_of(packets, name, path="v", frames=0):
    """A scan of these packets, of which each gives a frame, and the container that they are of."""
    container = SimpleNamespace(format=SimpleNamespace(name=name), duration=None)
    usual = {"duration": None, "time_base": Fraction(1, 10), "guessed_rate": None, "average_rate": None}
    stream = SimpleNamespace(container=container, frames=frames, index=0, **usual)
    scan = decoding._PacketScan(path, stream)
    for each in packets:
        scan.add(each, [SimpleNamespace(interlaced_frame=False, pts=each.pts)])
    return scan, container, stream


@pytest.mark.parametrize("last, empty, found", [(9, 2, 12), (9, 1, 11), (11, 0, 11), (12, 0, 12)])
def test_an_avi_file_is_whole_by_its_chunks_or_by_its_time(tmp_path, last, empty, found):
    """Ten packets, the last at time `last` and without a duration, of twelve that the header promises."""
    path = tmp_path / "v.avi"
    path.write_bytes(chunk(b"RIFF", 999, 0) + b"AVI " + chunk(b"00dc", 0) * empty)
    packets = [*(packet(number) for number in range(9)), packet(last, duration=None)]
    scan, _, _ = scan_of(packets, "avi", path, frames=12)
    if found == 12:
        scan.finish()
    else:
        with pytest.raises(VideoError, match="holds data for 11 of 12 frames that its header promises: truncated"):
            scan.finish()


@pytest.mark.parametrize(
    "of_container, of_stream, packets, seconds",
    [
        ({"duration": 7_000_000}, {"duration": 25}, [0, 1], 2.5),  # the stream's own, in tenths of a second
        ({"duration": 7_000_000}, {}, [0, 1], 7.0),  # in microseconds
        ({}, {}, [3, 9, 7], 0.7),  # from 0.3 to the end of the packet at 0.9
        ({}, {"guessed_rate": 4}, [None, None, None], 0.75),
    ],
)
def test_the_duration_is_the_best_that_is_known(of_container, of_stream, packets, seconds):
    scan, container, stream = scan_of([packet(pts, is_keyframe=True) for pts in packets], "matroska")
    vars(container).update(of_container)
    vars(stream).update(of_stream)
    assert decoding._duration_seconds(container, stream, scan) == pytest.approx(seconds)


def test_packets_that_take_no_time_tell_no_duration():
    scan, container, stream = scan_of([packet(0, duration=0)], "matroska")
    vars(stream).update(guessed_rate=4)
    assert decoding._duration_seconds(container, stream, scan) == 0.25


def test_without_a_duration_or_a_rate_there_is_none():
    scan, container, stream = scan_of([packet(None)], "matroska", "odd.mkv")
    with pytest.raises(VideoError, match="odd.mkv: tells neither a frame rate nor a duration"):
        decoding._duration_seconds(container, stream, scan)


@pytest.mark.parametrize(
    "rate, fps", [(None, 12 / 2.5), (0, 12 / 2.5), (Fraction(1, 2), 0.5), (Fraction(30000, 1001), 30000 / 1001)]
)
def test_without_a_rate_it_is_frames_in_the_duration(tmp_path, rate, fps):
    path = write_numbered_video(tmp_path / "v.mp4", 2)
    with av.open(str(path)) as container:
        scan, container_of_none, stream = scan_of([packet(0)], "matroska")
        scan.first = next(container.decode(video=0))
        vars(stream).update(average_rate=rate, duration=25, codec_context=SimpleNamespace(name="h264"))
        info = decoding._video_info(container_of_none, stream, scan, 12)
    assert info == (12, pytest.approx(fps), 2.5, 96, 64, 0, "h264", False)
    assert decoding.VideoInfo(*info[:7]) == info  # not mirrored unless told


def test_an_avi_file_without_its_second_half_is_truncated(tmp_path):
    path = write_numbered_video(tmp_path / "v.avi", 120, codec="mpeg4", options={"g": "1"})
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(VideoError, match="truncated"):
        probe_video(path)


@pytest.mark.parametrize("options", [{"bf": "0"}, B_FRAMES])
def test_what_an_edit_list_cuts_off_at_the_end_is_not_missing(tmp_path, options):
    path = write_numbered_video(tmp_path / "v.mp4", 120, options={"g": "12", **options})
    data = bytearray(path.read_bytes())
    start, _ = find_box(data, "moov", "trak", "edts", "elst")
    (milliseconds,) = struct.unpack_from(">I", data, start + 8)
    struct.pack_into(">I", data, start + 8, milliseconds // 3)
    path.write_bytes(data)
    shown = decode_all(path)
    assert len(shown) < 80
    assert decoding._count_all_packets(path, 0) == 120
    assert probe_video(path).frames == len(shown)
    assert frame_number(read_frames(path, [len(shown) - 1])[0].numpy()) == len(shown) - 1


@pytest.mark.parametrize("container", [".mkv", ".mp4"])
def test_frames_that_a_cut_stream_does_not_give_are_not_counted(tmp_path, container):
    """Cut where the picture begins to be sent anew, in parts: the decoder shows nothing until all of it was sent."""
    options = {"x264-params": "intra-refresh=1:keyint=20:bframes=0:ref=1"}
    whole = write_textured_video(tmp_path / "whole.mkv", 90, options=options)
    path = tmp_path / f"v{container}"
    with av.open(str(whole)) as reader, av.open(str(path), "w") as writer:
        copy = writer.add_stream_from_template(reader.streams.video[0])
        packets = [packet for packet in reader.demux(video=0) if packet.size]
        for number, packet in enumerate(packets[20:]):
            packet.stream, packet.is_keyframe = copy, number == 0
            writer.mux(packet)
    shown = decode_all(path)
    assert 0 < len(shown) < 70
    assert probe_video(path).frames == len(shown)


def test_what_comes_before_the_first_key_frame_is_not_counted(tmp_path):
    whole = write_textured_video(tmp_path / "whole.mkv", 40, options={"x264-params": "bframes=0:keyint=10:scenecut=0"})
    for first in (7, 9):  # three packets before a key frame, and one
        path = tmp_path / f"{first}.mkv"
        with av.open(str(whole)) as reader, av.open(str(path), "w") as writer:
            copy = writer.add_stream_from_template(reader.streams.video[0])
            for packet in [packet for packet in reader.demux(video=0) if packet.size][first:]:
                packet.stream = copy
                writer.mux(packet)
        assert len(decode_all(path)) == probe_video(path).frames == 30


@pytest.mark.parametrize("codec", ["libx264", "libx265"])
def test_frames_that_refer_to_what_was_cut_off_are_not_counted(tmp_path, codec):
    """They come after the key frame in the file, and are shown before it."""
    open_groups = "open-gop=1:bframes=3:b-adapt=0:keyint=12:min-keyint=12:scenecut=0:log-level=0"
    options = {f"{codec.removeprefix('lib')}-params": open_groups}
    whole = write_textured_video(tmp_path / "whole.mkv", 40, codec=codec, options=options)
    path = tmp_path / "v.mkv"
    with av.open(str(whole)) as reader, av.open(str(path), "w") as writer:
        packets = [packet for packet in reader.demux(video=0) if packet.size]
        second = [number for number, packet in enumerate(packets) if packet.is_keyframe][1]
        assert packets[second + 1].pts < packets[second].pts
        copy = writer.add_stream_from_template(reader.streams.video[0])
        for packet in packets[second:]:
            packet.stream = copy
            writer.mux(packet)
    shown = decode_all(path)
    assert probe_video(path).frames == len(shown)
    assert np.array_equal(read_frames(path, [len(shown) - 1])[0].numpy(), shown[-1])


def test_rates_and_durations(tmp_path):
    info = probe_video(write_numbered_video(tmp_path / "v.mp4", 50, fps=25))
    assert info.fps == 25 and info.seconds == pytest.approx(2.0, abs=0.05) and info.codec == "h264"
    with av.open(str(make(tmp_path, "variable_rate"))) as container:
        average = float(container.streams.video[0].average_rate)
    assert probe_video(tmp_path / "v.mp4").fps == average


def damage(path, kind):
    data = path.read_bytes()
    if kind == "empty":
        path.write_bytes(b"")
    elif kind == "text":
        path.write_text("version https://git-lfs.github.com/spec/v1\n")
    elif kind == "header gone":
        path.write_bytes(data[: len(data) // 2])
    elif kind == "absent":
        path.unlink()
    elif kind == "folder":
        path.unlink()
        path.mkdir()
    elif kind == "dangling link":
        path.unlink()
        path.symlink_to("nowhere.mp4")
    elif kind == "pipe":
        path.unlink()
        os.mkfifo(path)


@pytest.mark.parametrize("kind", ["empty", "text", "header gone", "absent", "folder", "dangling link", "pipe"])
def test_what_cannot_be_read_is_named(tmp_path, kind):
    path = write_numbered_video(tmp_path / "some.mp4", 30)
    damage(path, kind)
    for read in (probe_video, lambda path: read_frames(path, [0])):
        with pytest.raises(VideoError, match=r"some\.mp4: \w+") as raised:
            read(path)
        assert raised.value.is_lasting == (kind in ("empty", "text", "header gone"))


@pytest.mark.parametrize(
    "error, is_lasting",
    [
        (PermissionError(errno.EACCES, "Permission denied"), False),
        (OSError(errno.EIO, "Input/output error"), False),
        (OSError(errno.EOPNOTSUPP, "Operation not supported"), True),  # FFmpeg's word for a picture it cannot convert
        (MemoryError(), False),
        (ValueError("a picture of no pixels"), True),
        (av.InvalidDataError(1094995529, "Invalid data found when processing input"), True),
        (av.DecoderNotFoundError(1128613112, "Decoder not found"), False),  # by this FFmpeg
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_may_pass_while_the_file_stays_is_told_from_what_its_bytes_cause(tmp_path, monkeypatch, error, is_lasting):
    path = write_numbered_video(tmp_path / "v.mp4", 2)

    def fail(*args, **options):
        raise error

    monkeypatch.setattr(av, "open", fail)
    with pytest.raises(VideoError) as raised:
        probe_video(path)
    assert raised.value.is_lasting == is_lasting


@pytest.mark.parametrize("lines", [400, 4000])
def test_text_is_no_video(tmp_path, lines):
    path = tmp_path / "seq.txt"
    path.write_text("".join(f"{number}\n" for number in range(lines)))
    with pytest.raises(VideoError, match="is text"):
        probe_video(path)


def test_a_list_of_videos_is_none(tmp_path):
    assert decoding.LISTS_OF_FILES == probing.LISTS_OF_FILES
    write_numbered_video(tmp_path / "other.mp4", 4)
    path = tmp_path / "list.mp4"
    path.write_text("ffconcat version 1.0\nfile other.mp4\n")
    for read in (probe_video, lambda path: read_frames(path, [0])):
        with pytest.raises(VideoError, match="is a list of other files"):
            read(path)


def test_a_picture_is_no_video(tmp_path):
    path = tmp_path / "picture.mp4"
    with av.open(str(path), "w", format="image2", options={"update": "1"}) as container:
        stream = container.add_stream("png", rate=1)
        stream.width, stream.height, stream.pix_fmt = 32, 32, "rgb24"
        container.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), format="rgb24")))
    with pytest.raises(VideoError, match="is a picture"):
        probe_video(path)


@pytest.mark.parametrize("name", ["a\0b.mp4", "\ud800.mp4"])
def test_a_name_that_no_file_can_have_is_a_video_error(name):
    for read in (probe_video, lambda path: read_frames(path, [0])):
        with pytest.raises(VideoError, match="not a file's name"):
            read(name)


def test_a_truncated_video_with_its_header_in_front_is_found_by_the_probe(tmp_path):
    path = write_numbered_video(tmp_path / "v.mp4", 200, container_options={"movflags": "faststart"})
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * 0.7)])
    with pytest.raises(VideoError, match="truncated"):
        probe_video(path)


def test_audio_alone_is_no_video(tmp_path):
    path = tmp_path / "a.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16000)
        stream.layout = "mono"
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.rate, frame.pts = 16000, 0
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    with pytest.raises(VideoError, match="no video stream"):
        probe_video(path)


def test_a_frame_beyond_the_end_is_an_error(tmp_path):
    path = write_numbered_video(tmp_path / "v.mp4", 10)
    with pytest.raises(VideoError, match="decodes 10 frames only, frame 10"):
        read_frames(path, [0, 10])
    for indices, named in ([], r"\[\]"), ([3, -1], r"\[-1\]"):
        with pytest.raises(ValueError, match=f"indices must .*, not {named}$"):
            read_frames(path, indices)


@pytest.mark.parametrize("name", ["-begins with dash.mp4", "a:b.mp4", "ünïcode 体操.mp4", "100%d.mp4"])
def test_odd_names(tmp_path, monkeypatch, name):
    shutil.move(write_numbered_video(tmp_path / "v.mp4", 5), tmp_path / name)
    monkeypatch.chdir(tmp_path)
    assert probe_video(name).frames == 5
    assert frame_number(read_frames(name, [4])[0].numpy()) == 4


def test_containers_are_closed(tmp_path):
    if not os.path.isdir("/proc/self/fd"):
        pytest.skip("needs /proc")
    path = write_numbered_video(tmp_path / "v.mp4", 30)
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        read_frames(path, [0, 3])
        probe_video(path)
    assert len(os.listdir("/proc/self/fd")) <= before + 1


def test_video_error_survives_pickling():
    import pickle

    error = pickle.loads(pickle.dumps(VideoError("a.mp4", "is bad")))
    assert (error.path, error.reason, error.is_lasting, str(error)) == ("a.mp4", "is bad", True, "a.mp4: is bad")
    assert not pickle.loads(pickle.dumps(VideoError("a.mp4", "is busy", is_lasting=False))).is_lasting
