import av
import pytest

from helpers.numbered_videos import frame_number, write_numbered_video


@pytest.mark.parametrize("codec, suffix", [("libx264", ".mp4"), ("mpeg4", ".avi"), ("libvpx-vp9", ".webm")])
def test_the_number_survives_coding(tmp_path, codec, suffix):
    path = write_numbered_video(tmp_path / f"video{suffix}", 40, codec=codec)
    with av.open(str(path)) as container:
        assert [frame_number(f.to_ndarray(format="rgb24")) for f in container.decode(video=0)] == list(range(40))
