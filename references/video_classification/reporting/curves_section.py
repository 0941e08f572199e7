"""The report's plots, each with its numbers in words, and the epochs as a table for those who have no plots."""

import base64
from collections.abc import Sequence
from typing import Any

from reporting import charts
from reporting.report_content import Report, escape
from runtime.errors import REQUIREMENTS

LOSSES = {"train_loss": "training", "val_loss": "validation"}
ACCURACIES = {"train_clip_acc1": "training clips", "val_video_acc1": "validation videos"}
CURVES = (
    ("Loss", LOSSES, "cross-entropy"),
    ("Accuracy", ACCURACIES, "Acc@1, %"),
    ("Learning rate", {"lr": "after the epoch"}, "rate"),
)
COLUMNS = {
    "epoch": ("Epoch", "{:d}"),
    "train_loss": ("Training loss", "{:.4f}"),
    "val_loss": ("Validation loss", "{:.4f}"),
    "train_clip_acc1": ("Training Acc@1", "{:.2f}"),
    "val_video_acc1": ("Video Acc@1", "{:.2f}"),
    "val_video_acc5": ("Video Acc@5", "{:.2f}"),
    "lr": ("Rate", "{:.2e}"),
    "seconds": ("Seconds", "{:.1f}"),
}


def curves_section(report: Report) -> str:
    """Did it converge? Plots where matplotlib works, and the numbers in any case."""
    if not charts.can_plot():
        return (
            "<p><strong>No plots:</strong> matplotlib is not installed, or cannot be imported (pip install -r "
            f"{escape(REQUIREMENTS.name)}). Nothing else is missing.</p>{_log_table(report.log, is_open=True)}"
        )
    figures = [
        _figure(title, charts.curves(report.log, series, unit), _in_words(report.log, series))
        for title, series, unit in CURVES
        if report.log
    ]
    figures.append(_reliability_figure(report))
    return f'<div class="plots">{"".join(figures)}</div>{_log_table(report.log, is_open=False)}'


def _figure(title: str, svg: bytes, words: str) -> str:
    source = base64.b64encode(svg).decode()
    image = f'<img src="data:image/svg+xml;base64,{source}" alt="{escape(f"{title}. {words}")}">'
    return f"<figure><figcaption>{escape(title)}</figcaption>{image}</figure>"


def _in_words(log: Sequence[dict[str, Any]], series: dict[str, str]) -> str:
    sentences = []
    for name, label in series.items():
        points = [(entry[name], entry["epoch"]) for entry in log if entry.get(name) is not None]
        if points:
            (lowest, at_lowest), (highest, at_highest) = min(points), max(points)
            sentences.append(
                f"{label}: {points[0][0]:.4g} at first, {points[-1][0]:.4g} at last, lowest {lowest:.4g} in epoch "
                f"{at_lowest}, highest {highest:.4g} in epoch {at_highest}"
            )
    return "; ".join(sentences)


def _reliability_figure(report: Report) -> str:
    evaluation = report.evaluation
    before = evaluation.reliability(1.0)
    after = None if evaluation.temperature == 1 else evaluation.reliability(evaluation.temperature)
    bins = before if after is None else after
    words = ", ".join(
        f"{100 * confidence:.0f} % sure: {100 * accuracy:.0f} % right ({count} videos)"
        for count, confidence, accuracy in zip(*bins, strict=True)
        if count
    )
    return _figure("Is it as sure as it is right", charts.reliability_diagram(before, after), words)


def _log_table(log: Sequence[dict[str, Any]], is_open: bool) -> str:
    if not log:
        return '<p class="quiet">No log of the training lies beside the checkpoint.</p>'
    shown = {name: column for name, column in COLUMNS.items() if any(name in entry for entry in log)}
    head = "".join(f'<th scope="col" class="number">{title}</th>' for title, _ in shown.values())
    rows = "".join(
        "<tr>"
        + "".join(
            f'<td class="number">{"" if entry.get(name) is None else form.format(entry[name])}</td>'
            for name, (_, form) in shown.items()
        )
        + "</tr>"
        for entry in log
    )
    table = f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>'
    return f"<details{' open' if is_open else ''}><summary>The numbers, epoch by epoch</summary>{table}</details>"
