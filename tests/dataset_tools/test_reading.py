"""Reading a video by PyAV and by the program."""

import av
import pytest

from references.dataset_tools import reading
from references.dataset_tools.probing import ProbeOptions

STRICT = ProbeOptions()


FASTSTART = {"movflags": "faststart"}


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
