"""Charts as inline SVG. Colours come from the style of the page; values are shown while the pointer is over them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from typing import Any

from evaluation.calibration import Reliability
from reporting.markup import Markup, join, tag

WIDTH, HEIGHT = 380, 230
LEFT, RIGHT, TOP, BOTTOM = 58, 370, 22, 188  # of the plotting area; readings are above it, labels below
TICKS = 5  # at most, on an axis
LARGEST_DOTTED = 40  # points of a line; more would hide it


@dataclass(frozen=True)
class Axis:
    """A linear scale from `low` to `high`."""

    label: str
    low: float
    high: float
    smallest_step: float = 0.0  # between ticks

    @classmethod
    def around(cls, label: str, values: Sequence[float]) -> "Axis":
        """The scale from tick to tick that holds `values`."""
        low, high = min(values, default=0.0), max(values, default=1.0)
        if low == high:
            low, high = low - (abs(low) or 1) / 2, high + (abs(high) or 1) / 2
        step = cls(label, low, high).step
        return cls(label, step * math.floor(low / step + 1e-9), step * math.ceil(high / step - 1e-9))

    @property
    def step(self) -> float:
        """The distance of the ticks: 1, 2 or 5 times a power of ten."""
        least = max((self.high - self.low) / TICKS, self.smallest_step)
        power = 10.0 ** math.floor(math.log10(least))
        return next(power * factor for factor in (1, 2, 5, 10) if power * factor >= least * (1 - 1e-9))

    @property
    def ticks(self) -> list[float]:
        """The multiples of `step` on the axis."""
        first, last = math.ceil(self.low / self.step - 1e-9), math.floor(self.high / self.step + 1e-9)
        return [number * self.step for number in range(first, last + 1)]

    def place(self, value: float, start: float, end: float) -> float:
        """Where `value` lies between `start` and `end` of the drawing."""
        return round(start + (value - self.low) / (self.high - self.low) * (end - start), 1)


@dataclass(frozen=True)
class Series:
    """A line with dots; it is interrupted where y is not finite."""

    label: str
    points: Sequence[tuple[float, float]]
    radii: Sequence[float] = ()  # of the dots; empty: all alike


def curves(title: str, unit: str, log: Sequence[dict[str, Any]], columns: dict[str, str]) -> Markup:
    """Columns of the log over the epochs.

    Args:
        title, unit: of the figure, and label of its vertical axis.
        log: entries of `log.jsonl`.
        columns: labels by name in the log.
    """
    epochs = [entry["epoch"] for entry in log]
    found = {
        label: [math.nan if entry.get(name) is None else entry[name] for entry in log]
        for name, label in columns.items()
    }
    readings = [
        (epoch, f"epoch {epoch}: " + ", ".join(f"{label} {value:.4g}" for label, value in zip(found, row, strict=True)))
        for epoch, *row in zip(epochs, *found.values(), strict=True)
    ]
    finite = [value for values in found.values() for value in values if math.isfinite(value)]
    span = (epochs[0], epochs[-1]) if epochs[0] < epochs[-1] else (epochs[0] - 0.5, epochs[0] + 0.5)
    return figure(
        title,
        [Series(label, list(zip(epochs, values, strict=True))) for label, values in found.items()],
        Axis("epoch", *span, smallest_step=1),
        Axis.around(unit, finite),
        readings,
        spoken="; ".join(_in_words(label, epochs, values) for label, values in found.items()),
    )


def reliability_diagram(title: str, before: Reliability, after: Reliability | None) -> Markup:
    """The share of right predictions over their probability; larger dots stand for more videos.

    `before` is of the softmax outputs, `after` at the temperature, None where there is none.
    """
    bins = {"softmax": before} if after is None else {"softmax": before, "calibrated": after}
    lines = []
    for label, found in bins.items():
        filled = found.counts > 0
        points = list(zip(100 * found.confidence[filled], 100 * found.accuracy[filled], strict=True))
        lines.append(Series(label, points, [2 + 7 * math.sqrt(n / found.counts.max()) for n in found.counts[filled]]))
    counts = (after or before).counts
    readings = [
        (x, f"{x:.0f} % sure: {y:.0f} % right ({count} video{'s' if count > 1 else ''})")
        for (x, y), count in zip(lines[-1].points, counts[counts > 0], strict=True)
    ]
    axes = Axis("probability of the prediction, %", 0, 100), Axis("right, %", 0, 100)
    return figure(title, lines, *axes, readings, spoken=", ".join(text for _, text in readings), diagonal=True)


def figure(
    title: str,
    series: Sequence[Series],
    x_axis: Axis,
    y_axis: Axis,
    readings: Sequence[tuple[float, str]],
    *,
    spoken: str,
    diagonal: bool = False,
) -> Markup:
    """A line chart with its title and legend.

    Args:
        title, series: of the figure, and its lines.
        x_axis, y_axis: their scales.
        readings: what is shown while the pointer is nearest to an x, as (x, text).
        spoken: the chart in words, for screen readers.
        diagonal: whether to draw the line from the lower left to the upper right corner.
    """
    keys = [tag("span", line.label, class_=f"key series-{i}") for i, line in enumerate(series)]
    drawing = tag(
        "svg",
        _grid(x_axis, y_axis),
        *([_line("diagonal", LEFT, BOTTOM, RIGHT, TOP)] if diagonal else []),
        *(_drawn(line, x_axis, y_axis, f"series-{i}") for i, line in enumerate(series)),
        *_readings(x_axis, readings),
        viewBox=f"0 0 {WIDTH} {HEIGHT}",
        class_="chart",
        role="img",
        aria_label=f"{title}. {spoken}",
    )
    return tag("figure", tag("figcaption", title), tag("p", *keys, class_="legend"), drawing)


def _in_words(label: str, epochs: Sequence[int], values: Sequence[float]) -> str:
    points = [(value, epoch) for value, epoch in zip(values, epochs, strict=True) if math.isfinite(value)]
    if not points:
        return f"{label}: no values"
    (lowest, at_lowest), (highest, at_highest) = min(points), max(points)
    return (
        f"{label}: {points[0][0]:.4g} at first, {points[-1][0]:.4g} at last, "
        f"lowest {lowest:.4g} in epoch {at_lowest}, highest {highest:.4g} in epoch {at_highest}"
    )


def _line(kind: str, x1: float, y1: float, x2: float, y2: float) -> Markup:
    return tag("line", x1=x1, y1=y1, x2=x2, y2=y2, class_=kind)


def _grid(x_axis: Axis, y_axis: Axis) -> Markup:
    parts = []
    for tick in y_axis.ticks:
        y = y_axis.place(tick, BOTTOM, TOP)
        parts += [_line("grid", LEFT, y, RIGHT, y), tag("text", f"{tick:g}", x=LEFT - 6, y=y + 4, class_="end")]
    for tick in x_axis.ticks:
        x = x_axis.place(tick, LEFT, RIGHT)
        parts += [
            _line("grid", x, BOTTOM, x, BOTTOM + 4),
            tag("text", f"{tick:g}", x=x, y=BOTTOM + 17, class_="middle"),
        ]
    middle = (TOP + BOTTOM) / 2
    parts.append(tag("text", x_axis.label, x=(LEFT + RIGHT) / 2, y=HEIGHT - 6, class_="middle"))
    parts.append(tag("text", y_axis.label, x=11, y=middle, class_="middle", transform=f"rotate(-90 11 {middle})"))
    return join(parts)


def _drawn(series: Series, x_axis: Axis, y_axis: Axis, kind: str) -> Markup:
    parts = []
    for is_finite, run in groupby(series.points, lambda point: math.isfinite(point[1])):
        if is_finite:
            places = [f"{x_axis.place(x, LEFT, RIGHT)},{y_axis.place(y, BOTTOM, TOP)}" for x, y in run]
            parts.append(tag("polyline", points=" ".join(places)))
    if len(series.points) <= LARGEST_DOTTED:
        for (x, y), radius in zip(series.points, series.radii or [2.5] * len(series.points), strict=True):
            if math.isfinite(y):
                cx, cy = x_axis.place(x, LEFT, RIGHT), y_axis.place(y, BOTTOM, TOP)
                parts.append(tag("circle", cx=cx, cy=cy, r=round(radius, 1)))
    return tag("g", *parts, class_=kind)


def _readings(x_axis: Axis, readings: Sequence[tuple[float, str]]) -> list[Markup]:
    """Bands from top to bottom, each around one x; the style shows the text of the one under the pointer."""
    places = [x_axis.place(x, LEFT, RIGHT) for x, _ in readings]
    middles = [(a + b) / 2 for a, b in pairwise(places)]
    return [
        tag(
            "g",
            tag("rect", x=start, y=0, width=round(end - start, 2), height=BOTTOM),
            _line("cursor", place, TOP, place, BOTTOM),
            tag("text", text, x=LEFT, y=13),
            class_="reading",
        )
        for place, start, end, (_, text) in zip(places, [LEFT, *middles], [*middles, RIGHT], readings, strict=False)
    ]
