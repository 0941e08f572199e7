"""Reading a video by PyAV and by the program."""

import av
import numpy as np
import pytest

from helpers.damaged_videos import DAMAGES, replace_range, write_textured_video
from references.dataset_tools import reading
from references.dataset_tools.probing import ProbeOptions, Verdict, probe

PROBERS = ["av", "ffmpeg"]
pytestmark = pytest.mark.usefixtures("ffmpeg_on_path")


@pytest.mark.parametrize("prober", PROBERS)
def test_reading_reports_progress(good, prober, monkeypatch, probe_bytes):
    reports = []
    monkeypatch.setattr(reading, "report_progress", lambda: reports.append(1))
    assert probe_bytes(good, ProbeOptions(prober)).status == "ok"
    assert len(reports) >= 40


def test_a_file_that_gives_more_than_it_holds_makes_no_progress(tmp_path, good, monkeypatch):
    """As one whose tables name the same bytes over and over."""
    path = tmp_path / "video.mp4"
    path.write_bytes(good)
    reports = []
    monkeypatch.setattr(reading, "report_progress", lambda: reports.append(1))
    with av.open(str(path)) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
        monkeypatch.setattr(reading, "demux_packets", lambda *_: packets * 100)
        assert len(list(reading._demux(str(path), container, container.streams.video[0], reading.Reading()))) == 4000
    assert 40 <= len(reports) < 80


def probe_with_and_without(path, monkeypatch) -> tuple[Verdict, Verdict]:
    """The verdicts of a check that leaves the loop filter out where it can, and of one that never does."""
    short = probe(str(path), ProbeOptions())
    with monkeypatch.context() as patch:
        patch.setattr(reading, "DECODERS_WITHOUT_LOOP_FILTER", set())
        return short, probe(str(path), ProbeOptions())


@pytest.mark.parametrize("damage", DAMAGES)
def test_every_damage_shows_without_the_loop_filter(tmp_path, good, damage, monkeypatch):
    (tmp_path / "video.mp4").write_bytes(DAMAGES[damage](good))
    without, with_filter = probe_with_and_without(tmp_path / "video.mp4", monkeypatch)
    assert without == with_filter and without.status == "bad"


SHAPES = {
    "slices": dict(suffix=".ts", options={"g": "12", "x264-params": "slices=3"}),
    "interlaced": dict(suffix=".mkv", options={"flags": "+ilme+ildct", "x264-params": "tff=1"}),
    "CAVLC and B-frames": dict(suffix=".flv", options={"g": "12", "x264-params": "cabac=0:bframes=3"}),
    "VP8": dict(suffix=".webm", codec="libvpx", options={"g": "12"}),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_damage_anywhere_shows_without_the_loop_filter(tmp_path, shape, monkeypatch):
    """Blocks of zeros and of noise, bytes that are missing, and single bits."""
    options = dict(SHAPES[shape])
    suffix = options.pop("suffix")
    good = write_textured_video(tmp_path / f"good{suffix}", 24, **options)
    data, statuses, rng = good.read_bytes(), [], np.random.default_rng(0)
    for number in range(24):
        start, size = int(rng.integers(len(data))), int(rng.integers(1, 400))
        piece = (bytes(size), rng.bytes(size), b"", bytes([data[start] ^ 1 << number % 8]))[number % 4]
        end = start + (1 if number % 4 == 3 else size)
        path = tmp_path / f"video{suffix}"
        path.write_bytes(data[:start] + piece + data[end:])
        without, with_filter = probe_with_and_without(path, monkeypatch)
        assert without == with_filter
        statuses.append(without.status)
    assert statuses.count("bad") > 8
    without, with_filter = probe_with_and_without(good, monkeypatch)
    assert without == with_filter and without[:3] == ("ok", "", 24)


@pytest.mark.parametrize(
    "codec, suffix, is_left_out", [("libx264", ".mp4", True), ("libvpx", ".webm", True), ("libx265", ".mp4", False)]
)
def test_pictures_show_where_the_loop_filter_is_left_out(tmp_path, codec, suffix, is_left_out):
    options = {"x265-params": "log-level=none"} if codec == "libx265" else {}
    path = write_textured_video(tmp_path / f"video{suffix}", 5, codec=codec, options=options)
    pictures = []
    for is_checked in (True, False):
        with av.open(str(path)) as container:
            decoder = container.streams.video[0].codec_context
            if is_checked:
                decoder.options = reading.decoder_options(decoder.name)
            pictures.append([frame.to_ndarray() for frame in container.decode(video=0)])
    assert len(pictures[0]) == len(pictures[1]) == 5
    assert np.array_equal(*pictures) is not is_left_out


def test_hevc_needs_its_loop_filter_for_the_checksums_of_its_pictures(tmp_path, monkeypatch):
    """What decodes to another picture without an error shows in the checksum alone."""
    options = {"x265-params": "log-level=none:hash=1"}
    good = write_textured_video(tmp_path / "good.mp4", 12, codec="libx265", options=options)
    assert probe(str(good), ProbeOptions())[:3] == ("ok", "", 12)
    with av.open(str(good)) as container:
        first = next(packet for packet in container.demux(video=0) if packet.size)
        middle = first.pos + first.size // 2
    data, reasons = good.read_bytes(), []
    for position in range(middle, middle + 10):
        (tmp_path / "video.mp4").write_bytes(replace_range(data, position, bytes([data[position] ^ 1])))
        verdict = probe(str(tmp_path / "video.mp4"), ProbeOptions())
        assert verdict.status == "bad"
        reasons.append(verdict.reason)
    assert any("mismatching checksum" in reason for reason in reasons)
    monkeypatch.setattr(reading, "DECODERS_WITHOUT_LOOP_FILTER", {"hevc"})
    assert probe(str(good), ProbeOptions()).status == "bad"
