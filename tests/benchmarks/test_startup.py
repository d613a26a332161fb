"""Starting pytest where the plugin is installed and not asked for, against the same without it."""

import os
import subprocess
import sys
from importlib.metadata import entry_points

import pytest

# Bytecode is cached, as it is for users.
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
OTHERS = sorted({plugin.name for plugin in entry_points(group="pytest11")} - {"quantcheck"})


@pytest.fixture
def start(tmp_path):
    """Runs pytest on one trivial test in a fresh process, without the plugins of these names.

    A plugin that is left out is found among the installed ones, as each start of pytest looks at all of them, and not
    imported. Other people's plugins are always left out: they may take any time.
    """
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    (tmp_path / "test_plain.py").write_text("def test_plain(): pass\n")

    def run(*without):
        left_out = [word for name in [*OTHERS, *without] for word in ("-p", f"no:{name}")]
        done = subprocess.run(
            [sys.executable, "-m", "pytest", *left_out, "test_plain.py"],
            cwd=tmp_path,
            env=ENVIRONMENT,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return run


@pytest.mark.benchmark(group="startup")
def test_starting_pytest(race, start, full, benchmark):
    """One trivial test from the start of the process to its end; the overhead is our time over the peer's."""
    peer = "without the plugin"
    found, others = race(start, {peer: lambda: start("quantcheck")}, rounds=40, warmup=3, tests=1)
    if full:
        benchmark.extra_info["overhead"] = 1 / benchmark.extra_info["ratio"]
    assert "plugins: quantcheck" in found
    assert "plugins:" not in others[peer]
