"""`report.html` beside `report.json`: written where its extra is installed, and never the cause of a verdict."""

import json
import sys
from html.parser import HTMLParser

import pytest

from pytest_quantcheck.metrics import METRICS
from pytest_quantcheck.models.loading import Source, load
from pytest_quantcheck.reporting.wording import number
from tests.plugin.test_reports import QUICK, TWO

OTHER_WORDS = ["ant", "apple"]
IN_THE_WAY = """
from pathlib import Path


def pytest_runtest_setup(item):
    Path("report/report.html").mkdir(parents=True, exist_ok=True)
    Path("report/report.html/other").touch()
"""


class Tables(HTMLParser):
    """Every table of a page by its caption: rows of cells."""

    def __init__(self, page):
        super().__init__()
        self.found, self._rows, self._text = {}, [], ""
        self.feed(page)

    def handle_starttag(self, tag, _attributes):
        if tag == "table":
            self._rows = []
        elif tag == "tr":
            self._rows.append([])
        if tag in {"caption", "th", "td"}:
            self._text = ""

    def handle_endtag(self, tag):
        text = " ".join(self._text.split())
        if tag == "caption":
            self.found[text] = self._rows
        elif tag in {"th", "td"}:
            self._rows[-1].append(text)

    def handle_data(self, data):
        self._text += data


@pytest.fixture(scope="module")
def tables():
    """Tables of the page of the whole run, once it was read."""
    return {}


@pytest.fixture
def tables_of(whole_run, tables):
    """The tables of one comparison of the whole run's page, by what their captions begin with."""
    if not tables:
        page = (whole_run.directory / "report" / "report.html").read_text(encoding="utf-8")
        tables |= Tables(page).found

    def own(comparison):
        end = f"{comparison['candidate']} on {comparison['prompt_set']}"
        return {name.removesuffix(end): rows for name, rows in tables.items() if name.endswith(end)}

    return own


def cells(*values):
    """What the page writes for these numbers."""
    return ["-" if value is None else number(value) for value in values]


def test_page_is_written_beside_the_report(whole_run):
    """Both candidates with their metrics."""
    page = (whole_run.directory / "report" / "report.html").read_text(encoding="utf-8")
    assert "report: report/report.html" in whole_run.lines
    assert "<h1>Not fit for release: nf4</h1>" in page
    assert page.count('class="metrics"') == 2


@pytest.fixture
def swapped(tmp_path):
    """The built-in model as an int8 checkpoint that answers `ant` for True and `apple` for False."""
    with load(Source("builtin", device="cpu"), "int8") as loaded:
        answers, others = (loaded.tokenizer.convert_tokens_to_ids(words) for words in (["True", "False"], OTHER_WORDS))
        head = loaded.model.get_output_embeddings().weight.data
        head[answers + others] = head[others + answers]
        loaded.model.save_pretrained(tmp_path / "swapped")
        loaded.tokenizer.save_pretrained(tmp_path / "swapped")
    return tmp_path / "swapped"


def test_page_lists_the_prompts_that_flipped(gate, swapped):
    """Each with what both models answered."""
    found = gate(
        "--quantcheck-model=builtin",
        f"--quantcheck-candidate={swapped}",
        "--quantcheck-samples=12",
        "--quantcheck-layers=2",
        *TWO[::2],
        "--quantcheck-report=report",
    )
    page = (found.directory / "report" / "report.html").read_text(encoding="utf-8")
    (comparison,) = json.loads((found.directory / "report" / "report.json").read_bytes())["comparisons"]
    assert page.count("<strong>row ") == len(comparison["flips"]) == 12
    for flip in comparison["flips"]:
        assert flip["candidate"]["text"].strip() in OTHER_WORDS
        assert all(f"“{flip[model]['text']}”" in page for model in ("reference", "candidate"))


def test_rows_have_the_reports_numbers(whole_run, tables_of):
    """Value, interval and limit of each verdict are those of report.json."""
    report = json.loads((whole_run.directory / "report" / "report.json").read_bytes())
    for comparison in report["comparisons"]:
        rows = {row[0].partition(" share")[0].partition(" how")[0]: row for row in tables_of(comparison)["Metrics of "]}
        own = [one for one in report["verdicts"] if one["candidate"] == comparison["candidate"]]
        assert len(own) == 4
        for verdict in own:
            metric, found = METRICS[verdict["metric"]], verdict["estimate"]
            value, low, high, limit = cells(found["value"], found["low"], found["high"], verdict["limit"])
            sign = "≤" if verdict["direction"] == "max" else "≥"
            shown = [f"{value} {metric.unit}".rstrip(), f"{low} to {high}", f"{sign} {limit}"]
            assert verdict["status"] in rows[metric.title][1]
            assert rows[metric.title][3:6] == shown


