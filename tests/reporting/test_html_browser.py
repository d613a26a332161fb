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
    const brush = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
    const painted = colours => {
        for (const colour of colours) { brush.fillStyle = colour; brush.fillRect(0, 0, 1, 1); }
        return [...brush.getImageData(0, 0, 1, 1).data].slice(0, 3);
    };
    const light = colours => painted(colours)
        .map(c => (c /= 255) <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
        .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
    const ratio = (one, two) => (Math.max(one, two) + 0.05) / (Math.min(one, two) + 0.05);
    const behind = element => element
        ? [...behind(element.parentElement), getComputedStyle(element).backgroundColor] : ['white'];
    const found = {};
    for (const element of document.body.querySelectorAll('*')) {
        if (![...element.childNodes].some(one => one.nodeType === 3 && one.data.trim())) continue;
        const style = getComputedStyle(element), under = behind(element);
        const ink = element instanceof SVGElement ? style.fill : style.color;
        found[[ink, ...under]] ??= [ratio(light(under), light([...under, ink])), element.outerHTML.slice(0, 80)];
    }
    return Object.values(found).sort((one, two) => one[0] - two[0]);
})()"""


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
    """The background is the scheme's, and all text, in drawings and tinted rows too, has the contrast of WCAG AA."""
    chromium.open(page, scheme=scheme)
    (dark,) = {chromium.value("getComputedStyle(document.body).backgroundColor") != "rgb(255, 255, 255)"}
    assert dark == (scheme == "dark")
    found = chromium.value(CONTRAST)
    assert len(found) > 10, "colours of text and of what lies behind it"
    assert found[0][0] >= 4.5, found[0]


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
    assert all(name for role, name in named if role in {"region", "link", "navigation", "table"})


def test_metrics_fit_a_phone_and_stay_a_table(chromium, page):
    """On a phone each row is a card in which nothing scrolls to the side; a screen reader gets rows and cells still."""
    chromium.open(page, width=PHONE)
    widths = "[...document.querySelectorAll('.metrics')].map(one => [one.scrollWidth, one.parentElement.clientWidth])"
    assert all(own <= room for own, room in chromium.value(widths))
    nodes = [node for node in chromium.ask("Accessibility.getFullAXTree")["nodes"] if not node["ignored"]]
    headers = [node["name"]["value"] for node in nodes if node["role"]["value"] == "rowheader"]
    assert any(name.startswith("flip rate") for name in headers)
    texts = [node["name"]["value"] for node in nodes if node["role"]["value"] == "columnheader"]
    assert {"verdict", "value", "95 % interval", "limit", "layer"} <= set(texts)


def test_keyboard_reaches_everything(chromium, page):
    """The first Tab offers to skip to the verdicts; Enter opens a folded table when its summary has the focus."""
    chromium.open(page)
    tab, enter = {"key": "Tab", "code": "Tab", "windowsVirtualKeyCode": 9}, {"key": "Enter", "text": "\r"}
    press = lambda key: [chromium.ask("Input.dispatchKeyEvent", type=kind, **key) for kind in ("keyDown", "keyUp")]  # noqa: E731
    press(tab)
    assert chromium.value("document.activeElement.className") == "skip"
    for _ in range(8):
        press(tab)
        assert chromium.value("getComputedStyle(document.activeElement).outlineStyle") == "solid"
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


def test_what_is_folded_is_printed(chromium, page):
    """Numbers and long prompts that are folded on a screen have a place on paper."""
    inside = """[...document.querySelectorAll('details:not([open]) > :not(summary)')]
        .map(one => one.checkVisibility({contentVisibilityAuto: true}))"""
    chromium.open(page)
    on_screen = chromium.value(inside)
    chromium.open(page, media="print", width=PAPER)
    on_paper = chromium.value(inside)
    assert len(on_screen) == len(on_paper) > 20
    assert not any(on_screen)
    assert all(on_paper)


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
