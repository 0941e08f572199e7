"""The page, as text and in a browser."""

import re
from dataclasses import replace

import pytest
import torch

from helpers.browser import Browser, find_browser
from helpers.evaluations import made_up_evaluation, made_up_log, made_up_mistakes, results_of
from reporting.html_report import Report, cluster_order, render, write_report
from reporting.result_files import Evaluation, write_result_files
from reporting.run_report import calibration_line

ATTACK = "<script>window.attacked=1</script>"
STAGES = {"Training steps": 70.0, "Waiting for training data": 20.0, "Preparing": 10.0}
WIDTHS = (400, 1400)


def report_of(evaluation, epochs=6, mistakes=3):
    return Report(
        "r2plus1d_18 on full_dataset",
        "runs/first/model_best.pth",
        evaluation,
        evaluation.metrics(),
        made_up_log(epochs),
        made_up_mistakes(evaluation, mistakes),
        STAGES,
        {
            "This run": {"lr": 0.01, "weights": None, "epochs": 45, "data_path": "/data/" + "very_long_" * 30},
            "Software": {"torch": "2.9"},
        },
        {"This run": {"lr": 0.1, "weights": None, "epochs": 45, "data_path": None}},
    )


def hostile_report():
    """A report in which every text that a user can choose is an attack."""
    names = [f"{ATTACK}{letter}" for letter in "abcd"]
    evaluation = made_up_evaluation(4, 8, classes=names, rule=ATTACK, pixels=ATTACK)
    paths = [f"{path}'\" onload=alert(1) \udcff</script><!--.mp4" for path in evaluation.paths]
    evaluation = Evaluation(evaluation.results, paths, names, ATTACK, ATTACK)
    report = report_of(evaluation)
    return replace(report, title=ATTACK, subtitle=ATTACK, settings={ATTACK: {ATTACK: ATTACK}}, stages={ATTACK: 1.0})


def test_a_label_or_file_name_with_markup_stays_text():
    page = render(hostile_report())
    assert page.count("<script") == 2  # the page's own data and script
    assert "window.attacked=1</script>" not in page and "<!--" not in page
    page.encode()  # bytes that are no UTF-8 were spelled out


def test_no_script_but_the_pages_own_may_run():
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', render(report_of(made_up_evaluation()))).group(1)
    assert "default-src 'none'" in policy and re.search(r"script-src 'sha256-[\w+/=]+'$", policy)


DEVICE = {
    "acc1": 61.25,
    "acc5": 93.75,
    "pytorch_acc1": 62.5,
    "pytorch_acc5": 93.75,
    "acc1_difference": -1.25,
    "acc1_difference_interval": [-4.5, 2.0],
    "latency_ms": 20.8,
    "limit_ms": 34.0,
    "within_limit": True,
    "layers": {"NPU": 88, "CPU": 1},
    "videos": 80,
    "largest_logit_difference": 0.012,
    "device": f"EVK {ATTACK}",
    "runtime": "qnn_dlc",
    "quantize": "none",
    "jobs": {"compile": {"id": "jabc", "url": "https://hub.example/jobs/jabc/"}},
}


def test_the_section_of_a_device():
    page = render(replace(report_of(made_up_evaluation()), device=DEVICE))
    section = page[page.index('<section id="device"') :].split("</section>")[0]
    text = re.sub(r"<[^>]*>", " ", section)
    for words in ("20.80  ms", "within 34 ms", "61.2  %", "62.5 by PyTorch", "-1.25", "-4.50 to +2.00", "0.012"):
        assert words in text, words
    assert re.search(r"NPU\s+88\s+CPU\s+1\s", text) and '<a href="https://hub.example/jobs/jabc/">jabc</a>' in section
    assert "<script" not in section and "80 videos" in text
    assert 'id="device"' not in render(report_of(made_up_evaluation()))


def test_the_numbers_are_there():
    evaluation = made_up_evaluation(4, 6)
    page = render(report_of(evaluation))
    accuracy = evaluation.accuracies["video_acc1"]
    assert f"{100 * accuracy.value:.1f}<small> %" in page
    assert f"{100 * accuracy.low:.1f} to {100 * accuracy.high:.1f} %" in page
    assert "Slowest stage: <strong>training steps</strong>" in page and "<strong>20.0\xa0%</strong>" in page
    assert ">0.01<" in page and "not set" in page


