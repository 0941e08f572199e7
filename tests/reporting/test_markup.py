from html.parser import HTMLParser

import pytest

from reporting.markup import Markup, breakable, join, tag

ATTACK = "\"'<b onload=x>&amp;</b>\udcff"


class Reader(HTMLParser):
    """Collects what a browser would find."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.text = [], ""
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data


def test_texts_and_attributes_come_back_as_they_were():
    page = tag("p", ATTACK, tag("a", 7, class_="x", data_note=ATTACK, hidden=True, lang=None), title=ATTACK)
    found = Reader(page)
    shown = ATTACK.replace("\udcff", "\\xff")
    assert found.tags == [("p", {"title": shown}), ("a", {"class": "x", "data-note": shown, "hidden": None})]
    assert found.text == shown + "7"


def test_markup_is_not_escaped_twice_and_text_always_is():
    assert join(["<", Markup("<br>"), tag("br"), 1]) == "&lt;<br><br>1"
    assert tag("g", join(["a&b"])) == "<g>a&amp;b</g>"


@pytest.mark.parametrize("name, shown", [("a_b", "a_<wbr>b"), ("<_>", "&lt;_<wbr>&gt;")])
def test_a_class_name_may_break_after_an_underscore(name, shown):
    assert breakable(name) == shown
