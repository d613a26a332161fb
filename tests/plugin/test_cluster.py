"""A gate whose models are measured by workers, as its user runs and ends it."""

import json
import os
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.ci,
    pytest.mark.skipif(
        find_spec("ray") is None, reason="Ray is not installed: pip install 'pytest-quantcheck[cluster]'"
    ),
]

QUICK = (
    "--quantcheck-model=builtin",
    "--quantcheck-only",
    "--quantcheck-bits=8",
    "--quantcheck-samples=96",
    "--quantcheck-shard-size=16",
    "--quantcheck-layers=2",
    "--quantcheck-attribution-samples=24",
)
WORKERS = ("--quantcheck-engine=ray", "--quantcheck-workers=2", "--quantcheck-cpus-per-worker=1")


def start(folder, *arguments):
    """Start a gate in a process of its own, which computes with one thread as each worker does."""
    command = (sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *QUICK, *arguments)
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    return subprocess.Popen(
        command, cwd=folder, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )


def run(folder, *arguments):
    """Run a gate to its end; return its status and what it printed."""
    with start(folder, *arguments) as process:
        printed, _ = process.communicate()
    return process.returncode, printed


def comparisons(folder):
    """What a run found."""
    return json.loads((folder / "report" / "report.json").read_text())["comparisons"]


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The status and comparisons of one process."""
    folder = tmp_path_factory.mktemp("alone")
    status, _ = run(folder, "--quantcheck-report=report")
    return status, comparisons(folder)


def test_killed_run_goes_on_where_it_stopped(alone, tmp_path):
    """SIGKILL while shards are measured: workers end, and the next run takes up what they had finished.

    Every number of its report is that of one process; Ray says nothing in between.
    """
    cache = ("--quantcheck-cache=cache", "--quantcheck-report=report")
    with start(tmp_path, *WORKERS, *cache) as process:
        await_that(lambda: len(list(tmp_path.glob("cache/*/shards/*"))) > 1, process)
        workers = processes_of_workers(tmp_path)
        process.kill()
    assert workers
    await_that(lambda: not set(workers) & set(processes_of_workers(tmp_path)))
    status, printed = run(tmp_path, *WORKERS, *cache)
    assert (status, comparisons(tmp_path)) == alone, printed
    assert "batch size 16, 2 workers on Ray\n" in printed
    assert "raylet" not in printed
    assert "ray::" not in printed


def test_interrupt_ends_own_workers_and_no_others(tmp_path):
    """Ctrl-C in a run that joined a cluster: another's actor lives on there, this run's are gone."""
    with cluster(tmp_path) as (address, other):
        with start(tmp_path, *WORKERS, f"--quantcheck-engine-address={address}", "--quantcheck-cache=cache") as process:
            await_that(lambda: len(list(tmp_path.glob("cache/*/shards/*"))) > 1, process)
            workers = processes_of_workers(tmp_path)
            assert len(workers) == 2
            process.send_signal(signal.SIGINT)
            printed, _ = process.communicate()
        assert process.returncode == pytest.ExitCode.INTERRUPTED, printed
        await_that(lambda: not set(workers) & set(processes_of_workers(tmp_path)))
        assert other.poll() is None


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ("--quantcheck-engine-address=127.0.0.1:1", "can be joined there: [Errno 111] Connection refused"),
        ("-n2", "--quantcheck-engine=ray and pytest-xdist's -n would both divide the work"),
    ],
)
def test_what_cannot_be_is_said_before_anything_is_measured(asked, said, tmp_path):
    """In a sentence, with the exit status of a mistake in the command line."""
    status, printed = run(tmp_path, *WORKERS, asked)
    assert status == pytest.ExitCode.USAGE_ERROR, printed
    assert said in printed.rstrip().splitlines()[-1], printed
    assert "Traceback" not in printed


OTHER = """
import ray, sys
node = ray.init(num_cpus=3, include_dashboard=False, log_to_driver=False, object_store_memory=2**28)
@ray.remote(num_cpus=1)
class Other:
    def ping(self): return 1
other = Other.remote()
ray.get(other.ping.remote())
print(node.address_info["gcs_address"], flush=True)
sys.stdin.read()
ray.get(other.ping.remote())
"""
"""Another user of a cluster, whose actor must answer to the end."""


class cluster:  # noqa: N801 - a context manager
    """Another process's cluster; gives its address and that process."""

    def __init__(self, folder):
        self._folder = folder

    def __enter__(self):
        self._process = subprocess.Popen(
            (sys.executable, "-c", OTHER),
            cwd=self._folder,
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        return self._process.stdout.readline().strip(), self._process

    def __exit__(self, *_error):
        self._process.communicate("")
        assert self._process.returncode == 0


def processes_of_workers(folder):
    """The processes of Ray that have a `Worker` of the gate, in a cluster that was started in a folder."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if b"ray::Worker" in (path / "cmdline").read_bytes() and (path / "cwd").readlink() == folder:
                found.append(int(path.name))
        except OSError:
            continue
    return found


def await_that(happens, process=None):
    """Wait until something is so; a process that ends before is a failure."""
    began = time.monotonic()
    while not happens():
        assert process is None or process.poll() is None, process.stdout.read()
        assert time.monotonic() - began < 120
        time.sleep(0.05)
