import shutil
from pathlib import Path

import pytest

from caching.cache_building import DecodeStrip
from helpers.small_datasets import write_moving_bar


@pytest.fixture(scope="session")
def four_videos(tmp_path_factory):
    """Written once, as encoding takes longest; not to be changed."""
    root = tmp_path_factory.mktemp("four_videos")
    for i in range(4):
        write_moving_bar(root / "abc"[i % 3] / f"{i}.mp4", seed=i, num_frames=30 + i)
    return root


@pytest.fixture
def root(four_videos, tmp_path):
    return shutil.copytree(four_videos, tmp_path / "data")


@pytest.fixture
def decoded(monkeypatch):
    """The names of the files that were decoded for a cache."""
    names = []
    real = DecodeStrip.__call__

    def decode(self, path):
        names.append(Path(path).name)
        return real(self, path)

    monkeypatch.setattr(DecodeStrip, "__call__", decode)
    return names
