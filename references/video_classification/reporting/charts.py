"""Plots by matplotlib, which is optional: imported when the first plot is made."""

import io
import warnings
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np

from evaluation.calibration import Reliability

INK, FAINT = "#1d2733", "#d7dde4"
BLUE, ORANGE, GREEN = "#1b6ca8", "#d1600a", "#2a8a57"


@cache
def can_plot() -> bool:
    """Whether matplotlib is installed and can be imported, which one that was built for another numpy cannot."""
    try:
        import matplotlib.backends.backend_agg
        import matplotlib.backends.backend_svg
        import matplotlib.figure  # noqa: F401
    except Exception:
        return False
    return True


def curves(log: Sequence[dict[str, Any]], series: dict[str, str], unit: str) -> bytes:
    """Columns of the log over epochs, as SVG.

    Args:
        log: entries of `log.jsonl`.
        series: name in the log -> label.
        unit: of the vertical axis.
    """
    figure, axes = _figure(3.7, 2.7)
    epochs = [entry["epoch"] for entry in log]
    for (name, label), colour in zip(series.items(), (BLUE, ORANGE, GREEN), strict=False):
        values = [entry.get(name, np.nan) for entry in log]
        axes.plot(epochs, values, color=colour, marker="o", markersize=3, linewidth=1.6, label=label)
    axes.set_xlabel("epoch")
    axes.set_ylabel(unit)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.legend(frameon=False, fontsize=9)
    return _svg(figure)


def reliability_diagram(before: Reliability, after: Reliability | None) -> bytes:
    """Share of right predictions over their probability, with how many there are, as SVG.

    Args:
        before: of the softmax outputs.
        after: at the temperature, None where there is none.
    """
    figure, axes = _figure(3.7, 2.7)
    axes.plot([0, 100], [0, 100], color=FAINT, linewidth=1.2)
    shown = [("softmax", before, BLUE)] if after is None else [("softmax", before, BLUE), ("calibrated", after, ORANGE)]
    for label, bins, colour in shown:
        filled = bins.counts > 0
        sizes = 12 + 160 * bins.counts[filled] / max(bins.counts.max(), 1)
        x, y = 100 * bins.confidence[filled], 100 * bins.accuracy[filled]
        axes.plot(x, y, color=colour, linewidth=1.2, label=label)
        axes.scatter(x, y, sizes, color=colour, alpha=0.55, linewidth=0)
    axes.set_xlabel("probability of the prediction, %")
    axes.set_ylabel("right, %")
    axes.set_xlim(0, 102)
    axes.set_ylim(-3, 103)
    axes.legend(frameon=False, fontsize=9, loc="lower right")
    return _svg(figure)


def confusion_image(matrix: np.ndarray, classes: Sequence[str]) -> np.ndarray:
    """The confusion matrix with its labels, shares of each row, uint8 RGB (H, W, 3); legible for 92 classes.

    Args:
        matrix: counts (num_classes, num_classes), rows true, columns predicted.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    side = 2.5 + 0.17 * len(classes)
    figure, axes = _figure(side, side)
    shares = matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    names = [name if len(name) <= 32 else f"{name[:31]}…" for name in classes]
    places = range(len(names))
    # A `$` in a class name is no formula.
    axes.set_xticks(places, names, rotation=90, fontsize=8, parse_math=False)
    axes.set_yticks(places, names, fontsize=8, parse_math=False)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    canvas = FigureCanvasAgg(figure)
    with warnings.catch_warnings():
        # Its font lacks the characters of some languages: their places are drawn as boxes.
        warnings.filterwarnings("ignore", "Glyph .* missing from")
        canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def _figure(width: float, height: float):
    """A figure of this size in inches, and its axes. Not by pyplot, which would keep it and choose a window system."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=100, layout="constrained")
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(True, color=FAINT, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(colors=INK, labelsize=9)
    return figure, axes


def _svg(figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return buffer.getvalue()
