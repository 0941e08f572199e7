"""Charts, read back from their SVG."""

import math
from xml.etree import ElementTree

import numpy as np
import pytest

from evaluation.calibration import reliability
from helpers.evaluations import made_up_log
from reporting.charts import BOTTOM, LEFT, RIGHT, TOP, Axis, curves, reliability_diagram

COLUMNS = {"train_loss": "training", "val_loss": "validation"}


def elements(figure, name, kind=None):
    found = ElementTree.fromstring(figure).iter(name)
    return [element for element in found if kind is None or element.get("class") == kind]


def lines_of(figure, series):
    """The points of a series, a list for each uninterrupted line."""
    (group,) = elements(figure, "g", series)
    return [
        [tuple(map(float, point.split(","))) for point in line.get("points").split()] for line in group.iter("polyline")
    ]


@pytest.mark.parametrize(
    "low, high, smallest_step, expected",
    [
        (0, 100, 0, [0, 20, 40, 60, 80, 100]),
        (0, 5, 0, [0, 1, 2, 3, 4, 5]),
        (-0.3, 0.6, 0, [-0.2, 0, 0.2, 0.4, 0.6]),
        (0, 2, 1, [0, 1, 2]),
        (0, 44, 1, [0, 10, 20, 30, 40]),
        (1e-6, 3e-6, 0, [1e-6, 1.5e-6, 2e-6, 2.5e-6, 3e-6]),
    ],
)
def test_ticks_are_round_numbers(low, high, smallest_step, expected):
    assert Axis("", low, high, smallest_step).ticks == pytest.approx(expected)


@pytest.mark.parametrize(
    "values, ends",
    [([0.31, 1.9], (0, 2)), ([12.5, 97.0], (0, 100)), ([5.0], (2, 8)), ([0.0, 0.0], (-0.6, 0.6)), ([], (0, 1))],
)
def test_an_axis_goes_from_tick_to_tick_around_its_values(values, ends):
    axis = Axis.around("", values)
    assert (axis.low, axis.high) == pytest.approx(ends)


def test_points_are_where_their_values_are():
    log = [{"epoch": 3, "train_loss": 0.0}, {"epoch": 4, "train_loss": 1.0}, {"epoch": 7, "train_loss": 5.0}]
    (points,) = lines_of(curves("Loss", "unit", log, {"train_loss": "training"}), "series-0")
    width, height = RIGHT - LEFT, BOTTOM - TOP
    expected = [(LEFT, BOTTOM), (LEFT + width / 4, BOTTOM - height / 5), (RIGHT, TOP)]
    assert np.array(points) == pytest.approx(np.array(expected), abs=0.051)


def test_a_line_is_interrupted_where_a_value_is_missing():
    log = made_up_log(6)
    log[1]["val_loss"], log[3]["val_loss"] = float("nan"), None
    del log[4]["val_loss"]
    figure = curves("Loss", "unit", log, COLUMNS)
    assert [len(line) for line in lines_of(figure, "series-0")] == [6]
    assert [len(line) for line in lines_of(figure, "series-1")] == [1, 1, 1]
    assert len(elements(figure, "circle")) == 9
    assert all(math.isfinite(float(circle.get("cy"))) for circle in elements(figure, "circle"))


def test_each_epoch_has_its_values_under_the_pointer():
    log = made_up_log(5)
    bands = elements(curves("Loss", "unit", log, COLUMNS), "g", "reading")
    for entry, band in zip(log, bands, strict=True):
        expected = f"epoch {entry['epoch']}: training {entry['train_loss']:.4g}, validation {entry['val_loss']:.4g}"
        assert band.find("text").text == expected
    rects = [band.find("rect") for band in bands]
    starts = [float(rect.get("x")) for rect in rects]
    ends = [start + float(rect.get("width")) for start, rect in zip(starts, rects, strict=True)]
    assert [*starts, RIGHT] == pytest.approx([LEFT, *ends], abs=0.02)  # they leave no gap


@pytest.mark.parametrize("epochs", [1, 2, 300])
def test_few_epochs_and_many(epochs):
    figure = curves("Loss", "unit", made_up_log(epochs), COLUMNS)
    assert len(elements(figure, "g", "reading")) == epochs
    assert len(elements(figure, "circle")) == (2 * epochs if epochs <= 40 else 0)
    places = [point for line in lines_of(figure, "series-1") for point in line]
    assert len(places) == epochs and all(LEFT <= x <= RIGHT and TOP <= y <= BOTTOM for x, y in places)


def test_a_column_without_values_is_an_empty_chart():
    figure = curves("Loss", "unit", [{"epoch": 0}], {"train_loss": "training"})
    assert elements(figure, "circle") == [] and "no values" in figure


@pytest.mark.parametrize("count", [0, 1, 200])
def test_the_reliability_diagram_takes_few_videos_and_many(count):
    generator = np.random.default_rng(0)
    bins = reliability(generator.random(count), generator.random(count) > 0.5)
    filled = int((bins.counts > 0).sum())
    assert len(elements(reliability_diagram("R", bins, None), "circle")) == filled
    figure = reliability_diagram("R", bins, bins)
    assert len(elements(figure, "circle")) == 2 * filled and "calibrated" in figure


def test_the_reliability_diagram_places_a_bin_by_its_means():
    figure = reliability_diagram("R", reliability(np.array([0.9, 0.92, 0.5]), np.array([True, False, True])), None)
    dots = [[float(circle.get(name)) for name in ("cx", "cy", "r")] for circle in elements(figure, "circle")]
    width, middle = RIGHT - LEFT, (TOP + BOTTOM) / 2
    expected = [[LEFT + 0.5 * width, TOP, 2 + 7 * math.sqrt(0.5)], [LEFT + 0.91 * width, middle, 9]]
    assert np.array(dots) == pytest.approx(np.array(expected), abs=0.051)
    words = elements(figure, "svg")[0].get("aria-label")
    assert words == "R. 50 % sure: 100 % right (1 video), 91 % sure: 50 % right (2 videos)"
