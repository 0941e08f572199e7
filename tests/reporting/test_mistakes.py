import io

import av
import numpy as np
import pytest
import torch

from clips.dataset import ClipDataset, DecodingReader
from clips.preprocessing import Preprocessing
from helpers.evaluations import results_of
from helpers.numbered_videos import frame_number, write_numbered_video
from reporting.mistakes import jpegs, worst_mistakes
from reporting.result_files import Evaluation
from videos.folder import VideoFolder
from videos.frame_selection import VideoTiming, official_clip


@pytest.fixture
def dataset(tmp_path):
    """Four videos of two classes whose frames carry their numbers."""
    for name in ("a/0.mp4", "a/1.mp4", "b/2.mp4", "b/3.mp4"):
        write_numbered_video(tmp_path / name, 150)
    folder = VideoFolder(tmp_path)
    preprocessing = Preprocessing(8, resize_size=(64, 96), crop_size=(64, 96))
    return ClipDataset(folder, lambda _: VideoTiming(150, 30.0), DecodingReader(folder, preprocessing), preprocessing)


def evaluation_of(dataset, scores, **fields):
    results = results_of(torch.tensor(scores, dtype=torch.float64), torch.from_numpy(dataset.folder.labels))
    return Evaluation(results, dataset.folder.names.strings(), ["a", "b"], "rule", "pixels", **fields)


def test_the_surest_come_first_and_right_ones_not_at_all(dataset):
    evaluation = evaluation_of(dataset, [[0.9, 0.1], [0.4, 0.6], [0.7, 0.3], [0.95, 0.05]])
    found = worst_mistakes(evaluation, dataset, 5)
    assert [(m.path, m.label, m.prediction) for m in found] == [
        *(("b/3.mp4", "b", "a"), ("b/2.mp4", "b", "a"), ("a/1.mp4", "a", "b")),
    ]
    assert [m.probability for m in found] == pytest.approx([0.95, 0.7, 0.6])
    assert [m.label_probability for m in found] == pytest.approx([0.05, 0.3, 0.4])
    assert [m.path for m in worst_mistakes(evaluation, dataset, 1)] == ["b/3.mp4"]


def test_probabilities_are_those_at_the_temperature(dataset):
    evaluation = evaluation_of(dataset, [[0.9, 0.1]] * 4, temperature=2.0)
    assert worst_mistakes(evaluation, dataset, 1)[0].probability == pytest.approx(3 / 4)  # odds 9:1 become 3:1


def test_the_frames_are_those_that_the_network_saw(dataset):
    evaluation = evaluation_of(dataset, [[0.9, 0.1]] * 4)
    mistake = worst_mistakes(evaluation, dataset, 1)[0]
    expected = official_clip(150, 30.0, 4, 8).tolist()
    assert mistake.indices == expected and mistake.frames.dtype == np.uint8
    assert [frame_number(frame) for frame in mistake.frames] == expected


def test_outputs_that_are_no_numbers_are_no_mistakes_to_show(dataset):
    assert worst_mistakes(evaluation_of(dataset, [[torch.nan, 0.1]] * 4), dataset, 5) == []


@pytest.mark.parametrize("height, width", [(112, 112), (27, 35), (1, 1)])
def test_jpegs_show_the_frames(height, width):
    down, across = np.mgrid[:height, :width]
    frame = np.stack([2 * down, 2 * across, down + across], -1).astype(np.uint8)
    frames = np.stack([frame, 255 - frame, np.zeros_like(frame)])
    files = jpegs(frames)
    assert len(files) == 3
    for data, expected in zip(files, frames, strict=True):
        with av.open(io.BytesIO(data), format="mjpeg") as container:
            found = next(container.decode(video=0)).to_ndarray(format="rgb24")
        assert np.abs(found.astype(int) - expected).max() <= 12
