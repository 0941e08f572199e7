"""HTML and SVG elements as function calls that escape whatever text they are given."""

import html
from collections.abc import Iterable

from runtime.files import printable

VOID = {"br", "img", "input", "wbr"}  # elements without an end tag


class Markup(str):
    """Text that is HTML already."""


def tag(name: str, *content: object, **attributes: object) -> Markup:
    """An element: `tag("a", "x < y", class_="link", aria_label="...")`.

    Markup in its content is put in as it is, anything else as escaped text. In a name of an attribute `_` becomes `-`,
    one at its end is dropped; the value None leaves it out, True makes it empty.
    """
    words = [name]
    for key, value in attributes.items():
        if value is not None:
            key = key.rstrip("_").replace("_", "-")
            words.append(key if value is True else f'{key}="{_escape(value)}"')
    end = "" if name in VOID else f"</{name}>"
    return Markup(f"<{' '.join(words)}>{join(content)}{end}")


def join(parts: Iterable[object]) -> Markup:
    """Markup and texts one after the other; the texts are escaped."""
    return Markup("".join(part if isinstance(part, Markup) else _escape(part) for part in parts))


def breakable(name: str) -> Markup:
    """A class name that may be broken into lines after each `_`."""
    return Markup(_escape(name).replace("_", "_<wbr>"))


def _escape(text: object) -> str:
    return html.escape(printable(text))
