"""The page in a browser: both colour schemes, phone and desk, keyboard, screen reader and paper."""

import base64
import io

import pytest
from PIL import Image

from pytest_quantcheck.reporting.html import html_report
from tests.reporting import browser
from tests.reporting.runs import certificate_of, damaged, flip, prompts_of, run_of
from tests.reporting.test_html_hostile import HIDDEN, HOSTILE

pytestmark = pytest.mark.skipif(browser.COMMAND is None, reason="needs Chromium: apt-get install chromium")

PHONE, DESK = 390, 1280
PAPER = 718  # of A4 less its margins, at 96 pixels an inch
CONTRAST = """(() => {
    const channels = colour => colour.match(/[\\d.]+/g).slice(0, 3).map(Number)
        .map(c => (c /= 255) <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
    const light = colour => channels(colour).reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
    const ratio = (one, two) => (Math.max(one, two) + 0.05) / (Math.min(one, two) + 0.05);
    const paper = light(getComputedStyle(document.body).backgroundColor);
    return Object.fromEntries(SELECTORS.map(selector => {
        const style = getComputedStyle(document.querySelector(selector));
        return [selector, ratio(paper, light(selector.endsWith('text') ? style.fill : style.color))];
    }));
})()"""
READ = ("h1", ".quiet", "a[href^='#s']", ".badge", "summary", "tr.bad .word", "tr.good .word", ".drawing text")


@pytest.fixture(scope="module")
def chromium(tmp_path_factory):
    """One browser for all tests here."""
    with browser.Browser(tmp_path_factory.mktemp("chromium")) as running:
        yield running


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Where the page lies, once it is made."""
    return tmp_path_factory.mktemp("page") / "report.html"


@pytest.fixture
def page(saved, make):
    """A red run with controls and hostile prompts, as a file."""
    if not saved.exists():
        texts = [*HOSTILE.values(), *(text for text, _ in HIDDEN.values()), "long " * 500, "unbroken" * 200]
        verdicts, comparison = damaged(make, [flip(index, before=text[:40]) for index, text in enumerate(texts)])
        good, sound = make.sound_run()
        report = run_of([*verdicts, *good], comparison, sound, certificate=certificate_of(make), model="org/model" * 20)
        saved.write_bytes(html_report(report, {"boolq": prompts_of(texts)}))
    return saved


@pytest.mark.parametrize("width", [PHONE, DESK])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_page_renders_without_a_complaint(chromium, page, scheme, width):
    """No error or warning in the console, nothing fetched but the file, and nothing sticks out to the side."""
    chromium.open(page, scheme=scheme, width=width)
    chromium.value("document.querySelectorAll('details').forEach(one => one.open = true)")
    assert chromium.events("Log.entryAdded") == chromium.events("Runtime.exceptionThrown") == []
    assert chromium.events("Runtime.consoleAPICalled") == []
    assert [one["documentURL"] for one in chromium.events("Network.requestWillBeSent")] == [page.as_uri()]
    assert chromium.value("document.documentElement.scrollWidth") == width
    assert chromium.value("document.compatMode") == "CSS1Compat"
    seen = Image.open(io.BytesIO(chromium.screenshot()))
    assert seen.size[0] == width
    assert len(seen.getcolors(1 << 24)) > 100, "an empty window"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_scheme_is_followed_and_readable(chromium, page, scheme):
    """The background is that of the scheme, and text on it, in drawings too, has the contrast that WCAG AA asks for."""
    chromium.open(page, scheme=scheme)
    (dark,) = {chromium.value("getComputedStyle(document.body).backgroundColor") != "rgb(255, 255, 255)"}
    assert dark == (scheme == "dark")
    found = chromium.value(CONTRAST.replace("SELECTORS", repr(list(READ))))
    assert len(found) == len(READ)
    assert min(found.values()) >= 4.5, found


def test_drawings_have_a_size_and_the_schemes_colours(chromium, page):
    """Every drawing fills its place, and no stand-in colour of the drawing library is left."""
    chromium.open(page, scheme="dark")
    sizes = chromium.value(
        "[...document.querySelectorAll('.drawing svg')].map(one => one.getBoundingClientRect().height)"
    )
    assert len(sizes) > 10
    assert min(sizes) > 60
    strokes = "[...document.querySelectorAll('.drawing path')].map(one => getComputedStyle(one).stroke)"
    assert {"rgb(90, 174, 255)", "rgb(163, 173, 184)"} <= set(chromium.value(strokes))
    assert not any(f"rgb(0, 0, {number})" in chromium.value(strokes) for number in range(1, 6))


def test_screen_reader_gets_every_drawing_in_words(chromium, page):
    """Each image has a name, each table that scrolls can be reached and named, and the page's parts are landmarks."""
    chromium.open(page)
    nodes = [node for node in chromium.ask("Accessibility.getFullAXTree")["nodes"] if not node["ignored"]]
    named = [(node["role"]["value"], node.get("name", {}).get("value", "")) for node in nodes]
    images = [name for role, name in named if role in {"image", "img"}]
    assert len(images) == chromium.value("document.querySelectorAll('[role=img]').length")
    assert all(images)
    assert any(name.startswith("Reliability diagram of both models") for name in images)
    assert {"main", "navigation", "banner", "region", "table", "heading"} <= {role for role, _ in named}
    assert all(name for role, name in named if role in {"region", "link", "navigation"})


def test_keyboard_reaches_everything(chromium, page):
    """The first Tab offers to skip to the verdicts; Enter opens a folded table when its summary has the focus."""
    chromium.open(page)
    tab, enter = {"key": "Tab", "code": "Tab", "windowsVirtualKeyCode": 9}, {"key": "Enter", "text": "\r"}
    press = lambda key: [chromium.ask("Input.dispatchKeyEvent", type=kind, **key) for kind in ("keyDown", "keyUp")]  # noqa: E731
    press(tab)
    assert chromium.value("document.activeElement.className") == "skip"
    chromium.value("document.querySelector('figure summary').focus()")
    assert not chromium.value("document.activeElement.parentElement.open")
    press(enter | {"windowsVirtualKeyCode": 13})
    assert chromium.value("document.activeElement.parentElement.open")
    press(tab)
    assert chromium.value("document.activeElement.getAttribute('role')") == "region"


def test_page_can_be_printed(chromium, page):
    """On paper the colours are the light ones, whatever the scheme, and nothing is cut off at the edge."""
    chromium.open(page, scheme="dark", media="print")
    assert chromium.value("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    chromium.open(page, scheme="dark", media="print", width=PAPER)
    assert chromium.value("document.documentElement.scrollWidth") <= PAPER
    printed = base64.b64decode(chromium.ask("Page.printToPDF", printBackground=True)["data"])
    assert printed.startswith(b"%PDF")
    assert 2 <= printed.count(b"/Type /Page\n") <= 20


def test_hostile_text_did_nothing(chromium, page):
    """Scripts allowed for once: no element of the prompts' making is there, and nothing has run."""
    chromium.open(page)
    chromium.ask("Emulation.setScriptExecutionDisabled", value=False)
    chromium.messages.clear()
    chromium.ask("Page.reload")
    while not chromium.events("Page.loadEventFired"):
        chromium.value("1")
    assert not chromium.events("Page.javascriptDialogOpening")
    assert chromium.value("document.querySelectorAll('script, img, [onerror], [onmouseover]').length") == 0
