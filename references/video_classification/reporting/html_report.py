"""`report.html`: the result of a validation in one file that needs no network. A section is a function from a Report to
markup; the frame of the page, its style and its script are in `report_page`.
"""

import base64
import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from string import Template
from typing import Any

import numpy as np

from evaluation.intervals import Interval
from reporting.charts import curves, reliability_diagram
from reporting.markup import Markup, breakable, join, tag
from reporting.mistakes import Mistake, jpegs
from reporting.result_files import ClassResult, Evaluation
from runtime.files import replaced_file

REPORT = "report.html"
PAGE = Path(__file__).with_name("report_page")

ACCURACIES = {
    "video_acc1": "Video Acc@1",
    "video_acc5": "Video Acc@5",
    "macro_acc1": "Macro accuracy",
    "clip_acc1": "Clip Acc@1",
    "clip_acc5": "Clip Acc@5",
}
CURVES = {  # title: unit, and labels of the log's columns
    "Loss": ("cross-entropy", {"train_loss": "training", "val_loss": "validation"}),
    "Accuracy": ("Acc@1, %", {"train_clip_acc1": "training clips", "val_video_acc1": "validation videos"}),
    "Learning rate": ("rate", {"lr": "after the epoch"}),
}
LOG_COLUMNS = {
    "epoch": ("Epoch", "{:d}"),
    "train_loss": ("Training loss", "{:.4f}"),
    "val_loss": ("Validation loss", "{:.4f}"),
    "train_clip_acc1": ("Training Acc@1", "{:.2f}"),
    "val_video_acc1": ("Video Acc@1", "{:.2f}"),
    "val_video_acc5": ("Video Acc@5", "{:.2f}"),
    "lr": ("Rate", "{:.2e}"),
    "seconds": ("Seconds", "{:.1f}"),
}
LISTED_CONFUSIONS = 20
LARGEST_ORDERED = 400  # classes; the optimal order takes cubic time
DARK_SHARE = 0.55  # of a row; cells above it take light text


@dataclass(frozen=True)
class Report:
    """The content of the page."""

    title: str
    subtitle: str
    evaluation: Evaluation
    metrics: dict[str, Any]  # the contents of `metrics.json`
    log: Sequence[dict[str, Any]] = ()  # entries of `log.jsonl`, empty where no training is known
    mistakes: Sequence[Mistake] = ()  # the worst ones
    stages: dict[str, float] = field(default_factory=dict)  # seconds by name
    settings: dict[str, dict[str, Any]] = field(default_factory=dict)  # values by name, by the title of their table
    # Of settings, by name, by the title of their table; those that equal them are folded.
    defaults: dict[str, dict[str, Any]] = field(default_factory=dict)
    device: dict[str, Any] | None = None  # the contents of `device.json`, None for a validation on this machine


def write_report(folder: Path, report: Report) -> Path:
    """Writes `report.html`, whole or not at all, and returns its path."""
    path = folder / REPORT
    with replaced_file(path) as file:
        file.write(render(report).encode())
    return path


