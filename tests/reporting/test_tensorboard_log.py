import numpy as np
import pytest

from helpers.evaluations import made_up_evaluation, made_up_log, made_up_mistakes
from helpers.extras import require_extra
from reporting.tensorboard_log import TAGS, TensorBoardLog, confusion_image
from runtime.errors import MissingExtra


def test_the_events_hold_numbers_mistakes_and_confusions(tmp_path):
    require_extra("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    evaluation = made_up_evaluation(4, 6, classes=["<b>a</b>", "$x$", "c\udcff", "d"])
    log = TensorBoardLog(tmp_path, 0)
    for entry in made_up_log(3):
        log.add_epoch(entry)
    log.add_evaluation(evaluation, made_up_mistakes(evaluation, 2, num_frames=4), 2)
    log.close()
    events = EventAccumulator(str(tmp_path / "tensorboard"), {"images": 0, "scalars": 0})
    events.Reload()
    assert set(TAGS.values()) <= set(events.Tags()["scalars"])
    losses = {event.step: event.value for event in events.Scalars("loss/train")}
    assert losses == pytest.approx({0: 2.0, 1: 1.0, 2: 2 / 3})
    assert events.Scalars("evaluation/video_acc1")[0].value == pytest.approx(evaluation.results.video.top1)
    assert {"worst_mistakes/1", "worst_mistakes/2", "confusion_matrix"} <= set(events.Tags()["images"])
    strip = events.Images("worst_mistakes/1")[0]
    assert (strip.height, strip.width) == (112, 4 * 112)


def test_without_the_package_it_is_said_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "tensorboard", None)
    with pytest.raises(MissingExtra, match="references/video_classification/requirements-extras.txt"):
        TensorBoardLog(tmp_path, 0)
    assert not list(tmp_path.iterdir())


def test_a_cell_of_the_confusion_image_is_as_dark_as_its_share_of_the_row():
    image = confusion_image(np.array([[3, 1], [0, 0]]))
    assert image.dtype == np.uint8 and image.shape == (512, 512, 3)
    assert [image[y, x].tolist() for y, x in ((0, 0), (255, 256), (256, 255), (511, 511))] == [
        [70, 100, 144],  # three quarters of the way from white to (8, 48, 107)
        [193, 203, 218],
        [255, 255, 255],  # a class without videos
        [255, 255, 255],
    ]
    assert confusion_image(np.eye(92, dtype=int)).shape == (552, 552, 3)
