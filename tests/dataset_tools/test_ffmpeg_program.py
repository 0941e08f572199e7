"""Stand-ins for the `ffmpeg` program, and what it prints."""

import os
from pathlib import Path

import pytest

from references.dataset_tools import ffmpeg_program
from references.dataset_tools.probing import ProbeOptions, probe, require_prober


def write_program(folder: Path, what: str, version: str = "62.  3.100") -> None:
    """A stand-in for ffmpeg that prints the version of its libavcodec, or does `what` is asked of it."""
    program = folder / "ffmpeg"
    asked = f'if [ "$1" = -version ]; then echo "ffmpeg version N-1-g2a"; echo "libavcodec     {version} / x"; exit; fi'
    program.write_text(f"#!/bin/sh\n{asked}\n{what}")
    program.chmod(0o755)
    ffmpeg_program.libavcodec_version.cache_clear()  # which another program of this name may have filled


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


@pytest.mark.parametrize(
    "line",
    [
        "[vist#0:0/h264 @ 0x556] [dec:h264 @ 0x557] [warning] corrupt decoded frame",
        "[warning] /videos/a.mp4: corrupt decoded frame in stream 0",  # FFmpeg 4
    ],
)
def test_a_frame_that_the_decoder_of_the_program_marks_as_damaged_counts(tmp_path, good, monkeypatch, line):
    write_program(tmp_path, f"echo '{line}' >&2\necho '[warning] of another kind' >&2\necho frame=40\n")
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    path = tmp_path / "video.mp4"
    path.write_bytes(good)
    verdict = probe(str(path), ProbeOptions("ffmpeg"))
    assert (verdict.status, verdict.frames) == ("bad", 40)
    assert verdict.reason == "frames that the decoder marks as damaged: 1"


def test_the_program_reports_progress_while_it_adds_frames(tmp_path, good, monkeypatch):
    frames = "".join(f"echo frame={number}\n" for number in (0, 5, 5, 9, 40))
    write_program(tmp_path, f"{frames}echo progress=end\n")
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    reports = []
    with (tmp_path / "log").open("w+") as log:
        assert ffmpeg_program.decode_with_ffmpeg("/a.mp4", 0, log, lambda: reports.append(1)) == (40, 0)
    assert len(reports) == 3, "5, 9 and 40: not the repetition"


def test_a_missing_or_broken_tool_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(RuntimeError, match="none on the PATH"):
        require_prober("ffmpeg")
    (tmp_path / "ffmpeg").write_text("#!/bin/sh\nexit 3\n")
    (tmp_path / "ffmpeg").chmod(0o755)
    with pytest.raises(RuntimeError, match="does not run"):
        require_prober("ffmpeg")
    require_prober("av")
