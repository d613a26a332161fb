"""The reference says what the code says, and no page names what is not there."""

import re
from pathlib import Path

import pytest

import pytest_quantcheck
from pytest_quantcheck import plugin
from tests.docs import reference
from tests.docs.pages import INI, OPTION, PAGES, ROOT

FIXTURES = {name for name in vars(plugin) if name.startswith("quantcheck")}
COMMANDS = {option.name for option in (*reference.MEASURE, *reference.COMPARE)}


@pytest.mark.parametrize("name", reference.PAGES)
def test_page_is_as_the_code(name):
    """A page that is made from the code is what would be made of it now: `python -m tests.docs.reference`."""
    assert (reference.FOLDER / name).read_text(encoding="utf-8") == reference.PAGES[name]()


def named(page):
    """How a page is called in test ids."""
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_options_exist(page):
    """Every option, ini key, fixture and assertion that a page names is there."""
    text = page.read_text(encoding="utf-8")
    flags = set(re.findall(r"--quantcheck(?:-[a-z]+)+", text))
    words = set(re.findall(r"\b(?:quantcheck|assert)(?:_[a-z0-9]+)+\b", text))
    assert flags <= OPTION.keys()
    assert words <= INI | FIXTURES | set(pytest_quantcheck.__all__)


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_links_lead_somewhere(page):
    """Every link within the repository, and every page named in code font, is there, with its heading."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    links = {target for target in re.findall(r"\]\(([^)\s]+)\)", text) if not re.match(r"https?:|mailto:", target)}
    missing = [target for target in links if not leads_somewhere(page, target)]
    missing += [path for path in re.findall(r"`(docs/[\w/.-]+)`", text) if not (ROOT / path).exists()]
    assert not missing


def leads_somewhere(page: Path, target: str) -> bool:
    """Whether a link on a page leads to a file, and to a heading in it if it names one."""
    path, _, anchor = target.partition("#")
    found = (page.parent / path).resolve() if path else page
    return found.exists() and (not anchor or anchor in anchors(found))


def anchors(page: Path) -> set[str]:
    """The anchors that a reader's browser finds on a page: headings in small letters, with dashes for blanks."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("target", ["nothing.md", "README.md#nothing", "#nothing"])
def test_missing_target_is_seen(target):
    """A link to a page or a heading that is not there is found."""
    assert not leads_somewhere(ROOT / "README.md", target)


def test_every_page_is_in_the_index():
    """Nobody has to guess that a page exists: the index links to each."""
    index = (ROOT / "docs" / "README.md").read_text(encoding="utf-8")
    linked = {(ROOT / "docs" / target.partition("#")[0]).resolve() for target in re.findall(r"\]\(([^)\s]+)\)", index)}
    pages = {page for page in PAGES if page.parent.name != "decisions" and page.name != "README.md"}
    assert pages <= linked
