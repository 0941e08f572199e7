import errno
import io
import os
import socket
import tempfile
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import av
import numpy as np
import pytest

from helpers.damaged_videos import DAMAGES, replace_range, write_textured_video, write_with_audio
from helpers.numbered_videos import write_numbered_video
from references.dataset_tools import probing
from references.dataset_tools.probing import NotReadable, ProbeOptions, Verdict, first_video_stream, probe
from references.dataset_tools.reading import Reading

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


@pytest.mark.parametrize("codec, suffix", [("mpeg4", ".mkv"), ("flv", ".flv")])
def test_frames_cut_out_of_the_middle_are_seen(tmp_path, codec, suffix, probe_bytes):
    """In files this small, FFmpeg comes upon the gap while it opens them."""
    path = write_textured_video(tmp_path / f"good{suffix}", codec=codec, options={"g": "1"})
    data = path.read_bytes()
    with av.open(str(path)) as container:
        positions = [packet.pos for packet in container.demux(video=0) if packet.size]
    for first in (10, 20, 30):
        with_a_gap = data[: positions[first] - 2] + data[positions[first + 5] + 40 :]
        verdict = probe_bytes(with_a_gap, name="gap" + suffix)
        assert verdict.status == "bad" and verdict.reason.startswith("the container is damaged: ")
        assert verdict.tail_is_missing, "no remux brings them back"


def container_of(format_name: str = "flv", streams: int = 1) -> SimpleNamespace:
    return SimpleNamespace(format=SimpleNamespace(name=format_name), duration=None, streams=[None] * streams)


def judge(facts: dict, promised: int = 40, **options) -> Verdict:
    """The verdict on a reading of a file whose header promises so many frames, or none."""
    stream = SimpleNamespace(frames=promised, average_rate=30, index=0)
    return probing.judge(os.devnull, container_of(), stream, Reading(**facts), ProbeOptions(**options))


DECODED, MARKED = "frames that could not be decoded: ", "frames that the decoder marks as damaged: "
MISSING = "its end or a piece is missing: "
EMPTY = "gives no frame: it has a header, but no video data"


@pytest.mark.parametrize(
    "facts, damage, damaged_frames, promised, tail_is_missing",
    [
        (dict(packets=40, frames=39), DECODED + "1 of 40", 1, 40, False),
        (dict(packets=30, frames=30), MISSING + "30 of 40 promised frames were read", 10, 40, True),
        (dict(packets=39, frames=39), MISSING + "39 of 40 promised frames were read", 1, 40, True),
        (dict(packets=30, frames=28), MISSING + "28 of 40 promised frames were read", 12, 40, True),
        (dict(packets=40, frames=40, corrupt_frames=2), MARKED + "2", 2, 40, False),
        (dict(packets=40, frames=39, corrupt_frames=2), f"{DECODED}1 of 40; {MARKED}2", 3, 40, False),
        (dict(packets=40, frames=40, errors=3, first_error="x"), "decode errors: 3, the first: x", 3, 40, False),
        (
            dict(packets=40, frames=40, errors=1, first_error="x", corrupt_frames=5),
            "decode errors: 1, the first: x",
            5,
            40,
            False,
        ),
        (
            dict(packets=38, frames=37, errors=1, first_error="x", container_error="y"),
            MISSING + "37 of 40 promised frames were read; decode errors: 1, the first: x",
            3,
            40,
            True,
        ),
        (dict(packets=40, frames=39, encrypted=True), DECODED + "1 of 40", 1, 40, False),
    ],
)
def test_damage_is_described_and_may_be_tolerated(facts, damage, damaged_frames, promised, tail_is_missing):
    bad = judge(facts, max_corrupt_frames=damaged_frames - 1)
    assert bad == Verdict("bad", damage, facts["frames"], 0.0, promised, tail_is_missing)
    tolerated = judge(facts, max_corrupt_frames=damaged_frames)
    assert tolerated == bad._replace(status="ok", reason=f"tolerated: {damage}")


@pytest.mark.parametrize(
    "facts, promised, reason, tail_is_missing",
    [
        (dict(), 0, EMPTY, False),
        (dict(encrypted=True), 0, "encrypted", False),
        (dict(packets=40, encrypted=True), 40, "encrypted", False),
        (dict(packets=40), 40, DECODED + "40 of 40", False),
        (dict(container_error="x"), 0, "the container is damaged: x", True),
        (dict(), 40, MISSING + "0 of 40 promised frames were read", True),
    ],
)
def test_without_a_frame_nothing_is_tolerated(facts, promised, reason, tail_is_missing):
    verdict = judge(facts, promised, max_corrupt_frames=1000)
    assert verdict == Verdict("bad", reason, 0, 0.0, promised, tail_is_missing)


