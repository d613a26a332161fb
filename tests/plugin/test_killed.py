"""A run that is killed goes on where it stopped when it is started again."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

SLOW = """
import time
from pytest_quantcheck.storage import Entry

save = Entry.save_shard

def slow(self, *arguments):
    save(self, *arguments)
    time.sleep(0.3)  # so that there is time to be killed

Entry.save_shard = slow
"""
QUICK = (
    "--quantcheck-model=builtin",
    "--quantcheck-only",
    "--quantcheck-bits=4",
    "--quantcheck-samples=160",
    "--quantcheck-layers=2",
    "--quantcheck-attribution-samples=6",
)


@pytest.mark.slow
def test_killed_run_is_finished_by_the_next(gate, pytester):
    """SIGKILL while a model is measured: the next run finds what was done, and every number of an undisturbed one."""
    pytester.makepyfile(slow=SLOW)
    cache = pytester.path / "cache"
    command = (sys.executable, "-m", "pytest", *QUICK, f"--quantcheck-cache={cache}", "-p", "slow")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join((str(pytester.path), os.environ.get("PYTHONPATH", "")))}
    for wanted in (1, 2):  # while the reference is measured, then while the candidate is
        with subprocess.Popen(command, env=environment, cwd=pytester.path, stdout=subprocess.DEVNULL) as run:
            while run.poll() is None and not (len(list(cache.glob("*/key.json"))) == wanted and kept(cache)):
                time.sleep(0.02)
            run.send_signal(signal.SIGKILL)
        assert run.returncode == -signal.SIGKILL, "it was over before it was killed"
        assert kept(cache)
    resumed = gate(*QUICK, f"--quantcheck-cache={cache}", "--quantcheck-report=resumed")
    alone = gate(*QUICK, "--quantcheck-report=alone")
    assert resumed.status == alone.status
    found, expected = (json.loads((pytester.path / name / "report.json").read_text()) for name in ("resumed", "alone"))
    assert found["comparisons"] == expected["comparisons"]
    assert not kept(cache), "what is finished needs no shards"


def kept(cache):
    """What is kept of measurements under way."""
    return list(cache.glob("*/shards/*/*.safetensors"))
