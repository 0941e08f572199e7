"""The parts of `report.html`, each a function from a Report to a piece of HTML (empty: nothing to tell)."""

import base64
from collections.abc import Callable

from evaluation.intervals import Interval
from reporting.confusion_section import confusion_section
from reporting.curves_section import curves_section
from reporting.mistakes import Mistake, jpegs
from reporting.report_content import Report, breakable, escape
from reporting.result_files import ClassResult


def headline_section(report: Report) -> str:
    """The numbers, each with its interval."""
    names = {
        "video_acc1": "Video Acc@1",
        "video_acc5": "Video Acc@5",
        "macro_acc1": "Macro accuracy",
        "clip_acc1": "Clip Acc@1",
        "clip_acc5": "Clip Acc@5",
    }
    accuracies = report.evaluation.accuracies
    cards = [_accuracy_card(label, accuracies[name]) for name, label in names.items()]
    metrics = report.metrics
    error, uncalibrated = (
        metrics[name] for name in ("expected_calibration_error", "expected_calibration_error_uncalibrated")
    )
    scaled = f"; {_number(uncalibrated, 3)} before temperature {metrics['temperature']:.3f}"
    note = scaled if metrics["temperature"] != 1 else ""
    cards.append(_plain_card("Expected calibration error", _number(error, 3), f"0 is best{note}"))
    cards.append(_plain_card("Loss", _number(metrics["loss"], 4), "cross-entropy, mean over clips"))
    skipped = f", {metrics['videos_not_scored']} unreadable videos not scored" if metrics["videos_not_scored"] else ""
    turned = metrics["videos_turned"]
    turned = f", {turned} turned or mirrored for display, which the evaluator would not do" if turned else ""
    clips = f"{metrics['clips_per_video']} clip{'s' if metrics['clips_per_video'] > 1 else ''}"
    return f"""<p>{metrics["videos"]} videos of {metrics["classes_with_videos"]} classes,
{clips} each{escape(skipped)}{escape(turned)}; {escape(metrics["clip_rule"])}; pixels:
{escape(metrics["pixel_path"])}. The bands are 95&nbsp;% intervals: where the accuracy on other videos of the same kind
may well lie.</p>
<dl class="cards">{"".join(cards)}</dl>"""


def classes_section(report: Report) -> str:
    """Every class, to sort and to filter."""
    results = report.evaluation.class_results
    heads = (("Class", ""), ("Videos", "number"), ("Accuracy", "number"), ("95 % interval", "wide"))
    head = "".join(
        f'<th scope="col" class="{kind}"><button type="button">{name}</button></th>'
        for name, kind in (*heads, ("Mistaken for", ""))
    )
    rows = "\n".join(map(_class_row, results))
    return f"""<div class="filter"><label for="class-filter">Filter</label>
<input type="search" id="class-filter" data-filters="class-table" placeholder="words of a class or a mistake"
autocomplete="off"><span id="class-table-count" role="status">{len(results)} of {len(results)}</span></div>
<div class="scroll"><table class="sortable" id="class-table"><thead><tr>{head}</tr></thead><tbody>
{rows}
</tbody></table></div>"""


def mistakes_section(report: Report) -> str:
    """The worst mistakes, with the frames that the model saw."""
    if not report.mistakes:
        return "<p>Every video was predicted right.</p>"
    clips = report.evaluation.results.clips_per_video
    which = f" (the first of each video's {clips} clips)" if clips > 1 else ""
    items = "\n".join(map(_mistake_item, report.mistakes))
    return f"""<p>The videos that the network was surest about, and wrong. The frames are those that it saw{which}.</p>
<ol class="mistake">{items}</ol>"""


def time_section(report: Report) -> str:
    """Where the time went."""
    total = sum(report.stages.values())
    if not total:
        return ""
    ordered = sorted(report.stages.items(), key=lambda stage: -stage[1])
    waiting = sum(seconds for name, seconds in ordered if name.startswith("Waiting"))
    rows = "".join(
        f'<tr><th scope="row">{escape(name)}</th><td class="number">{seconds:.1f} s</td>'
        f'<td class="number">{100 * seconds / total:.1f} %</td>'
        f'<td class="wide" style="width:40%"><span class="share" style="--value:{100 * seconds / total:.1f}"></span>'
        "</td></tr>"
        for name, seconds in ordered
    )
    return f"""<p>Slowest stage: <strong>{escape(ordered[0][0].lower())}</strong>,
{100 * ordered[0][1] / total:.1f}&nbsp;% of the time. Waiting for data:
<strong>{100 * waiting / total:.1f}&nbsp;%</strong>.</p>
<div class="scroll"><table><thead><tr><th scope="col">Stage</th><th scope="col" class="number">Time</th>
<th scope="col" class="number">Share</th><th class="wide"></th></tr></thead><tbody>{rows}</tbody></table></div>"""