def test_settings_at_their_defaults_are_folded():
    page = render(report_of(made_up_evaluation()))
    settings = page[page.index("<h3>This run</h3>") :]
    changed, folded, rest = re.split("<details>|</details>", settings)[:3]
    names = re.compile(r'<th scope="row">(\w+)')
    assert names.findall(changed) == ["data_path", "lr"]
    assert "2 settings at their defaults" in folded and names.findall(folded) == ["epochs", "weights"]
    assert names.findall(rest) == ["torch"]
    listed = render(replace(report_of(made_up_evaluation()), settings={"This run": {"trainable": ["layer4", "fc"]}}))
    assert ">layer4 fc<" in listed


def test_charts_have_their_numbers_in_words():
    page = render(report_of(made_up_evaluation()))
    charts = re.findall(r'<svg [^>]*role="img" aria-label="([^"]*)"', page)
    assert [words.split(". ")[0] for words in charts] == [
        "Loss",
        "Accuracy",
        "Learning rate",
        "Probability and accuracy",
    ]
    assert "training: 2 at first, 0.3333 at last" in charts[0]


@pytest.mark.parametrize(
    "scores, classes",
    [([[0.9, 0.1], [0.2, 0.8]], ["a", "b"]), ([[1.0]], ["only"]), ([[torch.nan, 0.0], [0.0, 1.0]], ["a", "b"])],
    ids=["all right", "one class", "no number"],
)
def test_unusual_validations_have_a_page_too(scores, classes):
    results = results_of(torch.tensor(scores, dtype=torch.float64), torch.arange(len(classes)))
    evaluation = Evaluation(results, [f"{name}/1.mp4" for name in classes], classes, "rule", "pixels")
    page = render(Report("title", "subtitle", evaluation, evaluation.metrics()))
    assert "No video was predicted as another class" in page and "no log" in page


@pytest.mark.parametrize("temperature", [1.0, 1.5])
def test_where_no_output_is_a_number_the_calibration_error_is_none(tmp_path, temperature):
    results = results_of(torch.full((2, 2), torch.nan, dtype=torch.float64), torch.arange(2))
    evaluation = Evaluation(results, ["a/1.mp4", "b/1.mp4"], ["a", "b"], "rule", "pixels", temperature=temperature)
    metrics = write_result_files(tmp_path, evaluation)
    assert metrics["expected_calibration_error"] is metrics["expected_calibration_error_uncalibrated"] is None
    card = 'Expected calibration error</dt><dd><span class="value">not a number'
    assert card in render(Report("title", "subtitle", evaluation, metrics))
    assert "not a number" in calibration_line(metrics)


def test_classes_that_are_confused_stand_together():
    groups = torch.tensor([[0, 3, 5], [1, 4, 6], [2, 7, 8]])
    matrix = 20 * torch.eye(9, dtype=torch.int64)
    for group in groups.tolist():
        for a in group:
            for b in group:
                matrix[a, b] += 4
    order = cluster_order(matrix.numpy())
    assert sorted(order) == list(range(9))
    assert {frozenset(order[i : i + 3]) for i in (0, 3, 6)} == {frozenset(group) for group in groups.tolist()}


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    program = find_browser()
    if program is None:
        pytest.skip("no Chromium")
    with Browser(program, tmp_path_factory.mktemp("profile")) as browser:
        yield browser


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """Reports by name."""
    folder = tmp_path_factory.mktemp("reports")
    reports = {
        "small": report_of(made_up_evaluation(4, 6, temperature=1.3)),
        "92 classes": report_of(made_up_evaluation(92, 12)),
        "hostile": hostile_report(),
    }
    return {name: write_report(folder / name, report) for name, report in reports.items()}


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", ["small", "92 classes", "hostile"])
def test_nothing_overflows_nothing_complains_nothing_is_asked_for(browser, pages, name, width):
    browser.open(pages[name], width)
    assert browser.evaluate("document.querySelectorAll('#matrix button').length") > 0
    browser.evaluate("document.querySelector('#matrix .wrong').click(); document.querySelector('details').open = true")
    assert browser.evaluate("document.documentElement.scrollWidth") == width
    wide = browser.evaluate(
        """[...document.querySelectorAll("body *")].filter((e) => e.getBoundingClientRect().right > innerWidth + 1
            && !e.closest(".scroll, .matrix, nav, .skip")).map((e) => e.outerHTML.slice(0, 80))"""
    )
    assert wide == []
    assert browser.messages == []
    assert [url for url in browser.requests if not url.startswith("data:")] == [pages[name].resolve().as_uri()]
    assert browser.evaluate("window.attacked") is None


