"""Damage of every kind to real files, and files that only look damaged, by both probers."""

import av
import pytest

from helpers.damaged_videos import DAMAGES, cut, replace_range, write_textured_video
from helpers.numbered_videos import write_numbered_video
from references.dataset_tools import promises
from references.dataset_tools.probing import ProbeOptions, probe

STRICT = ProbeOptions()


FASTSTART = {"movflags": "faststart"}


PROBERS = ["av", "ffmpeg"]
pytestmark = pytest.mark.usefixtures("ffmpeg_on_path")


@pytest.mark.parametrize("prober", PROBERS)
@pytest.mark.parametrize("damage", DAMAGES)
def test_every_damage_is_bad_for_a_reason(good, damage, prober, probe_bytes):
    verdict = probe_bytes(DAMAGES[damage](good), ProbeOptions(prober))
    assert verdict.status == "bad" and verdict.reason


@pytest.mark.parametrize(
    "codec, suffix", [("libx264", ".mkv"), ("libx264", ".ts"), ("libvpx", ".webm"), ("libvpx-vp9", ".webm"),
                      ("mpeg4", ".avi"), ("libx264", ".flv"), ("libx265", ".mp4"), ("libsvtav1", ".mp4")]
)  # fmt: skip
def test_other_containers_and_codecs(tmp_path, codec, suffix, probe_bytes):
    options = {"x265-params": "log-level=none"} if codec == "libx265" else {}
    data = write_textured_video(tmp_path / f"good{suffix}", codec=codec, options=options).read_bytes()
    assert probe_bytes(data, name="a" + suffix).status == "ok"
    assert probe_bytes(cut(0.9)(data), name="b" + suffix).status == "bad"
    half = data[: len(data) // 2 | 1]  # odd: not at a packet's end, which in a transport stream would not show
    assert probe_bytes(half, name="c" + suffix).status == "bad"
    zeroed = replace_range(data, len(data) // 3, bytes(len(data) // 4))
    assert probe_bytes(zeroed, name="d" + suffix).status == "bad"


def test_a_fragmented_mp4_without_its_last_fragments_is_bad(tmp_path, probe_bytes):
    fragments = {"movflags": "frag_keyframe+empty_moov"}
    data = write_textured_video(tmp_path / "good.mp4", container_options=fragments).read_bytes()
    assert probe_bytes(data).status == "ok"
    assert probe_bytes(cut(0.8)(data)).tail_is_missing


def test_a_wmv_that_is_too_short_for_what_it_declares_is_bad(tmp_path, probe_bytes):
    data = write_textured_video(tmp_path / "good.wmv", codec="wmv2", options={"g": "10"}).read_bytes()
    assert probe_bytes(data, name="a.wmv").status == "ok"
    half = len(data) // 2
    for part in range(40, 100, 6):
        verdict = probe_bytes(data[: len(data) * part // 100], name="b.wmv")
        assert verdict.status == "bad" and verdict.tail_is_missing and verdict.promised_frames >= verdict.frames
    assert probe_bytes(data[:half] + data[half + 3200 :], name="c.wmv").tail_is_missing
    live = bytearray(data)
    live[data.index(promises.ASF_FILE_PROPERTIES) + 88] |= promises.ASF_BROADCAST
    assert probe_bytes(bytes(live), name="d.wmv").status == "ok"


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


@pytest.mark.parametrize("codec, suffix", [("libx264", ".mkv"), ("libvpx-vp9", ".webm")])
def test_the_first_bytes_of_a_matroska_file_are_bad(tmp_path, codec, suffix, probe_bytes):
    data = write_textured_video(tmp_path / f"good{suffix}", 5, codec=codec, options={}).read_bytes()
    reasons = []
    for size in range(1, 640, 13):
        verdict = probe_bytes(data[:size], name=f"a{suffix}")
        assert verdict.status == "bad"
        reasons.append(verdict.reason)
    assert "cut short within its header" in reasons, "FFmpeg calls it an input/output error"


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


@pytest.mark.parametrize("prober", PROBERS)
def test_damage_can_be_tolerated(good, prober, probe_bytes):
    damaged = DAMAGES["zeroed block at the end"](good)
    assert probe_bytes(damaged, ProbeOptions(prober, max_corrupt_frames=0)).status == "bad"
    verdict = probe_bytes(damaged, ProbeOptions(prober, max_corrupt_frames=20))
    assert verdict.status == "ok" and verdict.reason.startswith("tolerated: ")
    assert probe_bytes(DAMAGES["encrypted"](good), ProbeOptions(prober, 1000)).status == "bad", "no frame"
