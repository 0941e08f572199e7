"""Frames that nobody asks for are left out by the decoder: whatever an encoder makes refer to what, the others stay."""

import numpy as np
import pytest

from helpers.damaged_videos import write_textured_video
from helpers.numbered_videos import decode_all
from videos import decoding
from videos.decoding import read_frames

pytestmark = pytest.mark.evaluator

STRUCTURES = {
    "b-frames": "bframes=3:keyint=24:b-pyramid=none",
    "b-pyramid": "bframes=7:b-pyramid=normal:b-adapt=0",
    "strict b-pyramid": "bframes=5:b-pyramid=strict:b-adapt=0:ref=6",
    "many references": "bframes=3:ref=16:b-adapt=0:direct=temporal",
    "weighted": "bframes=3:weightp=2:weightb=1",
    "open groups": "bframes=3:open-gop=1:keyint=12:b-adapt=0",
    "intra refresh": "bframes=0:intra-refresh=1:keyint=20",
    "slices": "bframes=3:slices=4:b-adapt=0",
    "key frames only": "keyint=1",
    "no b-frames": "bframes=0",
    "lossless": "bframes=3:qp=0",
    "constrained": "bframes=3:constrained-intra=1:scenecut=0:keyint=250",
    "long delay": "bframes=16:b-adapt=0:b-pyramid=normal:keyint=60",
}


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".ts"])
@pytest.mark.parametrize("structure", STRUCTURES)
def test_what_is_asked_for_is_that_of_a_whole_decode(tmp_path, monkeypatch, structure, suffix):
    options = {"x264-params": STRUCTURES[structure]}
    path = write_textured_video(tmp_path / f"v{suffix}", 50, options=options)
    shown = decode_all(path)
    decoded = []
    count = decoding._PacketScan.add
    monkeypatch.setattr(
        decoding._PacketScan, "add", lambda self, packet, new: decoded.extend(new) or count(self, packet, new)
    )
    for wanted in [*([i] for i in range(50)), range(0, 50, 7), range(3, 50, 9), range(20), range(50)]:
        decoded.clear()
        frames = read_frames(path, wanted)
        assert all(np.array_equal(frame.numpy(), shown[i]) for frame, i in zip(frames, wanted, strict=True)), wanted
    has_b_frames = structure not in ("intra refresh", "key frames only", "no b-frames", "lossless")
    decoded.clear()
    read_frames(path, [0, 49])
    assert (len(decoded) < 45) == (has_b_frames and suffix != ".ts")