def test_figures_have_the_reports_numbers(whole_run, tables_of):
    """The table of each figure has the numbers of report.json: over layers, in bins, by correlation."""
    report = json.loads((whole_run.directory / "report" / "report.json").read_bytes())
    for comparison in report["comparisons"]:
        tables = tables_of(comparison)
        for metric, title in {
            "redundancy_change": "Redundancy change",
            "salient_overlap": "Salient-neuron overlap",
        }.items():
            expected = [
                [str(one["layer"]), *cells(one["value"], one["low"], one["high"])]
                for one in comparison["estimates"]
                if one["metric"] == metric
            ]
            assert [row[:4] for row in tables[f"Numbers of {title}, "][1:]] == expected
        bins = zip(comparison["reliability"]["reference"], comparison["reliability"]["candidate"], strict=True)
        pairs = [cells(*(side[key] for side in both for key in ("confidence", "accuracy"))) for both in bins]
        assert [row[2:] for row in tables["Numbers of Reliability, "][1:]] == pairs
        counts = comparison["histograms"]["2"]
        columns = [[f"{n:,}" for n in counts[model]] for model in ("reference", "candidate")]
        shown = tables["Numbers of Pairs by correlation, layer 2, "][1:]
        assert [row[1:3] for row in shown] == [list(pair) for pair in zip(*columns, strict=True)]


class NoMatplotlib:
    """Finds modules as if matplotlib were not installed."""

    def find_spec(self, name, *_):
        if name.partition(".")[0] == "matplotlib":
            raise ModuleNotFoundError("No module named 'matplotlib'", name="matplotlib")


@pytest.fixture
def without_matplotlib(monkeypatch):
    """It is not installed, and what needs it was not imported yet."""
    for name in [name for name in sys.modules if name.startswith(("matplotlib", "pytest_quantcheck.reporting.html"))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [NoMatplotlib(), *sys.meta_path])


@pytest.mark.usefixtures("without_matplotlib")
def test_without_the_extra_a_sentence_says_what_to_install(gate):
    """Without matplotlib report.json is there, the verdicts stand, and one line names the extra."""
    found = gate(*QUICK, TWO[0], "--quantcheck-report=report")
    assert found.status == 0
    missing = "no report.html: No module named 'matplotlib'; install what it needs with "
    assert found.sentences.count(f"{missing}pip install 'pytest-quantcheck[report]'") == 1
    assert [path.name for path in (found.directory / "report").iterdir()] == ["report.json"]


def test_page_that_cannot_be_written_costs_no_verdict(gate, pytester):
    """Something lies where the page should go: one sentence says so, report.json is written, the outcome stands."""
    pytester.makeconftest(IN_THE_WAY)
    found = gate(*QUICK, TWO[0], "--quantcheck-report=report")
    assert found.status == 0
    (line,) = [line for line in found.lines if "report.html" in line]
    assert line.startswith("no report.html, the verdicts stand: ")
    assert "report: report/report.json" in found.lines


def test_page_that_is_a_link_elsewhere_is_left(gate, pytester):
    """Neither the link is removed, as an older page is, nor what it leads to replaced."""
    (pytester.path / "mine").write_text("mine")
    page = pytester.mkdir("report") / "report.html"
    page.symlink_to("../mine")
    found = gate(*QUICK, TWO[0], "--quantcheck-report=report")
    assert found.status == 0
    said = "no report.html, the verdicts stand: cannot write report/report.html: expected a regular file or nothing"
    assert found.sentences.count(said) == 1
    assert page.is_symlink()
    assert page.read_text() == "mine"
    assert "report: report/report.json" in found.lines


def test_drawing_that_fails_costs_no_verdict(gate, pytester, monkeypatch):
    """Whatever the libraries raise, the gate's result stands, the problem is said once, and no older page is left."""
    page = pytester.mkdir("report") / "report.html"
    page.write_text("of another run")
    monkeypatch.setattr("pytest_quantcheck.reporting.html.page._environment", lambda: 1 / 0)
    found = gate(*QUICK, TWO[0], "--quantcheck-report=report")
    assert found.status == 0
    said = "no report.html, the verdicts stand: ZeroDivisionError: division by zero; this is a bug in the plugin"
    assert found.sentences.count(said) == 1
    assert not page.exists()


@pytest.mark.slow
def test_workers_write_the_same_report(gate):
    """Two candidates over two workers: the same records in the same order, and so the same page, as one process."""
    both = [argument.replace("bits=8", "bits=8,4") for argument in QUICK]
    one = gate(*both, *TWO, "--quantcheck-report=one")
    two = gate(*both, *TWO, "--quantcheck-report=two", "-n", "2")
    reports = [
        json.loads((run.directory / name / "report.json").read_bytes()) for run, name in ((one, "one"), (two, "two"))
    ]
    assert len(reports[0]["comparisons"]) == 2
    for part in ("verdicts", "comparisons", "outcome"):
        assert reports[0][part] == reports[1][part]
    pages = [(run.directory / name / "report.html").read_text() for run, name in ((one, "one"), (two, "two"))]
    for page, name, report in zip(pages, ("one", "two"), reports, strict=True):
        assert f"<bdi>{name}</bdi>" in page
        assert report["created"][:10] in page
    assert len(pages[0]) == len(pages[1])