def test_the_browser_reports_what_goes_wrong(browser, tmp_path):
    """That the test above can fail: a request, an error and something too wide are noticed."""
    bad = "<img src='absent.png'><div style='width:3000px'>x</div><script>absent()</script>"
    (tmp_path / "bad.html").write_text(bad)
    browser.open(tmp_path / "bad.html", 400)
    assert any("absent.png" in url for url in browser.requests) and any("absent" in text for text in browser.messages)
    assert browser.evaluate("document.documentElement.scrollWidth") > 400


def rows_of(browser, column):
    return browser.evaluate(
        f"[...document.querySelectorAll('#class-table tbody tr')].filter((r) => !r.hidden)"
        f".map((r) => r.cells[{column}].dataset.value ?? r.cells[{column}].textContent)"
    )


@pytest.mark.parametrize("width", WIDTHS)
def test_the_table_sorts(browser, pages, width):
    browser.open(pages["92 classes"], width)
    for column in (0, 1, 2, 4):
        before = rows_of(browser, column)
        for direction in ("ascending", "descending"):
            browser.evaluate(f"document.querySelectorAll('#class-table th button')[{column}].click()")
            heading = f"document.querySelectorAll('#class-table thead th')[{column}]"
            assert browser.evaluate(f"{heading}.getAttribute('aria-sort')") == direction
            found = rows_of(browser, column)
            assert sorted(found) == sorted(before)
            values = [value for value in found if value != ""]
            assert found[: len(values)] == values  # what has no value is last
            key = float if column in (1, 2) else str.lower
            keys = [key(value) for value in values]
            assert keys == sorted(keys, reverse=direction == "descending") or column in (0, 4)
            if column in (0, 4):
                in_js = f"{values!r}.every((v, i, a) => !i || a[i - 1].localeCompare(v) "
                assert browser.evaluate(in_js + ("<= 0)" if direction == "ascending" else ">= 0)"))


def test_the_table_filters(browser, pages):
    browser.open(pages["92 classes"], 1400)
    everything = rows_of(browser, 0)
    browser.evaluate("document.getElementById('class-filter').focus()")
    browser.type("JUMPING left")
    texts = browser.evaluate(
        "[...document.querySelectorAll('#class-table tbody tr')].map((r) => [r.textContent.toLowerCase(), r.hidden])"
    )
    assert 0 < len(rows_of(browser, 0)) < len(everything)
    assert all(hidden != ("jumping" in text and "left" in text) for text, hidden in texts)
    assert browser.evaluate("document.getElementById('class-table-count').textContent").endswith("of 92")
    browser.evaluate("document.getElementById('class-filter').value = ''")
    browser.evaluate("document.getElementById('class-filter').dispatchEvent(new Event('input'))")
    assert rows_of(browser, 0) == everything


def test_a_cell_tells_its_videos(browser, pages):
    browser.open(pages["92 classes"], 1400)
    evaluation = made_up_evaluation(92, 12)
    truth, prediction = (evaluation.confusion.clone().fill_diagonal_(0) == 2).nonzero()[0].tolist()
    cell = f"#matrix button[data-truth='{truth}'][data-prediction='{prediction}']"
    browser.evaluate(f'document.querySelector("{cell}").click()')
    text = browser.evaluate("document.getElementById('cell-videos').textContent")
    for row, path in enumerate(evaluation.paths):
        is_in = (evaluation.results.targets[row], evaluation.predictions[row]) == (truth, prediction)
        assert (path in text) == is_in
    assert f"{evaluation.classes[truth]}, predicted as {evaluation.classes[prediction]}: 2" in text


def test_names_in_the_list_of_videos_stay_text(browser, pages):
    browser.open(pages["hostile"], 1400)
    browser.evaluate("document.querySelector('#matrix .wrong').click()")
    assert ATTACK in browser.evaluate("document.getElementById('cell-videos').textContent")
    assert browser.evaluate("document.querySelectorAll('#cell-videos script').length") == 0


