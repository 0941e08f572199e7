import errno
import io
import os
import socket
import tempfile
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from helpers.damaged_videos import DAMAGES, replace_range, write_textured_video, write_with_audio
from helpers.numbered_videos import write_numbered_video
from references.dataset_tools import probing
from references.dataset_tools.probing import ProbeOptions, probe

STRICT = ProbeOptions()


FASTSTART = {"movflags": "faststart"}


PROBERS = ["av", "ffmpeg"]
pytestmark = pytest.mark.usefixtures("ffmpeg_on_path")


@pytest.mark.parametrize("prober", PROBERS)
def test_a_good_video_is_ok(good, prober, probe_bytes):
    verdict = probe_bytes(good, ProbeOptions(prober))
    assert (verdict.status, verdict.reason, verdict.frames, verdict.promised_frames) == ("ok", "", 40, 40)
    assert verdict.seconds == pytest.approx(40 / 30)


def test_damage_to_the_headers_alone_is_no_bad_video(tmp_path):
    data = write_textured_video(tmp_path / "good.mkv").read_bytes()
    tags = data.index(bytes.fromhex("1254C367")) + 4
    path = tmp_path / "video.mkv"
    path.write_bytes(replace_range(data, tags, bytes([data[tags] ^ 0xFF])))
    with av.logging.Capture() as log, av.open(str(path)):
        assert log, "it complains, and gives every frame"
    assert probe(str(path), STRICT)[:3] == ("ok", "", 40)


def test_one_frame_is_ok_and_may_be_too_few(tmp_path):
    path = str(write_numbered_video(tmp_path / "one.mp4", 1))
    assert probe(path, STRICT).frames == 1
    verdict = probe(path, ProbeOptions(min_frames=2))
    assert verdict.status == "bad" and "too few frames: 1" in verdict.reason


def test_damage_to_the_sound_alone_is_no_bad_video(tmp_path, probe_bytes):
    path = write_with_audio(tmp_path / "sound.mp4", container_options=FASTSTART)
    with av.open(str(path)) as container:
        packets = [(p.pos, p.size) for p in container.demux(audio=0) if p.size]
    data = path.read_bytes()
    for position, size in packets:
        data = replace_range(data, position, os.urandom(size))
    assert probe_bytes(data).status == "ok"


def test_what_holds_no_video_says_what_it_holds(tmp_path):
    assert "only audio" in probe(str(write_with_audio(tmp_path / "a.mp4", video=False)), STRICT).reason
    assert "cover picture" in probe(str(write_with_audio(tmp_path / "b.mp4", video=False, cover=True)), STRICT).reason
    assert probe(str(write_with_audio(tmp_path / "c.mp4", cover=True)), STRICT)[:3] == ("ok", "", 40)


def test_what_is_no_file_says_what_it_is(tmp_path, good):
    reasons = {}
    (tmp_path / "folder.mp4").mkdir()
    os.mkfifo(tmp_path / "pipe.mp4")
    (tmp_path / "dangling.mp4").symlink_to("nowhere.mp4")
    (tmp_path / "loop.mp4").symlink_to("loop.mp4")
    with socket.socket(socket.AF_UNIX) as server, pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        server.bind("socket.mp4")
    for path in tmp_path.iterdir():
        verdict = probe(str(path), STRICT)
        assert verdict.status == "bad"
        reasons[path.stem] = verdict.reason
    assert reasons == {
        "folder": "a folder, not a file",
        "pipe": "a named pipe, not a file",
        "socket": "a socket, not a file",
        "dangling": "a symbolic link to nothing: nowhere.mp4",
        "loop": "a symbolic link that leads to itself",
    }
    assert probe(str(tmp_path / "gone.mp4"), STRICT).status == "error"
    (tmp_path / "target.mp4").write_bytes(good)
    (tmp_path / "link.mp4").symlink_to("target.mp4")
    assert probe(str(tmp_path / "link.mp4"), STRICT).status == "ok"


def test_no_permission(good):
    with tempfile.TemporaryDirectory() as folder:  # pytest's own are closed to other users
        os.chmod(folder, 0o755)
        path = Path(folder) / "secret.mp4"
        path.write_bytes(good)
        path.chmod(0)
        uid = os.geteuid()
        try:
            os.seteuid(65534)
            verdict = probe(str(path), STRICT)
        finally:
            os.seteuid(uid)
    assert (verdict.status, verdict.reason) == ("bad", "no permission to read it")


def test_a_playlist_opens_no_other_file(tmp_path, good, probe_bytes):
    (tmp_path / "target.mp4").write_bytes(good)
    assert probe_bytes(b"ffconcat version 1.0\nfile target.mp4\n").status == "bad"
    assert probe_bytes(b"#EXTM3U\n#EXTINF:1\nhttp://localhost:1/x.ts\n", name="x.m3u8").status == "bad"


def test_a_picture_is_no_video(probe_bytes):
    picture = av.VideoFrame.from_ndarray(np.zeros((64, 96, 3), np.uint8), format="rgb24")
    encoder = av.CodecContext.create("png", "w")
    encoder.width, encoder.height, encoder.pix_fmt, encoder.time_base = 96, 64, "rgb24", Fraction(1, 30)
    data = b"".join(bytes(packet) for packet in encoder.encode(picture))
    assert probe_bytes(data).reason == "a picture, not a video"


def test_too_many_pixels(good, monkeypatch, probe_bytes):
    monkeypatch.setattr(probing, "MAX_PIXELS", 96 * 64 - 1)
    assert probe_bytes(good).reason == "too many pixels a frame: 96x64"


@pytest.mark.parametrize("damage", ["cut at 50 %, header intact", "a header with no data"])
def test_an_error_of_the_disk_is_no_verdict(good, damage, monkeypatch, probe_bytes):
    """FFmpeg takes what the disk does not give for the end of the file."""

    class BadDisk(io.RawIOBase):
        def read(self, size):
            raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(probing, "open", lambda path, mode, buffering=-1: BadDisk(), raising=False)
    verdict = probe_bytes(DAMAGES[damage](good))
    assert (verdict.status, verdict.reason) == ("error", "could not be read: Input/output error")
    assert probe_bytes(good).status == "ok"
