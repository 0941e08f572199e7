import av
import pytest

from helpers.damaged_videos import cut, flag_transport_error, write_textured_video
from references.dataset_tools.probing import ProbeOptions, probe
from references.dataset_tools.remuxing import inspect, remux

STRICT = ProbeOptions()


def packets_of(path) -> list[tuple[int, bytes]]:
    with av.open(str(path)) as container:
        return [(packet.pts, bytes(packet)) for packet in container.demux(video=0) if packet.size]


@pytest.mark.parametrize("suffix", [".mkv", ".mp4", ".ts", ".avi", ".flv"])
def test_a_remux_holds_every_packet(tmp_path, suffix):
    """A Matroska file has no dts: where there are B-frames, FFmpeg gives none for the first two packets."""
    good = write_textured_video(tmp_path / f"good{suffix}", 20, options={"bf": "2", "g": "10"})
    remuxed = tmp_path / f"remuxed{suffix}"
    remux(str(good), str(remuxed))
    assert packets_of(remuxed) == packets_of(good)
    assert probe(str(remuxed), STRICT)[:3] == ("ok", "", 20)


def test_what_a_remux_repairs_is_left_there(tmp_path):
    data = write_textured_video(tmp_path / "good.ts").read_bytes()
    (tmp_path / "bad.ts").write_bytes(flag_transport_error(data, 40))
    found = inspect(str(tmp_path / "bad.ts"), STRICT, str(tmp_path / "remuxed.ts"))
    assert found.verdict.status == "bad" and found.remuxed is not None and found.remuxed.frames == 40
    assert probe(str(tmp_path / "remuxed.ts"), STRICT).status == "ok"
    assert inspect(str(tmp_path / "bad.ts"), STRICT, None).remuxed is None


def test_what_is_missing_is_not_remuxed(tmp_path):
    data = write_textured_video(tmp_path / "good.mp4", container_options={"movflags": "faststart"}).read_bytes()
    (tmp_path / "bad.mp4").write_bytes(cut(0.9)(data))
    assert inspect(str(tmp_path / "bad.mp4"), STRICT, str(tmp_path / "remuxed.mp4")).remuxed is None
    assert not (tmp_path / "remuxed.mp4").exists()