def settings_section(report: Report) -> str:
    """Every setting."""
    tables = []
    for title, values in report.settings.items():
        rows = "".join(
            f'<tr><th scope="row">{escape(name)}</th><td>{escape("not set" if value is None else value)}</td></tr>'
            for name, value in sorted(values.items())
        )
        tables.append(f'<h3>{escape(title)}</h3><div class="scroll"><table class="settings">{rows}</table></div>')
    return "".join(tables)


SECTIONS: dict[str, tuple[str, Callable[[Report], str]]] = {
    "headline": ("How good it is", headline_section),
    "curves": ("Did it converge", curves_section),
    "confusions": ("What is confused", confusion_section),
    "classes": ("Class by class", classes_section),
    "mistakes": ("Worst mistakes", mistakes_section),
    "time": ("Where the time went", time_section),
    "settings": ("Settings", settings_section),
}


def _accuracy_card(label: str, share: Interval) -> str:
    value, low, high = (100 * part for part in share)
    return (
        f'<div class="card"><dt>{label}</dt><dd><span class="value">{value:.1f}<small> %</small></span>'
        f"{_span(value, low, high)}"
        f'<span class="quiet">{low:.1f} to {high:.1f} %</span></dd></div>'
    )


def _plain_card(label: str, value: str, note: str) -> str:
    return (
        f'<div class="card"><dt>{label}</dt><dd><span class="value">{value}</span>'
        f'<br><span class="quiet">{escape(note)}</span></dd></div>'
    )


def _number(value: float | None, digits: int) -> str:
    return "not a number" if value is None else f"{value:.{digits}f}"


def _span(value: float, low: float, high: float) -> str:
    style = f"--value:{value:.2f};--low:{low:.2f};--high:{high:.2f}"
    return f'<span class="span" style="{style}" aria-hidden="true"></span>'


def _class_row(result: ClassResult) -> str:
    name = f'<th scope="row">{breakable(result.name)}</th>'
    if not result.support:
        return (
            f'<tr>{name}<td class="number" data-value="0">0</td><td data-value=""></td>'
            '<td class="wide" data-value=""></td><td data-value="">no videos</td></tr>'
        )
    value, low, high = (100 * part for part in result.accuracy)
    mistake = f"{breakable(result.mistake)} ({result.mistake_count})" if result.mistake else ""
    return (
        f'<tr>{name}<td class="number" data-value="{result.support}">{result.support}</td>'
        f'<td class="number" data-value="{value:.4f}">{value:.1f} %'
        f'<span class="quiet narrow">{low:.0f} to {high:.0f}</span></td><td class="wide" data-value="{low:.4f}">'
        f'{_span(value, low, high)}<span class="quiet">{low:.1f} to {high:.1f} %</span></td>'
        f'<td data-value="{escape(result.mistake)}">{mistake}</td></tr>'
    )


def _mistake_item(mistake: Mistake) -> str:
    images = "".join(
        f'<img src="data:image/jpeg;base64,{base64.b64encode(image).decode()}" alt="" title="frame {index}">'
        for image, index in zip(jpegs(mistake.frames), mistake.indices, strict=True)
    )
    spoken = escape(f"{len(mistake.indices)} frames of {mistake.path}, from {mistake.indices[0]} on")
    predicted = f'<span class="error">{breakable(mistake.prediction)}</span> {100 * mistake.probability:.1f} %'
    true = f'<span class="truth">{breakable(mistake.label)}</span> {100 * mistake.label_probability:.1f} %'
    return (
        f"<li><div>{predicted}, but it is {true}<br>"
        f'<span class="quiet">{escape(mistake.path)}, frames {", ".join(map(str, mistake.indices))}</span></div>'
        f'<div class="strip" role="img" aria-label="{spoken}">{images}</div></li>'
    )
