"""What the report tells, and how any text becomes text of a page. A room of its own: every section needs both."""

import html
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from reporting.mistakes import Mistake
from reporting.result_files import Evaluation
from runtime.files import printable


@dataclass(frozen=True)
class Report:
    """What the page tells.

    title, subtitle: its heading. evaluation, metrics: the validation and the contents of its `metrics.json`.
    log: the entries of `log.jsonl`, a dict an epoch; none where no training is known. mistakes: the worst.
    stages: seconds that each stage took, by its name. settings: values by name, by the title of their table.
    """

    title: str
    subtitle: str
    evaluation: Evaluation
    metrics: dict[str, Any]
    log: Sequence[dict[str, Any]] = ()
    mistakes: Sequence[Mistake] = ()
    stages: dict[str, float] = field(default_factory=dict)
    settings: dict[str, dict[str, Any]] = field(default_factory=dict)


def breakable(name: str) -> str:
    """A class name as text of the page that may go on in the next line after each `_`."""
    return escape(name).replace("_", "_<wbr>")


def escape(text: Any) -> str:
    """Any text as text of the page: markup in it stays text."""
    return html.escape(printable(text))
