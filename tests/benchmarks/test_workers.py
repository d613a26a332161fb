"""Two workers against one, each with one thread; and what the process that hands out their work takes itself."""

import os
import re
import statistics
import time
from pathlib import Path

import pytest

from pytest_quantcheck.measuring import NoProgress, Plan
from pytest_quantcheck.options import AttributionMethod
from pytest_quantcheck.prompts import read_prompts
from pytest_quantcheck.run.gate import Gate
from pytest_quantcheck.run.jobs import Job
from tests.bits import bits_of
from tests.gates import settings

ray = pytest.importorskip("ray")

pytestmark = [pytest.mark.ci, pytest.mark.minutes]

STATUS = Path("/proc/self/status")


@pytest.fixture(scope="module", autouse=True)
def _cluster():
    """Room for three workers, of whom at most two work at a time."""
    ray.init(num_cpus=3, include_dashboard=False, log_to_driver=False, logging_level="ERROR", object_store_memory=2**28)
    yield
    ray.shutdown()


@pytest.fixture
def hired(request):
    """Workers of one thread each that have loaded a model: gives the engine's opened job."""
    from pytest_quantcheck.run.ray_engine import RayEngine

    def make(n, model, prompts, plan, dtype="auto"):
        asked = settings(model=model, dtype=dtype, engine="ray", workers=n, cpus_per_worker=1, device="cpu")
        engine = RayEngine(asked)
        request.addfinalizer(engine.close)
        opened = engine.open(Job(Gate(asked).targets.reference, plan, {"benchmark": prompts}, references={}))
        loaded = opened.__enter__()
        request.addfinalizer(lambda: opened.__exit__(None, None, None))
        return loaded

    return make


def seconds_of(loaded):
    """CPU seconds of a job's workers so far."""
    pids = [re.search(r"process (\d+)", worker.name)[1] for worker in loaded.loaded.crew.workers]
    stats = [Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split() for pid in pids]
    return sum(int(stat[11]) + int(stat[12]) for stat in stats) / os.sysconf("SC_CLK_TCK")


@pytest.mark.benchmark(group="workers")
def test_two_workers(request, prompts, race, full, hired):
    """512 prompts in shards of 32, 64 of them attributed; the models are loaded before.

    `driver`: CPU seconds of the process that hands out shards and merges them, as a share of the workers'. `floor`: the
    ratio if neither of two workers ever waited; they slow each other down by what they take of the machine together.
    """
    chosen = prompts(512 if full else 24)
    plan = Plan(shard_size=32, samples=64) if full else Plan(shard_size=4, batch_size=4, samples=6, layers=(2,))
    model = str(request.getfixturevalue("smollm2")) if full else "builtin"
    two, one = (hired(n, model, chosen, plan, "bf16" if full else "auto") for n in (2, 1))
    shares, took = [], {id(two): [], id(one): []}

    def measured(loaded):
        before, began = seconds_of(loaded), time.process_time()
        found = loaded.measure("benchmark", None, NoProgress())
        took[id(loaded)].append(seconds_of(loaded) - before)
        shares.append((time.process_time() - began) / took[id(loaded)][-1])
        return found

    found, peers = race(
        lambda: measured(two), {"one worker": lambda: measured(one)}, rounds=2, warmup=0, n_prompts=len(chosen)
    )
    race.info |= {
        "driver": max(shares),
        "floor": statistics.median(took[id(two)]) / statistics.median(took[id(one)]) / 2,
    }
    assert bits_of(found) == bits_of(peers["one worker"])


@pytest.mark.benchmark(group="workers")
def test_memory_of_the_driver(benchmark, full, hired):
    """The built-in model and prompts in 8 shards and in 256: how far the driver's own memory rises at most, in MiB.

    Read whenever it looks at its workers. What it shares with them (Ray's store) is not its own.
    """
    chosen, peaks = read_prompts("builtin", samples=256 if full else 16), {}
    for n in (8, 256) if full else (2, 16):
        plan = Plan(attribution=AttributionMethod("off"), batch_size=1, shard_size=len(chosen) // n)
        loaded = hired(2, "builtin", chosen, plan)
        readings = Readings()
        found = loaded.measure("benchmark", None, readings)
        peaks[n] = max(readings.mib) - readings.mib[0]
        assert len(found.answers.index) == len(chosen)
        loaded.loaded.crew.dismiss(loaded.loaded.crew.workers)
    benchmark.extra_info |= {"mib": peaks}
    benchmark.pedantic(lambda: None)


class Readings(NoProgress):
    """This process's own memory, in MiB, at the beginning and whenever a shard has come."""

    def __init__(self):
        self.mib = []
        self.advance()

    def advance(self, _n=1):
        (line,) = (line for line in STATUS.read_text().splitlines() if line.startswith("RssAnon:"))
        self.mib.append(int(line.split()[1]) / 1024)

    def workers(self, _lines):
        self.advance()
