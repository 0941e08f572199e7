import pytest

from helpers.evaluations import made_up_evaluation, made_up_log, made_up_mistakes
from reporting.tensorboard_log import TAGS, TensorBoardLog
from runtime.errors import MissingExtra


def test_the_events_hold_numbers_mistakes_and_confusions(tmp_path):
    pytest.importorskip("tensorboard")
    pytest.importorskip("matplotlib")
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
