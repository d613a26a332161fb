"""Progress lines stand where somebody may read them, and disturb nothing."""

QUICK = ("--quantcheck-model=builtin", "--quantcheck-samples=12", "--quantcheck-layers=2", "--quantcheck-bits=8")
ONE = ("quantcheck::test_kl_divergence", "--quantcheck-attribution=off")
PRINTING = """
def test_prints(quantcheck, {capture}):
    print("before")
    {measure}
    print("after")
    assert {capture}.readouterr().out.splitlines() == ["before", "after"]
"""
ANNOUNCING = """
    with quantcheck._progress("int8 on builtin") as progress:
        progress.start("measuring", 12)
        progress.finish()
"""


def test_lines_where_nobody_watches(whole_run):
    """Off a terminal each phase of each model is a whole line: which model, which prompts, how many, how long."""
    told = [line for line in whole_run.lines if line.endswith("in less than 1 s") or " prompts in " in line]
    assert [line.split(":")[0] for line in told] == [
        f"{model} on builtin, {phase}"
        for model in ("reference", "int8", "nf4")
        for phase in ("measuring", "attributing")
    ]
    assert told[0].startswith("reference on builtin, measuring: 24 prompts in ")
    assert not any("\r" in line for line in told)


def test_without_capture_nothing_is_disturbed(gate, pytester):
    """With -s a user's test reads what it printed and nothing of ours."""
    pytester.makepyfile(test_user=PRINTING.format(capture="capsys", measure="quantcheck.compare('int8')"))
    found = gate(*QUICK, "--quantcheck-attribution=off", "test_user.py", "-s", "-k", "test_prints")
    assert "1 passed" in found.lines[-1]
    assert sum("measuring: 12 prompts" in line for line in found.lines) == 2


def test_line_gets_past_captured_file_descriptors(pytester):
    """In a process of its own, where pytest captures descriptors, the line is seen and the test does not read it."""
    pytester.makepyfile(test_user=PRINTING.format(capture="capfd", measure=ANNOUNCING.strip()))
    found = pytester.runpytest_subprocess(*QUICK, "--capture=fd", "test_user.py", "-k", "test_prints")
    assert "1 passed" in found.outlines[-1]
    assert found.outlines.count("int8 on builtin, measuring: 0 prompts in less than 1 s") == 1


def test_quiet_means_quiet(gate):
    """With -q there is no progress line."""
    assert "measuring" not in gate(*QUICK, *ONE, "-q").text