def test_a_complaint_of_the_container_counts_as_one_damaged_frame():
    facts = dict(packets=40, frames=40, container_error="x", start=1.0, end=3.5)
    assert judge(facts, 0) == Verdict("bad", "the container is damaged: x", 40, 2.5, 40, True)
    tolerated = Verdict("ok", "tolerated: the container is damaged: x", 40, 2.5, 40, True)
    assert judge(facts, 0, max_corrupt_frames=1) == tolerated
    assert judge(facts) == tolerated._replace(tail_is_missing=False), "the header counts the frames, and all are there"


@pytest.mark.parametrize("frames, status", [(39, "bad"), (40, "ok"), (41, "ok")])
def test_the_fewest_frames_that_are_allowed(frames, status):
    verdict = judge(dict(packets=frames, frames=frames), 0, min_frames=40)
    assert verdict.status == status
    if status == "bad":
        assert verdict.reason == "too few frames: 39, but at least 40 are required"


def test_damage_comes_before_a_lack_of_frames():
    assert judge(dict(packets=40, frames=39), min_frames=50).reason == DECODED + "1 of 40"


def test_by_default_nothing_is_tolerated():
    assert ProbeOptions() == ("av", 0, 1)
    assert Verdict("ok") == ("ok", "", 0, 0.0, 0, False)


@pytest.mark.parametrize(
    "name, reason",
    [
        ("png_pipe", "a picture, not a video"),
        ("image2", "a picture, not a video"),
        ("hls", "a list of other files, not a video"),
        ("concat", "a list of other files, not a video"),
        ("mpegts", None),
        ("image2pipe_x", None),
    ],
)
def test_formats_that_are_no_video(name, reason):
    if reason is None:
        probing._require_video_format(name)
    else:
        with pytest.raises(NotReadable, match=reason) as caught:
            probing._require_video_format(name)
        assert caught.value.status == "bad"


def container_with(*kinds: str) -> SimpleNamespace:
    cover, none = av.stream.Disposition.attached_pic, av.stream.Disposition(0)
    streams = [
        SimpleNamespace(type=kind.split()[-1], disposition=cover if kind == "cover video" else none, number=number)
        for number, kind in enumerate(kinds)
    ]
    videos = [stream for stream in streams if stream.type == "video"]

    class Streams(list):
        video = videos

    return SimpleNamespace(streams=Streams(streams))


@pytest.mark.parametrize(
    "kinds, number", [(["video"], 0), (["audio", "video"], 1), (["cover video", "audio", "video", "video"], 2)]
)
def test_the_first_video_that_is_no_cover(kinds, number):
    assert first_video_stream(container_with(*kinds)).number == number


@pytest.mark.parametrize(
    "kinds, reason",
    [
        ([], "^holds no video$"),
        (["subtitle", "audio", "audio"], "^holds no video, only audio and subtitle$"),
        (["audio", "cover video"], "^holds only a cover picture, no video$"),
    ],
)
def test_no_video_among_the_streams(kinds, reason):
    with pytest.raises(NotReadable, match=reason):
        first_video_stream(container_with(*kinds))


@pytest.mark.parametrize(
    "size, reason",
    [
        ((8192, 8192), None),
        ((8193, 8192), "too many pixels a frame: 8193x8192"),
        (None, "its video codec has no"),
    ],
)
def test_what_can_be_decoded(size, reason):
    decoder = size and SimpleNamespace(width=size[0], height=size[1])
    if reason is None:
        probing._require_decodable(SimpleNamespace(codec_context=decoder))
    else:
        with pytest.raises(NotReadable, match=reason):
            probing._require_decodable(SimpleNamespace(codec_context=decoder))


NO_MOOV = (16, "mov,mp4,m4a,3gp,3g2,mj2", "moov atom not found\n")


