import pickle

from benchmarks import input
from benchmarks.measuring import AnyVideos, BenchmarkOptions
from clips.preprocessing import Preprocessing
from helpers.small_datasets import make_dataset


def test_workers_that_decode_are_not_sent_the_frames_of_a_cache(tmp_path, monkeypatch):
    """They would be pickled for each worker: hundreds of megabytes that no uncached run sends."""
    videos = AnyVideos(make_dataset(tmp_path / "videos", ["a", "b"], num_train=2, num_val=1))
    preprocessing = Preprocessing(4, resize_size=(64, 80), crop_size=(56, 56))
    sizes = {"workers": 1, "rounds": 1, "batch_size": 2, "steps": 1}
    options = BenchmarkOptions(videos, tmp_path, "cpu", "off", preprocessing, **sizes, model="mc3_18")
    sent = []

    class Loader(input.ClipLoader):
        def __init__(self, dataset, *args):
            sent.append(len(pickle.dumps(dataset)))
            super().__init__(dataset, *args)

    monkeypatch.setattr(input, "ClipLoader", Loader)
    monkeypatch.setattr(input, "CLIPS_FROM_VIDEOS", 4)
    figures = input._from_videos(options)
    assert figures["loader_cold_clips_per_second"] > 0
    assert sent and max(sent) < 20_000 < 4 * 64 * 80 * 3 * len(videos)