def render(report: Report) -> str:
    """The page. All text is escaped, and the policy allows no script but the page's own."""
    script = (PAGE / "report.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    sections = {name: (title, make(report)) for name, (title, make) in SECTIONS.items()}
    return Template((PAGE / "report.html").read_text(encoding="utf-8")).substitute(
        policy=f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'",
        title=join([report.title]),
        subtitle=join([report.subtitle]),
        style=(PAGE / "report.css").read_text(encoding="utf-8"),
        script=script,
        links=join(tag("li", tag("a", title, href=f"#{name}")) for name, (title, body) in sections.items() if body),
        sections=join(
            tag("section", tag("h2", title, id=f"{name}-title"), body, id=name, aria_labelledby=f"{name}-title")
            for name, (title, body) in sections.items()
            if body
        ),
        data=_data(report.evaluation),
    )


def _data(evaluation: Evaluation) -> str:
    """Classes and videos for the script: [path, true, predicted, probability, rank of the truth] each, as JSON."""
    results = evaluation.results
    columns = (results.targets, evaluation.predictions, evaluation.probabilities, results.ranks + 1)
    rows = zip(evaluation.paths, *(column.tolist() for column in columns), strict=True)
    videos = [[path, true, predicted, round(p, 4), rank] for path, true, predicted, p, rank in rows if predicted >= 0]
    # Within a script element only `<` could end it or open a comment.
    return json.dumps({"classes": list(evaluation.classes), "videos": videos}).replace("<", "\\u003c")


def headline_section(report: Report) -> Markup:
    """The main figures, with their intervals."""
    metrics = report.metrics
    uncalibrated, temperature = metrics["expected_calibration_error_uncalibrated"], metrics["temperature"]
    before = "" if temperature == 1 else f"; {_number(uncalibrated, 3)} before temperature {temperature:.3f}"
    error = _number(metrics["expected_calibration_error"], 3)
    cards = [
        *(_accuracy_card(label, report.evaluation.accuracies[name]) for name, label in ACCURACIES.items()),
        _card("Expected calibration error", error, f"0 is best{before}"),
        _card("Loss", _number(metrics["loss"], 4), "cross-entropy, mean over clips"),
    ]
    clips = "1 clip" if metrics["clips_per_video"] == 1 else f"{metrics['clips_per_video']} clips"
    skipped, turned = metrics["videos_not_scored"], metrics["videos_turned"]
    warning = "These videos were seen in training (--train-on-val): no figure on this page tells how well the network"
    text = (
        f"{metrics['videos']} videos of {metrics['classes_with_videos']} classes, {clips} each"
        f"{f', {skipped} unreadable videos not scored' if skipped else ''}"
        f"{f', {turned} turned or mirrored for display, which the evaluator would not do' if turned else ''}; "
        f"{metrics['clip_rule']}; pixels: {metrics['pixel_path']}. The bands are 95\xa0% intervals: the range in which "
        "the accuracy on other videos of the same kind is likely to lie."
    )
    seen = [tag("p", tag("strong", f"{warning} does on others."))] if report.evaluation.seen else []
    return join([*seen, tag("p", text), tag("dl", *cards, class_="cards")])


def _accuracy_card(label: str, share: Interval) -> Markup:
    value, low, high = share.percent
    return _card(label, f"{value:.1f}", f"{low:.1f} to {high:.1f} %", " %", _span(share))


def _card(label: str, value: str, note: str, unit: str = "", drawing: Markup | None = None) -> Markup:
    shown = tag("span", value, *([tag("small", unit)] if unit else []), class_="value")
    figures = shown, drawing or tag("br"), tag("span", note, class_="quiet")
    return tag("div", tag("dt", label), tag("dd", *figures), class_="card")


def _span(share: Interval) -> Markup:
    style = "--value:{:.2f};--low:{:.2f};--high:{:.2f}".format(*share.percent)
    return tag("span", class_="span", style=style, aria_hidden="true")


def _number(value: float | None, digits: int) -> str:
    return "not a number" if value is None else f"{value:.{digits}f}"


def device_section(report: Report) -> Markup:
    """Latency and accuracy on a device, its difference from PyTorch, and the jobs that measured them."""
    device = report.device
    if device is None:
        return Markup()
    low, high = device["acc1_difference_interval"]
    verdict = "within" if device["within_limit"] else "beyond"
    difference, of_logits = f"{device['acc1_difference']:+.2f}", f"{device['largest_logit_difference']:.2g}"
    cards = (
        _card("Latency", f"{device['latency_ms']:.2f}", f"{verdict} {device['limit_ms']:g} ms", " ms"),
        _card("Acc@1 on the device", f"{device['acc1']:.1f}", f"{device['pytorch_acc1']:.1f} by PyTorch", " %"),
        _card("Acc@5 on the device", f"{device['acc5']:.1f}", f"{device['pytorch_acc5']:.1f} by PyTorch", " %"),
        _card("Device minus PyTorch", difference, f"points of Acc@1; {low:+.2f} to {high:+.2f}"),
        _card("Largest difference of a logit", of_logits, "from PyTorch"),
    )
    target = f"{device['device']}, {device['runtime']}, quantization: {device['quantize']}, {device['videos']} videos"
    text = f"{target}. The interval of the difference is a paired 95\xa0% one."
    layers = [(tag("th", unit, scope="row"), _cell(count)) for unit, count in device["layers"].items()]
    links = {name: tag("a", job["id"], href=job["url"]) for name, job in device["jobs"].items()}
    jobs = [(tag("th", name, scope="row"), _cell(link, None)) for name, link in links.items()]
    table = _table([("Compute unit", None), ("Layers", "number")], layers)
    tables = table, _table([("Job", None), ("AI Hub", None)], jobs)
    return join([tag("p", text), tag("dl", *cards, class_="cards"), *tables])


def curves_section(report: Report) -> Markup:
    """The training's curves, and whether the probabilities are to be trusted."""
    evaluation, log = report.evaluation, report.log
    after = None if evaluation.temperature == 1 else evaluation.reliability(evaluation.temperature)
    figures = [curves(title, unit, log, columns) for title, (unit, columns) in CURVES.items() if log]
    figures.append(reliability_diagram("Probability and accuracy", evaluation.reliability(1.0), after))
    return join([tag("div", *figures, class_="plots"), _log_table(log)])


def _log_table(log: Sequence[dict[str, Any]]) -> Markup:
    if not log:
        return tag("p", "There is no log of the training beside the checkpoint.", class_="quiet")
    shown = {name: column for name, column in LOG_COLUMNS.items() if any(name in entry for entry in log)}
    rows = [
        [_cell("" if entry.get(name) is None else form.format(entry[name])) for name, (_, form) in shown.items()]
        for entry in log
    ]
    table = _table([(title, "number") for title, _ in shown.values()], rows)
    return tag("details", tag("summary", "The numbers, epoch by epoch"), table)


def confusion_section(report: Report) -> Markup:
    """Which classes are predicted for which; a cell lists its videos."""
    evaluation = report.evaluation
    matrix = evaluation.confusion.numpy()
    shown = np.flatnonzero(matrix.sum(0) + matrix.sum(1))
    order = shown[cluster_order(matrix[np.ix_(shown, shown)])].tolist()
    left_out = len(matrix) - len(shown)
    size = 34 if len(order) <= 16 else 24 if len(order) <= 40 else 12
    text = (
        "Rows are the true classes, columns the predicted ones; classes that are confused stand next to each other. ",
        *(tag("span", "Blue", class_="truth"), " is right, ", tag("span", "orange", class_="error"), " is wrong; a "),
        "stronger colour is a larger share of the row. Choose a cell to list its videos; the arrow keys move between "
        f"cells.{f' {left_out} classes without videos are left out.' if left_out else ''}",
    )
    zoom = tag("input", type="range", id="zoom", min=12, max=44, value=size)
    hint = tag("span", id="matrix-hint", role="status", class_="quiet")
    table = _matrix(matrix, order, evaluation.classes)
    region = {"class_": "matrix", "style": f"--cell:{size}px", "role": "region", "aria_label": "Confusion matrix"}
    parts = (
        tag("p", *text),
        tag("div", tag("label", "Size of a cell", for_="zoom"), zoom, hint, class_="filter"),
        tag("div", table, id="matrix", tabindex=0, **region),
        tag("div", class_="panel", id="cell-videos", tabindex=-1, aria_live="polite", hidden=True),
        tag("h3", "Most frequent confusions"),
        _frequent_confusions(matrix, evaluation.classes),
    )
    return join(parts)


def cluster_order(matrix: np.ndarray) -> list[int]:
    """An order of the classes in which those that are confused are neighbours.

    The matrix has counts (num_classes, num_classes), rows true, columns predicted.
    """
    from scipy.cluster.hierarchy import leaves_list, linkage  # not needed before the end of a run
    from scipy.spatial.distance import squareform

    count = len(matrix)
    if count < 3:
        return list(range(count))
    shares = matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    distance = 1 - (shares + shares.T) / 2
    np.fill_diagonal(distance, 0)
    tree = linkage(squareform(distance, checks=False), "average", optimal_ordering=count <= LARGEST_ORDERED)
    return leaves_list(tree).tolist()


def _matrix(matrix: np.ndarray, order: Sequence[int], names: Sequence[str]) -> Markup:
    shares = matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    # By Tab; the arrow keys reach the others.
    tabbed = next(((i, j) for i in order for j in order if matrix[i, j]), None)

    def label(i: int, scope: str) -> Markup:
        return tag("th", tag("span", names[i]), scope=scope, title=names[i])

    def cell(i: int, j: int) -> Markup:
        if not matrix[i, j]:
            return tag("td")
        button = tag(
            "button",
            matrix[i, j],
            type="button",
            class_=f"{'right' if i == j else 'wrong'}{' dark' if shares[i, j] > DARK_SHARE else ''}",
            style=f"--share:{shares[i, j]:.2f}",
            data_truth=i,
            data_prediction=j,
            tabindex=0 if (i, j) == tabbed else -1,
            aria_label=f"{names[i]}, predicted {names[j]}: {matrix[i, j]}",
        )
        return tag("td", button)

    head = tag("tr", tag("th", "true ↓ predicted →", scope="col"), *(label(i, "col") for i in order))
    rows = (tag("tr", label(i, "row"), *(cell(i, j) for j in order)) for i in order)
    return tag("table", tag("thead", head), tag("tbody", *rows))


def _frequent_confusions(matrix: np.ndarray, classes: Sequence[str]) -> Markup:
    """The largest cells off the diagonal."""
    mistakes, totals = matrix.copy(), matrix.sum(1)
    np.fill_diagonal(mistakes, 0)
    rows = []
    for cell in np.argsort(-mistakes, axis=None, kind="stable")[:LISTED_CONFUSIONS].tolist():
        truth, prediction = divmod(cell, len(matrix))
        if count := mistakes[truth, prediction]:
            spoken = f"Videos of {classes[truth]} predicted as {classes[prediction]}"
            place = f"{truth} {prediction}"
            link = tag("button", "videos", type="button", class_="link", data_confusion=place, aria_label=spoken)
            names = (_cell(breakable(classes[i]), None) for i in (truth, prediction))
            rows.append([*names, _cell(f"{count} of {totals[truth]}"), _cell(link, None)])
    if not rows:
        return tag("p", "No video was predicted as another class.")
    return _table([("True", None), ("Predicted", None), ("Videos", "number"), ("", None)], rows)


def classes_section(report: Report) -> Markup:
    """Every class, in a table that sorts and filters."""
    results = report.evaluation.class_results
    kinds = {"Class": None, "Videos": "number", "Accuracy": "number", "95 % interval": "wide", "Mistaken for": None}
    heads = [(tag("button", name, type="button"), kind) for name, kind in kinds.items()]
    box = {"id": "class-filter", "data_filters": "class-table", "placeholder": "words of a class or a mistake"}
    search = (
        tag("label", "Filter", for_="class-filter"),
        tag("input", type="search", autocomplete="off", **box),
        tag("span", f"{len(results)} of {len(results)}", id="class-table-count", role="status"),
    )
    table = _table(heads, map(_class_row, results), class_="sortable", id="class-table")
    return join([tag("div", *search, class_="filter"), table])


def _class_row(result: ClassResult) -> list[Markup]:
    name = tag("th", breakable(result.name), scope="row")
    if not result.support:
        empty = _cell("", data_value=""), _cell("", "wide", data_value=""), _cell("no videos", None, data_value="")
        return [name, _cell(0, data_value=0), *empty]
    value, low, high = result.accuracy.percent
    narrow = tag("span", f"{low:.0f} to {high:.0f}", class_="quiet narrow")
    interval = _span(result.accuracy), tag("span", f"{low:.1f} to {high:.1f} %", class_="quiet")
    mistake = join([breakable(result.mistake), f" ({result.mistake_count})"]) if result.mistake else ""
    return [
        name,
        _cell(result.support, data_value=result.support),
        _cell(join([f"{value:.1f} %", narrow]), data_value=f"{value:.4f}"),
        _cell(join(interval), "wide", data_value=f"{low:.4f}"),
        _cell(mistake, None, data_value=result.mistake),
    ]


def mistakes_section(report: Report) -> Markup:
    """The worst mistakes, with the frames that the network saw."""
    if not report.mistakes:
        return tag("p", "Every video was predicted right.")
    clips = report.evaluation.results.clips_per_video
    which = f" (the first of the {clips} clips of each video)" if clips > 1 else ""
    text = f"The wrong predictions with the highest probability, and the frames that the network saw{which}."
    return join([tag("p", text), tag("ol", *map(_mistake, report.mistakes), class_="mistake")])


def _mistake(mistake: Mistake) -> Markup:
    images = [
        tag("img", src=f"data:image/jpeg;base64,{base64.b64encode(image).decode()}", alt="", title=f"frame {index}")
        for image, index in zip(jpegs(mistake.frames), mistake.indices, strict=True)
    ]
    predicted = tag("span", breakable(mistake.prediction), class_="error"), f" {100 * mistake.probability:.1f} %"
    true = tag("span", breakable(mistake.label), class_="truth"), f" {100 * mistake.label_probability:.1f} %"
    frames = f"{mistake.path}, frames {', '.join(map(str, mistake.indices))}"
    words = (*predicted, ", but it is ", *true, tag("br"), tag("span", frames, class_="quiet"))
    spoken = f"{len(mistake.indices)} frames of {mistake.path}, from {mistake.indices[0]} on"
    return tag("li", tag("div", *words), tag("div", *images, class_="strip", role="img", aria_label=spoken))


def time_section(report: Report) -> Markup:
    """Where the time went."""
    total = sum(report.stages.values())
    if not total:
        return Markup()
    percents = {name: 100 * seconds / total for name, seconds in report.stages.items()}
    ordered = sorted(percents, key=lambda name: -percents[name])
    waiting = sum(percents[name] for name in ordered if name.startswith("Waiting"))
    rows = [
        (
            tag("th", name, scope="row"),
            _cell(f"{report.stages[name]:.1f} s"),
            _cell(f"{percents[name]:.1f} %"),
            _cell(tag("span", class_="share", style=f"--value:{percents[name]:.1f}"), "wide bar"),
        )
        for name in ordered
    ]
    slowest = tag("strong", ordered[0].lower()), f", {percents[ordered[0]]:.1f}\xa0% of the time. Waiting for data: "
    text = tag("p", "Slowest stage: ", *slowest, tag("strong", f"{waiting:.1f}\xa0%"), ".")
    return join([text, _table([("Stage", None), ("Time", "number"), ("Share", "number"), ("", "wide")], rows)])


def settings_section(report: Report) -> Markup:
    """Every setting, those at their defaults folded."""
    parts = []
    for title, values in report.settings.items():
        defaults = report.defaults.get(title, {})
        folded = {name: value for name, value in values.items() if name in defaults and value == defaults[name]}
        shown = {name: value for name, value in values.items() if name not in folded}
        parts += [tag("h3", title), _settings_table(shown)]
        if folded:
            summary = tag("summary", f"{len(folded)} settings at their defaults")
            parts.append(tag("details", summary, _settings_table(folded)))
    return join(parts)


def _settings_table(values: dict[str, Any]) -> Markup:
    rows = [(tag("th", name, scope="row"), _cell(_words(value), None)) for name, value in sorted(values.items())]
    return _table([], rows, class_="settings")


def _words(value: object) -> object:
    """A setting as it is read on a command line."""
    if isinstance(value, list | tuple):
        return " ".join(map(str, value))
    return "not set" if value is None else value


def _table(heads: Sequence[tuple[str, str | None]], rows: Iterable[Iterable[Markup]], **attributes: object) -> Markup:
    """A table that scrolls sideways where it is too wide; `heads` are contents and classes."""
    head = tag("thead", tag("tr", *(tag("th", text, scope="col", class_=kind) for text, kind in heads)))
    body = tag("tbody", *(tag("tr", *row) for row in rows))
    return tag("div", tag("table", *([head] if heads else []), body, **attributes), class_="scroll")


def _cell(content: object, kind: str | None = "number", **attributes: object) -> Markup:
    return tag("td", content, class_=kind, **attributes)


SECTIONS: dict[str, tuple[str, Callable[[Report], Markup]]] = {
    "headline": ("How good it is", headline_section),
    "device": ("On the device", device_section),
    "curves": ("Did it converge", curves_section),
    "confusions": ("What is confused", confusion_section),
    "classes": ("Class by class", classes_section),
    "mistakes": ("Worst mistakes", mistakes_section),
    "time": ("Where the time went", time_section),
    "settings": ("Settings", settings_section),
}
