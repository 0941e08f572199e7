import errno
import io
import os
import resource
import signal
import socket
import tempfile
import time
from fractions import Fraction
from multiprocessing import connection
from pathlib import Path

import av
import imageio_ffmpeg
import numpy as np
import pytest

from helpers.damaged_videos import DAMAGES, cut, replace_range, write_textured_video, write_with_audio
from helpers.numbered_videos import write_numbered_video, write_video
from references.dataset_tools import ffmpeg_program, probing, promises, reading, workers
from references.dataset_tools.probing import ProbeOptions, probe, require_prober
from references.dataset_tools.workers import Task, WorkerFailure, WorkerPool, report_progress

STRICT = ProbeOptions()
FASTSTART = {"movflags": "faststart"}
PROBERS = ["av", "ffmpeg"]


@pytest.fixture(scope="module", autouse=True)
def ffmpeg_on_path(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bin")
    (folder / "ffmpeg").symlink_to(imageio_ffmpeg.get_ffmpeg_exe())
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", str(folder), prepend=os.pathsep)
        yield


@pytest.fixture(scope="module")
def good(tmp_path_factory) -> bytes:
    return write_textured_video(tmp_path_factory.mktemp("good") / "good.mp4", container_options=FASTSTART).read_bytes()


def probe_bytes(tmp_path, data: bytes, options: ProbeOptions = STRICT, name: str = "video.mp4"):
    path = tmp_path / name
    path.write_bytes(data)
    return probe(str(path), options)


@pytest.mark.parametrize("prober", PROBERS)
def test_a_good_video_is_ok(tmp_path, good, prober):
    verdict = probe_bytes(tmp_path, good, ProbeOptions(prober))
    assert (verdict.status, verdict.reason, verdict.frames, verdict.promised_frames) == ("ok", "", 40, 40)
    assert verdict.seconds == pytest.approx(40 / 30)


@pytest.mark.parametrize("prober", PROBERS)
@pytest.mark.parametrize("damage", DAMAGES)
def test_every_damage_is_bad_for_a_reason(tmp_path, good, damage, prober):
    verdict = probe_bytes(tmp_path, DAMAGES[damage](good), ProbeOptions(prober))
    assert verdict.status == "bad" and verdict.reason


@pytest.mark.parametrize(
    "codec, suffix", [("libx264", ".mkv"), ("libx264", ".ts"), ("libvpx", ".webm"), ("libvpx-vp9", ".webm"),
                      ("mpeg4", ".avi"), ("libx264", ".flv"), ("libx265", ".mp4"), ("libsvtav1", ".mp4")]
)  # fmt: skip
def test_other_containers_and_codecs(tmp_path, codec, suffix):
    options = {"x265-params": "log-level=none"} if codec == "libx265" else {}
    data = write_textured_video(tmp_path / f"good{suffix}", codec=codec, options=options).read_bytes()
    assert probe_bytes(tmp_path, data, name="a" + suffix).status == "ok"
    assert probe_bytes(tmp_path, cut(0.9)(data), name="b" + suffix).status == "bad"
    half = data[: len(data) // 2 | 1]  # odd: not at a packet's end, which in a transport stream would not show
    assert probe_bytes(tmp_path, half, name="c" + suffix).status == "bad"
    zeroed = replace_range(data, len(data) // 3, bytes(len(data) // 4))
    assert probe_bytes(tmp_path, zeroed, name="d" + suffix).status == "bad"


def test_a_fragmented_mp4_without_its_last_fragments_is_bad(tmp_path):
    fragments = {"movflags": "frag_keyframe+empty_moov"}
    data = write_textured_video(tmp_path / "good.mp4", container_options=fragments).read_bytes()
    assert probe_bytes(tmp_path, data).status == "ok"
    assert probe_bytes(tmp_path, cut(0.8)(data)).tail_is_missing


def test_a_wmv_that_is_too_short_for_what_it_declares_is_bad(tmp_path):
    data = write_textured_video(tmp_path / "good.wmv", codec="wmv2", options={"g": "10"}).read_bytes()
    assert probe_bytes(tmp_path, data, name="a.wmv").status == "ok"
    half = len(data) // 2
    for part in range(40, 100, 6):
        verdict = probe_bytes(tmp_path, data[: len(data) * part // 100], name="b.wmv")
        assert verdict.status == "bad" and verdict.tail_is_missing and verdict.promised_frames >= verdict.frames
    assert probe_bytes(tmp_path, data[:half] + data[half + 3200 :], name="c.wmv").tail_is_missing
    live = bytearray(data)
    live[data.index(promises.ASF_FILE_PROPERTIES) + 88] |= promises.ASF_BROADCAST
    assert probe_bytes(tmp_path, bytes(live), name="d.wmv").status == "ok"


@pytest.mark.parametrize("codec, suffix", [("mpeg4", ".mkv"), ("flv", ".flv")])
def test_frames_cut_out_of_the_middle_are_seen(tmp_path, codec, suffix):
    """In files this small, FFmpeg comes upon the gap while it opens them."""
    path = write_textured_video(tmp_path / f"good{suffix}", codec=codec, options={"g": "1"})
    data = path.read_bytes()
    with av.open(str(path)) as container:
        positions = [packet.pos for packet in container.demux(video=0) if packet.size]
    for first in (10, 20, 30):
        with_a_gap = data[: positions[first] - 2] + data[positions[first + 5] + 40 :]
        verdict = probe_bytes(tmp_path, with_a_gap, name="gap" + suffix)
        assert verdict.status == "bad" and verdict.reason.startswith("the container is damaged: ")
        assert verdict.tail_is_missing, "no remux brings them back"


def test_damage_to_the_headers_alone_is_no_bad_video(tmp_path):
    data = write_textured_video(tmp_path / "good.mkv").read_bytes()
    tags = data.index(bytes.fromhex("1254C367")) + 4
    path = tmp_path / "video.mkv"
    path.write_bytes(replace_range(data, tags, bytes([data[tags] ^ 0xFF])))
    with av.logging.Capture() as log, av.open(str(path)):
        assert log, "it complains, and gives every frame"
    assert probe(str(path), STRICT)[:3] == ("ok", "", 40)


ODDITIES = {
    "variable rate": dict(pts=[n * n for n in range(20)]),
    "variable rate without a count": dict(suffix=".webm", codec="libvpx-vp9", pts=[n * n for n in range(20)]),
    "starts late": dict(pts=[n + 300 for n in range(20)]),
    "10 bit": dict(pix_fmt="yuv420p10le"),
    "HEVC, 10 bit": dict(codec="libx265", pix_fmt="yuv420p10le", options={"x265-params": "log-level=none"}),
    "VP8 with hidden frames": dict(
        suffix=".webm", codec="libvpx", options={"auto-alt-ref": "1", "lag-in-frames": "16"}
    ),
    "VP9": dict(codec="libvpx-vp9"),
    "AV1": dict(codec="libsvtav1"),
    "odd size": dict(codec="libvpx-vp9", width=97, height=65, suffix=".webm"),
    "one pixel": dict(width=12, height=2, pix_fmt="yuv444p"),
    "a transport stream": dict(container_format="mpegts"),
    "only keyframes": dict(options={"g": "1"}),
    "open GOP": dict(options={"x264-params": "keyint=6:open-gop=1:bframes=3"}),
    "interlaced": dict(options={"flags": "+ilme+ildct", "x264-params": "tff=1"}, height=96),
    "MPEG-4 with B-frames": dict(suffix=".avi", codec="mpeg4", options={"bf": "2"}),
    "fragments of one frame": dict(container_options={"movflags": "empty_moov+frag_every_frame"}),
}


@pytest.mark.parametrize("oddity", ODDITIES)
def test_valid_oddities_are_ok(tmp_path, oddity):
    options = dict(ODDITIES[oddity])
    path = tmp_path / f"-odd{options.pop('suffix', '.mp4')}"
    kind = options.pop("container_format", None)
    written = write_numbered_video(path.with_suffix(".ts") if kind else path, 20, **options)
    written.rename(path)
    assert probe(str(path), STRICT)[:3] == ("ok", "", 20)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        assert probe(path.name, STRICT).status == "ok", "a name that begins with -"


def test_one_frame_is_ok_and_may_be_too_few(tmp_path):
    path = str(write_numbered_video(tmp_path / "one.mp4", 1))
    assert probe(path, STRICT).frames == 1
    verdict = probe(path, ProbeOptions(min_frames=2))
    assert verdict.status == "bad" and "too few frames: 1" in verdict.reason


@pytest.mark.parametrize("prober", PROBERS)
def test_an_edit_list_hides_frames_that_are_not_missing(tmp_path, prober):
    source = write_textured_video(tmp_path / "long.mp4", 60, options={"g": "30", "bf": "0"})
    path = tmp_path / "edited.mp4"
    with av.open(str(source)) as container, av.open(str(path), "w") as output:
        stream = output.add_stream_from_template(container.streams.video[0])
        for packet in container.demux(video=0):
            if packet.dts is not None:
                shift = int(0.4 / packet.time_base)  # the first 12 frames get negative times: hidden
                packet.pts, packet.dts, packet.stream = packet.pts - shift, packet.dts - shift, stream
                output.mux(packet)
    verdict = probe(str(path), ProbeOptions(prober))
    assert verdict.status == "ok" and verdict.frames == 48


def test_damage_to_the_sound_alone_is_no_bad_video(tmp_path):
    path = write_with_audio(tmp_path / "sound.mp4", container_options=FASTSTART)
    with av.open(str(path)) as container:
        packets = [(p.pos, p.size) for p in container.demux(audio=0) if p.size]
    data = path.read_bytes()
    for position, size in packets:
        data = replace_range(data, position, os.urandom(size))
    assert probe_bytes(tmp_path, data).status == "ok"


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


def test_a_playlist_opens_no_other_file(tmp_path, good):
    (tmp_path / "target.mp4").write_bytes(good)
    assert probe_bytes(tmp_path, b"ffconcat version 1.0\nfile target.mp4\n").status == "bad"
    assert probe_bytes(tmp_path, b"#EXTM3U\n#EXTINF:1\nhttp://localhost:1/x.ts\n", name="x.m3u8").status == "bad"


@pytest.mark.parametrize("prober", PROBERS)
def test_damage_can_be_tolerated(tmp_path, good, prober):
    damaged = DAMAGES["zeroed block at the end"](good)
    assert probe_bytes(tmp_path, damaged, ProbeOptions(prober, max_corrupt_frames=0)).status == "bad"
    verdict = probe_bytes(tmp_path, damaged, ProbeOptions(prober, max_corrupt_frames=20))
    assert verdict.status == "ok" and verdict.reason.startswith("tolerated: ")
    assert probe_bytes(tmp_path, DAMAGES["encrypted"](good), ProbeOptions(prober, 1000)).status == "bad", "no frame"


def test_a_picture_is_no_video(tmp_path):
    picture = av.VideoFrame.from_ndarray(np.zeros((64, 96, 3), np.uint8), format="rgb24")
    encoder = av.CodecContext.create("png", "w")
    encoder.width, encoder.height, encoder.pix_fmt, encoder.time_base = 96, 64, "rgb24", Fraction(1, 30)
    data = b"".join(bytes(packet) for packet in encoder.encode(picture))
    assert probe_bytes(tmp_path, data).reason == "a picture, not a video"


def test_too_many_pixels(tmp_path, good, monkeypatch):
    monkeypatch.setattr(probing, "MAX_PIXELS", 96 * 64 - 1)
    assert probe_bytes(tmp_path, good).reason == "too many pixels a frame: 96x64"


def write_program(folder: Path, what: str, version: str = "62.  3.100") -> None:
    """A stand-in for ffmpeg that prints the version of its libavcodec, or does `what` is asked of it."""
    program = folder / "ffmpeg"
    asked = f'if [ "$1" = -version ]; then echo "ffmpeg version N-1-g2a"; echo "libavcodec     {version} / x"; exit; fi'
    program.write_text(f"#!/bin/sh\n{asked}\n{what}")
    program.chmod(0o755)


@pytest.mark.parametrize(
    "version, option", [("58. 54.100", "-vsync"), ("59. 36.100", "-vsync"), ("59. 37.100", "-fps_mode")]
)
def test_the_program_is_given_no_option_that_it_lacks(tmp_path, monkeypatch, version, option):
    write_program(tmp_path, f'echo "$@" > {tmp_path}/arguments\n', version)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    require_prober("ffmpeg")
    with (tmp_path / "log").open("w+") as log:
        ffmpeg_program.decode_with_ffmpeg("/a.mp4", 0, log, lambda: None)
    assert f" {option} passthrough " in (tmp_path / "arguments").read_text()


def test_a_program_that_is_too_old_is_an_error(tmp_path, monkeypatch):
    write_program(tmp_path, "", "58. 53.100")
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    with pytest.raises(RuntimeError, match="needs FFmpeg 4.2 or later, and .*ffmpeg is older"):
        require_prober("ffmpeg")


def test_the_log_of_the_program_says_who_complains(tmp_path):
    lines = [
        "[h264 @ 0x5581645882c0] [error] Invalid NAL unit size (-1 > 551).",
        "[vist#0:0/h264 @ 0x556] [dec:h264 @ 0x557] [error] Error submitting packet to decoder: Invalid data",
        "[null @ 0x5576f36fc400] [error] Application provided invalid, non monotonically increasing dts to muxer",
        "[error] Error while decoding stream #0:0: Invalid data",  # FFmpeg 4
        "[mov,mp4,m4a,3gp,3g2,mj2 @ 0x55] [error] stream 0, offset 0x30: partial file",
        "not a line of the log",
    ]
    with (tmp_path / "log").open("w+") as log:
        log.write("\n".join(lines))
        assert list(ffmpeg_program.read_log(log)) == [
            ("h264", "Invalid NAL unit size (-1 > 551)."),
            ("vist#0:0/h264", "Error submitting packet to decoder: Invalid data"),
            ("null", "Application provided invalid, non monotonically increasing dts to muxer"),
            ("", "Error while decoding stream #0:0: Invalid data"),
            ("mov,mp4,m4a,3gp,3g2,mj2", "stream 0, offset 0x30: partial file"),
        ]


@pytest.mark.parametrize("codec, suffix", [("libx264", ".mkv"), ("libvpx-vp9", ".webm")])
def test_the_first_bytes_of_a_matroska_file_are_bad(tmp_path, codec, suffix):
    data = write_textured_video(tmp_path / f"good{suffix}", 5, codec=codec, options={}).read_bytes()
    reasons = []
    for size in range(1, 640, 13):
        verdict = probe_bytes(tmp_path, data[:size], name=f"a{suffix}")
        assert verdict.status == "bad"
        reasons.append(verdict.reason)
    assert "cut short within its header" in reasons, "FFmpeg calls it an input/output error"


@pytest.mark.parametrize("damage", ["cut at 50 %, header intact", "a header with no data"])
def test_an_error_of_the_disk_is_no_verdict(tmp_path, good, damage, monkeypatch):
    """FFmpeg takes what the disk does not give for the end of the file."""

    class BadDisk(io.RawIOBase):
        def read(self, size):
            raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(probing, "open", lambda path, mode, buffering=-1: BadDisk(), raising=False)
    verdict = probe_bytes(tmp_path, DAMAGES[damage](good))
    assert (verdict.status, verdict.reason) == ("error", "could not be read: Input/output error")
    assert probe_bytes(tmp_path, good).status == "ok"


def test_a_missing_or_broken_tool_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(RuntimeError, match="none on the PATH"):
        require_prober("ffmpeg")
    (tmp_path / "ffmpeg").write_text("#!/bin/sh\nexit 3\n")
    (tmp_path / "ffmpeg").chmod(0o755)
    with pytest.raises(RuntimeError, match="does not run"):
        require_prober("ffmpeg")
    require_prober("av")


def behave(how: str) -> str:
    """What a worker does in the tests below."""
    if how == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    if how.startswith("die once "):
        marker = Path(how.removeprefix("die once "))
        if not marker.exists():
            marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
    if how == "hang":
        time.sleep(600)
    if how == "work on":
        workers._reports.interval = 0
        for _ in range(8):
            report_progress()
    if how == "eat":
        return str(len(bytearray(1 << 33)))
    if how == "raise":
        raise KeyError("a fault of ours")
    return how


def run_all(how: list[str], num_workers: int = 2, timeout: float = 20) -> dict:
    with WorkerPool(num_workers, timeout) as pool:
        return dict(pool.run(Task(index, behave, (each,)) for index, each in enumerate(how)))


def test_a_crash_condemns_no_neighbour():
    results = run_all(["a", "crash", "b", "raise", "c", "eat", "d"])
    assert [results[index] for index in (0, 2, 4, 6)] == ["a", "b", "c", "d"]
    assert results[1] == WorkerFailure("the decoder crashed on it (SIGSEGV)")
    assert not results[3].is_inputs_fault and "a fault of ours" in results[3].reason
    assert "memory" in results[5].reason and results[5].is_inputs_fault


def test_a_hang_ends_at_the_timeout():
    start = time.monotonic()
    results = run_all(["hang", "a", "b"], timeout=1)
    assert results == {0: WorkerFailure("no progress for 1 seconds: it hangs"), 1: "a", 2: "b"}
    assert time.monotonic() - start < 20


def test_a_task_that_makes_progress_may_take_longer_than_the_timeout(monkeypatch):
    """By a clock that goes on by nine tenths of the timeout at each message: eight of them are seven timeouts."""
    clock, real_wait = 0.0, connection.wait

    def wait(pipes, timeout):
        nonlocal clock
        ready = real_wait(pipes)
        clock += 0.9 * 100
        return ready[:1]

    monkeypatch.setattr(workers.connection, "wait", wait)
    monkeypatch.setattr(workers.time, "monotonic", lambda: clock)
    assert run_all(["work on"], num_workers=1, timeout=100) == {0: "work on"}
    assert clock > 500


def test_a_timeout_of_a_tenth_is_a_report_soon_enough(tmp_path):
    """The worker reports ten times within the timeout, whatever that is."""
    pool = WorkerPool(1, 0.5)
    with pool:
        results = dict(pool.run([Task(0, interval_of_reports, ())]))
    assert results == {0: 0.05}


def interval_of_reports() -> float:
    return workers._reports.interval


@pytest.mark.parametrize("prober", PROBERS)
def test_reading_reports_progress(tmp_path, good, prober, monkeypatch):
    reports = []
    monkeypatch.setattr(reading, "report_progress", lambda: reports.append(1))
    assert probe_bytes(tmp_path, good, ProbeOptions(prober)).status == "ok"
    assert len(reports) >= 40


def test_the_program_reports_progress_while_it_adds_frames(tmp_path, good, monkeypatch):
    frames = "".join(f"echo frame={number}\n" for number in (0, 5, 5, 9, 40))
    write_program(tmp_path, f"{frames}echo progress=end\n")
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    reports = []
    with (tmp_path / "log").open("w+") as log:
        assert ffmpeg_program.decode_with_ffmpeg("/a.mp4", 0, log, lambda: reports.append(1)) == (40, 0)
    assert len(reports) == 3, "5, 9 and 40: not the repetition"


def test_a_program_that_hangs_ends_at_the_timeout(tmp_path, good, monkeypatch):
    write_program(tmp_path, f"echo $$ > {tmp_path}/pid\necho frame=3\nexec sleep 600\n")
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    (tmp_path / "video.mp4").write_bytes(good)
    with WorkerPool(1, 2) as pool:
        task = Task("video", probe, (str(tmp_path / "video.mp4"), ProbeOptions("ffmpeg")))
        assert dict(pool.run([task])) == {"video": WorkerFailure("no progress for 2 seconds: it hangs")}
    status = Path(f"/proc/{(tmp_path / 'pid').read_text().strip()}/stat")
    for _ in range(200):  # it has been killed, which takes a moment; nobody need have collected it
        if not status.exists() or status.read_text().rpartition(")")[2].split()[0] == "Z":
            return
        time.sleep(0.1)
    raise AssertionError("the program outlived the worker that started it")


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


def test_a_worker_that_somebody_killed_is_no_verdict(tmp_path):
    assert run_all([f"die once {tmp_path / 'marker'}", "a"], num_workers=1) == {
        0: f"die once {tmp_path / 'marker'}",
        1: "a",
    }


def test_no_worker_outlives_its_pool():
    with WorkerPool(2, 20) as pool:
        assert len(dict(pool.run(Task(index, behave, ("a",)) for index in range(4)))) == 4
        processes = [worker.process.pid for worker in pool.workers]
    for pid in processes:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def probe_with_little_memory(path: str):
    probe(path + ".absent", STRICT)  # takes what the libraries need
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * os.sysconf("SC_PAGE_SIZE") + (16 << 20)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    return probe(path, STRICT)


def test_a_frame_that_wants_too_much_memory(tmp_path):
    """A small file whose frames fill the memory allowed: the verdict is on that file, and the pool goes on."""
    path = write_video(tmp_path / "wide.mkv", [np.zeros((4096, 4096, 3), np.uint8)], codec="ffv1")
    assert probe(str(path), STRICT).status == "ok"
    with WorkerPool(1, 60) as pool:
        results = dict(pool.run([Task("wide", probe_with_little_memory, (str(path),)), Task("next", behave, ("a",))]))
    assert results["next"] == "a"
    assert results["wide"].status == "bad" and "memory" in results["wide"].reason
