import builtins

import numpy as np
import pytest

from evaluation.calibration import reliability
from helpers.evaluations import class_names, made_up_log

pytest.importorskip("matplotlib")
from reporting import charts  # noqa: E402


def test_curves_are_svg_and_take_what_is_missing():
    log = made_up_log(4)
    log[1]["val_loss"] = float("nan")
    del log[2]["val_loss"]
    assert b"<svg" in charts.curves(log, {"train_loss": "training", "val_loss": "validation"}, "loss")


@pytest.mark.parametrize("count", [0, 1, 200])
def test_the_reliability_diagram_takes_few_videos_and_many(count):
    generator = np.random.default_rng(0)
    bins = reliability(generator.random(count), generator.random(count) > 0.5)
    assert b"<svg" in charts.reliability_diagram(bins, None) and b"<svg" in charts.reliability_diagram(bins, bins)


def test_the_confusion_image_of_92_classes_leaves_each_label_its_line():
    image = charts.confusion_image(np.eye(92, dtype=int), class_names(91) + ["$not$ a $formula"])
    assert image.dtype == np.uint8 and image.shape[2] == 3
    assert min(image.shape[:2]) >= 92 * 14  # pixels, of text that is 11 pixels high


@pytest.mark.parametrize("error", [ImportError("built for another numpy"), AttributeError("_ARRAY_API not found")])
def test_a_matplotlib_that_is_found_but_does_not_work_plots_nothing(monkeypatch, error):
    real = builtins.__import__

    def broken(name, *rest):
        if name.startswith("matplotlib"):
            raise error
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", broken)
    charts.can_plot.cache_clear()
    try:
        assert not charts.can_plot()
    finally:
        charts.can_plot.cache_clear()


def test_class_names_that_the_font_lacks_are_drawn_without_a_warning():
    assert charts.confusion_image(np.eye(2, dtype=int), ["深蹲", "スクワット"]).any()