def test_the_keyboard_suffices(browser, pages):
    browser.open(pages["small"], 1400)
    active = "document.activeElement"
    stops = []
    for _ in range(40):
        browser.press("Tab")
        stops.append(browser.evaluate(f"{active}.id || {active}.closest('[id]')?.id || ''"))
        if stops[-1] == "matrix" and browser.evaluate(f"{active}.tagName") == "BUTTON":
            break
    else:
        pytest.fail(f"the matrix cannot be reached: {stops}")
    first = browser.evaluate(f"{active}.getAttribute('aria-label')")
    for key in ("ArrowDown", "ArrowRight", "ArrowDown"):
        browser.press(key)
    assert browser.evaluate(f"{active}.getAttribute('aria-label')") != first
    assert browser.evaluate("document.querySelectorAll('#matrix [tabindex=\"0\"]').length") == 1
    browser.press("Enter")
    assert browser.evaluate("document.getElementById('cell-videos').hidden") is False
    for _ in range(40):
        browser.press("Tab")
        if browser.evaluate(f"{active}.closest('thead')?.parentElement.id") == "class-table":
            break
    browser.press("Enter")
    assert browser.evaluate("document.querySelectorAll('#class-table [aria-sort]').length") == 1
    assert browser.evaluate(f"getComputedStyle({active}).outlineStyle") != "none"


def colours(browser, selector):
    """Text colour of an element, and the colour behind it, as shares of red, green and blue."""
    found = browser.evaluate(
        f"""[getComputedStyle(document.querySelector({selector!r})).color,
             getComputedStyle(document.querySelector({selector!r}).closest("section")).backgroundColor]"""
    )
    return [[int(part) / 255 for part in re.findall(r"\d+", colour)[:3]] for colour in found]


def contrast(a, b):
    """The contrast of two colours by the formula of the Web Content Accessibility Guidelines 2, from 1 to 21."""
    light, dark = sorted(
        (
            sum(
                weight * (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4)
                for weight, part in zip((0.2126, 0.7152, 0.0722), colour, strict=True)
            )
            for colour in (a, b)
        ),
        reverse=True,
    )
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize(
    "media, scheme, is_dark", [("screen", "light", 0), ("screen", "dark", 1), ("print", "dark", 0)]
)
def test_text_is_legible_on_a_light_screen_a_dark_one_and_paper(browser, pages, media, scheme, is_dark):
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.call("Emulation.setEmulatedMedia", media=media, features=features)
    try:
        browser.open(pages["small"], 1400)
        assert (sum(colours(browser, "section")[1]) < 1) == is_dark
        for selector in ("h2", ".quiet", ".truth", ".error", "#class-table th", "figcaption", ".settings td"):
            assert contrast(*colours(browser, f"section {selector}")) >= 4.5, selector
    finally:
        browser.call("Emulation.setEmulatedMedia", media="", features=[])


def test_the_values_under_the_pointer_are_shown(browser, pages):
    browser.open(pages["small"], 1400)
    shown = """[...document.querySelectorAll(".reading text")]
        .filter((text) => getComputedStyle(text).visibility === "visible").map((text) => text.textContent)"""
    assert browser.evaluate(shown) == []
    x, y = browser.evaluate(
        """(() => { const box = document.querySelectorAll(".reading rect")[2].getBoundingClientRect();
            return [box.x + box.width / 2, box.y + box.height / 2]; })()"""
    )
    browser.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)
    assert browser.evaluate(shown) == ["epoch 2: training 0.6667, validation 0.6733"]


def test_what_is_folded_is_printed(browser, pages):
    browser.open(pages["small"], 1400)
    is_open = "[...document.querySelectorAll('details')].map((folded) => folded.open)"
    assert set(browser.evaluate(is_open)) == {False}
    browser.evaluate("document.querySelector('details').open = true")
    before = browser.evaluate(is_open)
    browser.evaluate(f"addEventListener('beforeprint', () => {{ window.printed = {is_open}; }})")
    browser.call("Page.printToPDF")
    assert set(browser.evaluate("window.printed")) == {True}
    assert browser.evaluate(is_open) == before


def test_92_classes_are_legible(browser, pages):
    browser.open(pages["92 classes"], 1400)
    sizes = browser.evaluate(
        """[...document.querySelectorAll("#matrix tbody th span")].map(
            (e) => [parseFloat(getComputedStyle(e).fontSize), e.getBoundingClientRect().height])"""
    )
    assert len(sizes) >= 91 and all(size >= 10 and height >= size for size, height in sizes)
    assert browser.evaluate("document.querySelector('#matrix table').offsetWidth") <= 1400
