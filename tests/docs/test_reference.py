"""The reference says what the code says, and no page names what is not there."""

import re
import tomllib
from collections import Counter
from pathlib import Path

import pytest

import pytest_quantcheck
from pytest_quantcheck import plugin
from pytest_quantcheck.profiles import reading
from tests.docs import reference
from tests.docs.pages import INI, OPTION, PAGES, ROOT, blocks

TEXTS = [*PAGES, ROOT / "CHANGELOG.md", ROOT / "CONTRIBUTING.md"]

FIXTURES = {name for name in vars(plugin) if name.startswith("quantcheck")}


@pytest.mark.parametrize("name", reference.PAGES)
def test_page_is_as_the_code(name):
    """A page that is made from the code is what would be made of it now: `python -m tests.docs.reference`."""
    assert (reference.FOLDER / name).read_text(encoding="utf-8") == reference.PAGES[name]()


def named(page):
    """How a page is called in test ids."""
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize("page", TEXTS, ids=named)
def test_names_exist(page):
    """Every option, ini key, fixture and assertion that a page names is there."""
    assert not unknown_names(page.read_text(encoding="utf-8"))


def unknown_names(text: str) -> set[str]:
    """What a text calls as ours, and the code does not know."""
    flags = set(re.findall(r"--quantcheck(?:-[a-z]+)+", text))
    words = set(re.findall(r"\b(?:quantcheck|assert)(?:_[a-z0-9]+)+\b", text))
    return (flags - OPTION.keys()) | (words - INI - FIXTURES - set(pytest_quantcheck.__all__))


@pytest.mark.parametrize("name", ["--quantcheck-nothing", "quantcheck_nothing", "assert_nothing"])
def test_unknown_name_is_seen(name):
    """An option of another version, a misspelled key and an assertion that never was are found in prose."""
    assert unknown_names(f"Say `--quantcheck-only` and `{name}=1`.") == {name}


@pytest.mark.parametrize("page", TEXTS, ids=named)
def test_links_lead_somewhere(page):
    """Every link and picture within the repository, and every page named in code font, is there, with its heading."""
    assert not dead_links(page, page.read_text(encoding="utf-8"))


def dead_links(page: Path, text: str) -> list[str]:
    """What a page with this text links to, shows or names in code font, and is not there."""
    text = without_blocks(text)
    links = {target for target in re.findall(r"\]\(([^)\s]+)\)", text) if not re.match(r"https?:|mailto:", target)}
    named_in_code = {path for path in re.findall(r"`(docs/[\w/.-]+)`", text) if not (ROOT / path).exists()}
    return sorted({target for target in links if not leads_somewhere(page, target)} | named_in_code)


def leads_somewhere(page: Path, target: str) -> bool:
    """Whether a link on a page leads to a file, and to a heading in it if it names one."""
    path, _, anchor = target.partition("#")
    found = (page.parent / path).resolve() if path else page
    return found.exists() and (not anchor or anchor in anchors(found.read_text(encoding="utf-8")))


def anchors(text: str) -> set[str]:
    """The anchors that GitHub gives the headings: in small letters, dashes for blanks, a number from the second on."""
    found: Counter[str] = Counter()
    named = set()
    for heading in re.findall(r"^#+ (.+)$", without_blocks(text), re.MULTILINE):
        name = re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        named.add(f"{name}-{found[name]}" if found[name] else name)
        found[name] += 1
    return named


def without_blocks(text: str) -> str:
    """The text without its fenced blocks, in which a `#` begins a comment."""
    return re.sub(r"^( *)```.*?^\1```$", "", text, flags=re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize(
    "text",
    [
        "[a](nothing.md)",
        "[a page\nthat is not there](docs/nothing.md)",
        "[a](docs/tutorial.md#nothing)",
        "[a](#nothing)",
        "![a picture](docs/nothing.svg)",
        "`docs/nothing.md`",
        "# Here\n\n[a](#there)\n\n```console\n# There\n```\n",
    ],
)
def test_dead_link_is_seen(text):
    """A link to a page, a heading or a picture that is not there is found; a comment in a block is no heading."""
    assert len(dead_links(ROOT / "README.md", text)) == 1


def test_anchors_are_those_of_github():
    """Punctuation goes, and the second of two equal headings gets a number."""
    text = "# What `a` is, and why\n## It\n```sh\n# no heading\n```\n## It\n"
    assert anchors(text) == {"what-a-is-and-why", "it", "it-1"}


def test_profile_page_has_every_key():
    """The profile that is said to have all keys has all that are read."""
    (text,) = (block.text for block in blocks(reference.FOLDER / "profiles.md") if block.word == "all-keys.toml")
    found = tomllib.loads(text)
    tables = list(found["metrics"].values())
    overrides = [override for table in tables for override in table.get("override", ())]
    for record, shown in (
        (reading._Document, [found]),
        (reading._Decision, [found["decision"]]),
        (reading._Table, tables),
        (reading._Override, overrides),
    ):
        assert {"max", *record.__struct_fields__} == {"max"}.union(*shown)  # an override's limit is shown as `min`


def test_every_page_is_in_the_index():
    """Nobody has to guess that a page exists: the index links to each."""
    index = (ROOT / "docs" / "README.md").read_text(encoding="utf-8")
    linked = {(ROOT / "docs" / target.partition("#")[0]).resolve() for target in re.findall(r"\]\(([^)\s]+)\)", index)}
    pages = {page for page in PAGES if page.parent.name != "decisions" and page.name != "README.md"}
    assert pages <= linked
