"""Peak memory of measuring few prompts and many, each in a process of its own.

The kernel's high-water mark is read, not `ru_maxrss`: a new process inherits the latter from the one that started it.
"""

import dataclasses
import json
import os
import subprocess
import sys
import time
from itertools import chain, cycle, islice
from pathlib import Path

import pytest
import torch

from pytest_quantcheck.measuring import Plan, measure
from pytest_quantcheck.models.encoding import batches, collate, encode
from pytest_quantcheck.models.loading import load
from pytest_quantcheck.models.source import Source
from pytest_quantcheck.options import AttributionMethod
from pytest_quantcheck.prompts import read_prompts

BATCH = 16
STATUS = Path("/proc/self/status")
FORGET = Path("/proc/self/clear_refs")
TEMPLATE = "chat:Respond with True or False only.\n{prompt}\nAnswer:"


def repeated(prompts, n):
    """So many prompts of a set, from its beginning as often as needed; the longest batch is in it at any n.

    What one batch takes is then the same for few prompts and for many. A full stop before each repetition makes it
    another input: equal inputs are measured once.
    """
    lengths = [len(prompt) for prompt in prompts.prompts]
    longest = sorted(range(len(prompts)), key=lambda i: -lengths[i])[:BATCH]
    chosen = list(islice(chain(longest, cycle(set(range(len(prompts))) - set(longest))), n))
    columns = {name: tuple(getattr(prompts, name)[i] for i in chosen) for name in ("golds", "rows")}
    texts = tuple(". " * chosen[:place].count(i) + prompts.prompts[i] for place, i in enumerate(chosen))
    return dataclasses.replace(prompts, prompts=texts, **columns)


def forward(loaded, prompts):
    """The bare forward pass on the batches that `measure` makes."""
    encoded = encode(loaded.tokenizer, prompts.texts, chat=loaded.chat)
    with torch.no_grad():
        for part in batches(encoded, range(len(encoded)), BATCH):
            batch = collate(encoded, part, pad=loaded.tokenizer.pad_token_id, device=loaded.device)
            loaded.model(**batch.inputs(), logits_to_keep=1)


def measured(loaded, prompts):
    """What the plugin does, without the attribution pass, whose memory a setting bounds."""
    return measure(loaded, prompts, Plan(attribution=AttributionMethod("off"), batch_size=BATCH), model="")


def attributed(loaded, prompts):
    """The same, with the attribution pass of half of the prompts."""
    return measure(loaded, prompts, Plan(samples=len(prompts) // 2, batch_size=BATCH), model="")


def mib(field):
    """A line of this process's status, in MiB."""
    (line,) = (line for line in STATUS.read_text().splitlines() if line.startswith(f"{field}:"))
    return int(line.split()[1]) / 1024


def main(work, n, *, model, source, template, most, room=None):
    """Do one kind of work on n of `most` prompts and print what it took, in MiB and seconds.

    `room`: bytes that weights may take, if not as many as they are.
    """
    prompts = repeated(read_prompts(source, template=template, samples=most, seed=0), n)
    place = {"max_memory": (("cpu", room),)} if room else {"device": "cpu"}
    with load(Source(model, dtype="bf16", **place)) as loaded:
        parameters = sum(p.nbytes for p in loaded.model.parameters() if not p.is_meta) / 2**20
        loading = mib("VmHWM")
        FORGET.write_text("5")  # the mark starts again from here: loading may have taken more than all that follows
        began = time.perf_counter()
        kept = {"forward": forward, "measure": measured, "attribute": attributed}[work](loaded, prompts)
        seconds = time.perf_counter() - began
        assert kept is None or len(kept.answers.index) == n
        print(json.dumps({"parameters": parameters, "loading": loading, "peak": mib("VmHWM"), "seconds": seconds}))


@pytest.fixture
def peak(request, full):
    """Does one kind of work on n prompts in a fresh process and gives what it took."""
    source = os.environ.get("QUANTCHECK_BENCHMARK_PROMPTS", "builtin") if full else "builtin"
    on = {
        "model": str(request.getfixturevalue("smollm2")) if full else "builtin",
        "source": source,
        "template": "auto" if source == "builtin" else TEMPLATE,
    }
    environment = os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())}

    def run(work, n, most, **more):
        command = [sys.executable, __file__, json.dumps({"work": work, "n": n, "most": most} | on | more)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=1200, check=False)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return run


@pytest.mark.skipif(not FORGET.exists(), reason="the high-water mark of memory is read from Linux")
@pytest.mark.ci
@pytest.mark.minutes
@pytest.mark.benchmark(group="memory")
def test_memory_grows_with_the_model_not_with_the_prompts(benchmark, peak, full):
    """Eight times as many prompts take no more memory than their answers do.

    Few prompts fill every buffer. At the reduced size a further prompt may take 40 KiB: its answer takes 2, with the
    copies while all are put in order a few times that; its activations in three layers would take 100.
    """
    few, many = (256, 2048) if full else (800, 2400)
    found = {("measure", few): peak("measure", few, many)}
    if full:
        found |= {("forward", n): peak("forward", n, many) for n in (few, many)}
    found["measure", many] = benchmark.pedantic(peak, args=("measure", many, many), rounds=1)
    benchmark.extra_info |= {f"{work}, {n} prompts (MiB)": took for (work, n), took in found.items()}
    grown = found["measure", many]["peak"] - found["measure", few]["peak"]
    benchmark.extra_info |= {"grown_mib": grown, "kib_per_prompt": 1024 * grown / (many - few), "dtype": "bf16"}
    if not full:
        assert benchmark.extra_info["kib_per_prompt"] < 40


@pytest.mark.skipif(not FORGET.exists(), reason="the high-water mark of memory is read from Linux")
@pytest.mark.ci
@pytest.mark.minutes
@pytest.mark.benchmark(group="memory")
def test_weights_on_disk(benchmark, peak, full):
    """Measuring many prompts, and measuring and attributing one batch, with all weights in memory and with few.

    `parameters`: MiB of weights in memory. What the process takes beside them is the working set.
    """
    rooms = (None, 200_000_000, 100_000_000) if full else (None, 2_000_000)
    works = {"measure": 256 if full else 24, "attribute": BATCH}
    *cases, last = [(work, n, room) for work, n in works.items() for room in rooms]
    found = {(work, room): peak(work, n, n, room=room) for work, n, room in cases}
    work, n, room = last
    found[work, room] = benchmark.pedantic(peak, args=(work, n, n), kwargs={"room": room}, rounds=1)
    benchmark.extra_info |= {f"{work}, room for {room or 'all'}": took for (work, room), took in found.items()}
    for work in works:
        weights = [found[work, room]["parameters"] for room in rooms]
        assert weights == sorted(weights, reverse=True)
        assert weights[-1] <= rooms[-1] / 2**20


if __name__ == "__main__":
    arguments = json.loads(sys.argv[1])
    main(arguments.pop("work"), arguments.pop("n"), **arguments)
