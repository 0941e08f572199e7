"""`report.html`: what a validation found, in one file that needs no network. Its parts are made in `report_sections`;
here they become a page.
"""

import base64
import hashlib
import json
from pathlib import Path

from reporting.report_sections import SECTIONS, Report, escape
from runtime.files import replaced_file

REPORT = "report.html"
PAGE = Path(__file__).with_name("report_page")  # style and script, put into the file


def write_report(folder: Path, report: Report) -> Path:
    """Writes `report.html`, whole or not at all, and returns its path."""
    path = folder / REPORT
    with replaced_file(path) as file:
        file.write(render(report).encode())
    return path


def render(report: Report) -> str:
    """The whole page. Nothing that is shown can become markup, and no script but the page's own is ever run."""
    style, script = ((PAGE / f"report.{kind}").read_text() for kind in ("css", "js"))
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    parts = [(name, title, make(report)) for name, (title, make) in SECTIONS.items()]
    links = "".join(f'<li><a href="#{name}">{title}</a></li>' for name, title, body in parts if body)
    sections = "\n".join(
        f'<section id="{name}" aria-labelledby="{name}-title"><h2 id="{name}-title">{title}</h2>\n{body}</section>'
        for name, title, body in parts
        if body
    )
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(report.title)}</title>
<link rel="icon" href="data:,">
<style>
{style}</style>
</head>
<body>
<a class="skip" href="#headline">To the numbers</a>
<header><h1>{escape(report.title)}</h1><p class="quiet">{escape(report.subtitle)}</p></header>
<nav aria-label="Sections"><ul>{links}</ul></nav>
<main>
{sections}
</main>
<footer class="quiet"><noscript><p>Sorting, filtering and the lists of videos need JavaScript.</p></noscript></footer>
<script type="application/json" id="data">{_data(report)}</script>
<script>{script}</script>
</body>
</html>
"""


def _data(report: Report) -> str:
    """Classes and videos for the script: [path, true, predicted, probability, rank of the truth] each, as JSON."""
    evaluation = report.evaluation
    results = evaluation.results
    columns = (results.targets, evaluation.predictions, evaluation.probabilities, results.ranks + 1)
    videos = [
        [path, target, prediction, round(probability, 4), rank]
        for path, target, prediction, probability, rank in zip(
            evaluation.paths, *(column.tolist() for column in columns), strict=True
        )
        if prediction >= 0
    ]
    # Within a script element only `<` could end it or open a comment.
    return json.dumps({"classes": list(evaluation.classes), "videos": videos}).replace("<", "\\u003c")