@pytest.mark.parametrize(
    "data, error, reason",
    [
        (b"", (errno.EIO, "Input/output error", "x"), "cut short within its header"),
        (b"....ftypisom", (1, "Invalid data", "x", NO_MOOV), "cut short or never finished: its index is missing"),
        (b"........ftyp", (1, "Invalid data", "x", NO_MOOV), "cut short or never finished: its index is missing"),
        (b".........ftyp", (1, "Invalid data", "x", NO_MOOV), "not a video file"),
        (b"text", (1, "Invalid data", "x", NO_MOOV), "not a video file"),
        (b"", (1, "Invalid data", "x", (16, "avi", " odd\n")), "cannot be opened as a video: odd"),
        (b"", (1, "Invalid data", "x"), "cannot be opened as a video: Invalid data"),
        (b"", (1, "Invalid data"), "cannot be opened as a video: Invalid data"),
        (b"", (1, "Invalid data", "x", (16, "avi", " ")), "cannot be opened as a video: Invalid data"),
    ],
)
def test_why_a_file_cannot_be_opened(tmp_path, data, error, reason):
    (tmp_path / "video").write_bytes(data)
    assert probing._explain_open_error(str(tmp_path / "video"), av.FFmpegError(*error)).startswith(reason)


@pytest.mark.parametrize(
    "error, status, reason",
    [
        (av.FFmpegError(errno.ESTALE, "Stale file handle"), "error", "could not be read: Stale file handle"),
        (av.FFmpegError(errno.EMFILE, "Too many open files"), "error", "could not be read: Too many open files"),
        (av.FFmpegError(errno.EINVAL, "Invalid argument"), "bad", "cannot be opened as a video: Invalid argument"),
        (MemoryError(), "bad", "needs more memory than a worker may take"),
        (OSError(errno.EIO, "Input/output error"), "error", "could not be read: Input/output error"),
        (OSError("a reason without a number"), "error", "could not be read: a reason without a number"),
    ],
)
def test_an_error_on_opening(probe_bytes, monkeypatch, error, status, reason):
    def refuse(path, **options):
        raise error

    monkeypatch.setattr(probing, "open_video", refuse)
    verdict = probe_bytes(b"video")
    assert (verdict.status, verdict.reason) == (status, reason)


@pytest.mark.parametrize("size, reason", [(0, "empty (0 bytes)"), (1, "not a video file"), (4096, "not a video file")])
def test_the_smallest_files(probe_bytes, size, reason):
    verdict = probe_bytes(bytes(size))
    assert verdict.status == "bad" and verdict.reason.startswith(reason) and (size == 0) == ("empty" in verdict.reason)


def test_a_name_that_the_system_refuses_is_no_verdict():
    assert probe("x" * 300, STRICT)[:2] == ("error", "could not be read: File name too long")


def test_every_message_of_the_libraries_is_counted(probe_bytes, good):
    av.logging.set_skip_repeated(True)
    av.logging.set_level(av.logging.PANIC)
    assert probe_bytes(good).status == "ok"
    assert not av.logging.get_skip_repeated() and av.logging.get_level() == av.logging.ERROR


def test_only_the_program_is_required(monkeypatch):
    def refuse():
        raise RuntimeError("absent")

    monkeypatch.setattr(probing, "require_ffmpeg", refuse)
    probing.require_prober("av")
    with pytest.raises(RuntimeError, match="absent"):
        probing.require_prober("ffmpeg")


@pytest.mark.parametrize(
    "messages, said_of_headers, complaint",
    [
        ([], [], ""),
        ([("flv", " broken\n")], [], "broken"),
        ([("h264", "broken")], [], ""),
        ([("flv", "header"), ("h264", "x"), ("flv", "packet"), ("flv", "later")], [("flv", "header")], "packet"),
        ([("flv", "header")], [("flv", "header")], ""),
    ],
)
def test_what_a_container_says_when_it_is_opened(monkeypatch, messages, said_of_headers, complaint):
    """Only what is not said where no more than the headers are read."""
    opened = []

    class Opened:
        def __enter__(self):
            for source, message in said_of_headers:
                logs[-1].append((16, source, message))

        def __exit__(self, *exception):
            pass

    logs: list[list] = []

    class Capture:
        def __enter__(self):
            logs.append([])
            return logs[-1]

        def __exit__(self, *exception):
            pass

    monkeypatch.setattr(probing, "open_video", lambda path, **options: opened.append(options) or Opened())
    monkeypatch.setattr(probing.av.logging, "Capture", Capture)
    log = [(16, source, message) for source, message in messages]
    assert probing._find_early_complaint("x", container_of(), log) == complaint
    asked = any(source == "flv" for source, _ in messages)
    assert opened == ([probing.FEW_PACKETS] if asked else [])
