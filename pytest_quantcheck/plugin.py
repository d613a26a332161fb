"""pytest hooks and fixtures; each delegates to the room that knows."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from typing import TYPE_CHECKING, Any

import pytest

from pytest_quantcheck.bit_widths import WIDTHS
from pytest_quantcheck.errors import QuantcheckError
from pytest_quantcheck.options import asked, check_ini_keys, register
from pytest_quantcheck.suite.ending import arm, begin, disarm
from pytest_quantcheck.suite.tracebacks import show_users_line

if TYPE_CHECKING:
    from pytest_quantcheck.models.loaded import LoadedModel
    from pytest_quantcheck.options import Settings
    from pytest_quantcheck.run.gate import Gate
    from pytest_quantcheck.suite.session import Session

_SESSION = pytest.StashKey["Session"]()
_NO_MODEL = "needs --quantcheck-model=MODEL"
_NO_CANDIDATE = (
    "quantcheck_bits runs a test for each candidate, so a function must name it, or a fixture that needs it, among its "
    "arguments; elsewhere, as in a unittest.TestCase, loop over quantcheck.candidates"
)


def pytest_addoption(parser: pytest.Parser, pluginmanager: pytest.PytestPluginManager) -> None:
    """Add the `--quantcheck-*` options and their ini twins; this is also the first that a plugin hears of a run."""
    register(parser)
    config = pluginmanager.get_plugin("pytestconfig")
    if config:
        arm(config, config.invocation_params.args)


@pytest.hookimpl(tryfirst=True)
def pytest_load_initial_conftests(early_config: pytest.Config, args: list[str]) -> None:
    """Handle SIGTERM, where the ini file may ask for a gate."""
    arm(early_config, args)


def pytest_configure(config: pytest.Config) -> None:
    """Check everything that can be checked without loading a model; a mistake ends pytest with exit status 4."""
    config.addinivalue_line("markers", "quantcheck: a packaged test of the release gate")
    if config.option.help or config.option.version:
        return
    try:
        check_ini_keys(config)
        settings = _settings(config)
        if settings is None:
            disarm(config)
        else:
            config.stash[_SESSION] = _session(config, settings)
    except QuantcheckError as error:
        raise pytest.UsageError(str(error)) from error


def pytest_report_header(config: pytest.Config) -> list[str] | None:
    """Name the model, candidates, prompts, profile and versions."""
    session = config.stash.get(_SESSION, None)
    return session.header() if session else None


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(session: pytest.Session, config: pytest.Config, items: list[pytest.Item]) -> None:
    """Add the packaged suite, before other plugins select."""
    run = config.stash.get(_SESSION, None)
    if run:
        items += run.collect(session)


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop(session: pytest.Session) -> bool | None:
    """Check the prompts and start the engine; run nothing in a dry run."""
    run = session.config.stash.get(_SESSION, None)
    if run is None:
        return None
    run.make_ready(session.items)
    return run.dry_run()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Parametrize `quantcheck_bits` with every candidate, unless the test itself says with which."""
    if "quantcheck_bits" in metafunc.fixturenames and not _parametrized(metafunc.definition, "quantcheck_bits"):
        run = metafunc.config.stash.get(_SESSION, None)
        nothing = [pytest.param(None, id="none", marks=pytest.mark.skip(reason=_NO_MODEL))]
        values = run.gate.candidates if run else nothing
        metafunc.parametrize("quantcheck_bits", values, indirect=True, scope="session")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Generator[None, Any, Any]:
    """Let a report carry its verdict, also from xdist's workers."""
    report = yield
    run = item.config.stash.get(_SESSION, None)
    if run:
        run.results.attach(item, report, call)
    return report


@pytest.hookimpl(specname="pytest_runtest_makereport")
def pytest_quantcheck_shorten(item: pytest.Item, call: pytest.CallInfo[None]) -> None:
    """Show the user's own line of an expected error; unittest's errors are known to no wrapper."""
    show_users_line(item, call)


@pytest.fixture(scope="session")
def quantcheck(request: pytest.FixtureRequest) -> Gate:
    """Return the gate of this run: `.load(name)`, `.measure(name)`, `.compare(name)`.

    Each model is measured once.

    Tests that use it are skipped where no `--quantcheck-model` is given.
    """
    run = request.config.stash.get(_SESSION, None)
    if run is None:
        pytest.skip(_NO_MODEL)
    return run.gate


@pytest.fixture(scope="session")
def quantcheck_bits(request: pytest.FixtureRequest) -> str:
    """Return each candidate's name in turn: an exact bit-width, such as `int8`, or that of a released checkpoint."""
    if not hasattr(request, "param"):
        pytest.fail(_NO_CANDIDATE, pytrace=False)
    bits: str = request.param
    return bits


@pytest.fixture
def quantcheck_reference_model(quantcheck: Gate) -> Iterator[LoadedModel]:
    """Load the model at full precision, with `.model` and `.tokenizer`; freed after the test."""
    with quantcheck.load() as loaded:
        yield loaded


@pytest.fixture
def quantcheck_candidate_model(quantcheck: Gate, quantcheck_bits: str) -> Iterator[LoadedModel]:
    """Load each candidate in turn, with `.model`, `.tokenizer` and `.bits`; freed after the test."""
    with quantcheck.load(quantcheck_bits) as loaded:
        yield loaded


def _fixture_at(bit_width: str, words: str) -> Any:
    def quantized(quantcheck: Gate) -> Iterator[LoadedModel]:
        with quantcheck.load(bit_width) as loaded:
            yield loaded

    quantized.__doc__ = f"Load the model as {words}, with `.model` and `.tokenizer`; freed after the test."
    return pytest.fixture(quantized, name=f"quantcheck_{bit_width}_model")


for _name, _width in WIDTHS.items():
    if _width.quantization:  # quantcheck_int8_model, quantcheck_nf4_model, …
        globals()[f"quantcheck_{_name}_model"] = _fixture_at(_name, _width.words)


def _parametrized(test: pytest.Item, fixture: str) -> bool:
    """Tell whether a test parametrizes a fixture itself."""
    names = (mark.args[0] if mark.args else mark.kwargs["argnames"] for mark in test.iter_markers("parametrize"))
    return any(
        fixture in (argnames.replace(" ", "").split(",") if isinstance(argnames, str) else argnames)
        for argnames in names
    )


def _settings(config: pytest.Config) -> Settings | None:
    if not asked(config):
        return None
    from pytest_quantcheck.options import settings_from

    return settings_from(config)


def _session(config: pytest.Config, settings: Settings) -> Session:
    from pytest_quantcheck.suite.session import Session

    begin(config)
    session = Session(config, settings)
    config.pluginmanager.register(session, "quantcheck-session")
    return session
