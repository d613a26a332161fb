"""A model in the ini file gates where the gate is asked for, and leaves other runs of pytest alone."""

import pytest

INI = """
[pytest]
quantcheck_model = builtin
quantcheck_bits = 8
quantcheck_samples = 12
quantcheck_layers = 2
quantcheck_attribution = off
markers = release: of a release
"""
GATE = 9  # metrics of default@2 without attributions
PLAIN = "def test_plain(): pass\n"


@pytest.fixture
def collected(pytester):
    """Collects with a model in the ini file and returns the numbers of plain and of packaged tests."""
    pytester.makepyfile(test_plain=PLAIN)
    pytester.path.joinpath("words.txt").write_text("-m\nnot release\n")

    def collect(*arguments, ini=""):
        pytester.makeini(INI + ini)
        lines = pytester.runpytest_inprocess("--collect-only", "-q", *arguments).outlines
        return sum("::test_plain" in line for line in lines), sum(line.startswith("quantcheck::") for line in lines)

    return collect


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((), (1, GATE)),
        (("test_plain.py",), (1, 0)),
        (("test_plain.py::test_plain",), (1, 0)),
        (("-m", "not release"), (1, 0)),
        (("-mnot release",), (1, 0)),
        (("-k", "plain"), (1, 0)),
        (("-xk", "not release"), (1, 0)),
        (("-xm", "not release"), (1, 0)),
        (("-xmnot release",), (1, 0)),
        (("@words.txt",), (1, 0)),
        (("-m", ""), (1, GATE)),
        (("-m", "quantcheck"), (0, GATE)),
        (("-m", "not quantcheck"), (1, 0)),
        (("-k", "ace_drift"), (0, 1)),
        (("-k", "ACE_drift"), (0, 1)),
        (("--quantcheck-only",), (0, GATE)),
        (("test_plain.py", "--quantcheck-only"), (0, GATE)),
        (("quantcheck::test_ace_drift",), (0, 1)),
        (("quantcheck", "test_plain.py"), (1, GATE)),
        (("test_plain.py", "-m", "quantcheck or not release"), (1, GATE)),
        (("test_plain.py", "--quantcheck-model=builtin"), (1, GATE)),
        (("test_plain.py", "--quantcheck-bits=8"), (1, GATE)),
    ],
)
def test_ini_file_alone_asks_for_no_gate_where_tests_are_named(collected, arguments, expected):
    """A path, a node id or an expression names other tests; an option of ours or its name asks for the gate."""
    assert collected(*arguments) == expected


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((), (0, GATE)),
        (("test_plain.py",), (1, 0)),
        (("-xk", "plain"), (1, 0)),
        (("quantcheck::test_ace_drift",), (0, 1)),
        (("quantcheck", "test_plain.py"), (1, GATE)),
        (("test_plain.py", "--quantcheck-bits=8"), (1, GATE)),
        (("-k", "plain or ace_drift"), (1, 1)),
        (("test_plain.py", "--quantcheck-only"), (0, GATE)),
    ],
)
def test_only_in_the_ini_file_hides_no_test_that_is_named(collected, arguments, expected):
    """It decides what plain `pytest` runs; on the command line it goes before the tests that are named there."""
    assert collected(*arguments, ini="quantcheck_only = true\n") == expected


@pytest.mark.parametrize(
    ("addopts", "arguments", "expected"),
    [
        ("-k 'plain or ace_drift'", (), (1, 1)),
        ("-m 'not release'", (), (1, GATE)),
        ("test_plain.py", (), (1, GATE)),
        ("--quantcheck-only", (), (0, GATE)),
        ("--quantcheck-only", ("test_plain.py",), (1, GATE)),
    ],
)
def test_addopts_name_no_tests(collected, addopts, arguments, expected):
    """Paths and expressions that are part of every run leave the gate in, and none of them hides a test."""
    assert collected(*arguments, ini=f"addopts = {addopts}\n") == expected


def test_header_says_that_the_gate_is_left_out(pytester):
    """And how to have it."""
    pytester.makeini(INI)
    pytester.makepyfile(test_plain=PLAIN)
    result = pytester.runpytest_inprocess("test_plain.py")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["*the gate is not collected; add -m quantcheck or --quantcheck-only*"])


def test_fixture_works_where_the_gate_is_left_out(pytester):
    """A user's own test takes the ini file's model."""
    pytester.makeini(INI)
    pytester.makepyfile("def test_names(quantcheck): assert quantcheck.candidates == ('int8',)")
    pytester.runpytest_inprocess("test_fixture_works_where_the_gate_is_left_out.py").assert_outcomes(passed=1)


@pytest.mark.parametrize(
    ("key", "meant"),
    [
        ("quantcheck_modle", "quantcheck_model"),
        ("quantcheck-model", "quantcheck_model"),
        ("QUANTCHECK_MODEL", "quantcheck_model"),
        ("quantchek_model", "quantcheck_model"),
        ("qauntcheck_bit", "quantcheck_bits"),
        ("quant_check_samples", "quantcheck_samples"),
    ],
)
def test_misspelt_ini_key_is_an_error(pytester, key, meant):
    """The nearest option is named, also where no gate is asked for."""
    pytester.makeini(f"[pytest]\n{key} = builtin\n")
    result = pytester.runpytest_inprocess()
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"*tox.ini: expected an option of the gate, got '{key}'*'{meant}'?*"])


@pytest.mark.parametrize("key", ["quickcheck_model", "quantum_bits", "unitcheck_only", "model"])
def test_unknown_ini_key_of_others_is_left_to_pytest(pytester, key):
    """A key that is not like ours may belong to a plugin that is not installed."""
    pytester.makeini(f"[pytest]\n{key} = builtin\n")
    pytester.makepyfile(test_plain=PLAIN)
    pytester.runpytest_inprocess("-W", "default").assert_outcomes(passed=1, warnings=1)


def test_marker_is_registered(pytester):
    """`--strict-markers -m quantcheck` runs where nothing is gated."""
    pytester.makepyfile("import pytest\n@pytest.mark.quantcheck\ndef test_mine(): pass")
    pytester.runpytest_inprocess("--strict-markers", "-m", "quantcheck").assert_outcomes(passed=1)
