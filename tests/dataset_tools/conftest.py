import os
import tempfile
from pathlib import Path

import imageio_ffmpeg
import pytest

from helpers.damaged_videos import write_textured_video
from references.dataset_tools.probing import ProbeOptions, probe


@pytest.fixture(scope="module")
def ffmpeg_on_path(tmp_path_factory):
    """The `ffmpeg` program, for --prober ffmpeg."""
    folder = tmp_path_factory.mktemp("bin")
    (folder / "ffmpeg").symlink_to(imageio_ffmpeg.get_ffmpeg_exe())
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", str(folder), prepend=os.pathsep)
        yield


@pytest.fixture(scope="session")
def good(tmp_path_factory) -> bytes:
    """A good MP4 of 40 frames, with its header before its data."""
    path = tmp_path_factory.mktemp("good") / "good.mp4"
    return write_textured_video(path, container_options={"movflags": "faststart"}).read_bytes()


@pytest.fixture
def probe_bytes(tmp_path):
    """A function that probes a file of these bytes."""

    def probe_them(data: bytes, options: ProbeOptions | None = None, name: str = "video.mp4"):
        (tmp_path / name).write_bytes(data)
        return probe(str(tmp_path / name), options or ProbeOptions())

    return probe_them


@pytest.fixture
def other_file_system(tmp_path):
    if not os.access("/dev/shm", os.W_OK) or os.stat("/dev/shm").st_dev == os.stat(tmp_path).st_dev:
        pytest.skip("there is no second file system")
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        yield Path(folder)
