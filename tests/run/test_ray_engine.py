"""Two real workers measure what one process does, whatever becomes of them."""

import os
import re
import resource
import shutil
import signal
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import msgspec
import pytest
import torch
from safetensors.torch import load_file, save_file

from pytest_quantcheck.errors import MeasurementError, NonFiniteError, SettingsError
from pytest_quantcheck.libraries import installed
from pytest_quantcheck.measuring import NoProgress, Plan
from pytest_quantcheck.models import builtin
from pytest_quantcheck.options import AttributionMethod
from pytest_quantcheck.prompts import read_prompts
from pytest_quantcheck.run.cache_key import KEYED_PACKAGES
from pytest_quantcheck.run.cluster_worker import Place
from pytest_quantcheck.run.gate import Gate
from pytest_quantcheck.run.jobs import Job
from pytest_quantcheck.run.local_engine import LocalEngine
from pytest_quantcheck.run.local_models import LocalModels
from tests.bits import bits_of
from tests.gates import settings

pytest.importorskip("ray")

from pytest_quantcheck.run import ray_cluster, ray_engine, ray_workers

WORKS = re.compile(r"worker (\d), .+ \(process (\d+)\): shard (\d) of (\d), (measuring|attributing) (\d+)/")
ADAPTIVE = AttributionMethod()
ATTRIBUTED = {"attribution": ADAPTIVE, "attribution_samples": 96, "continuation": 4}


class Listener(NoProgress):
    """Hears what workers do, and calls `act` with the number, process and shard of each that measures."""

    def __init__(self, act=None):
        self.act, self.heard = act, []

    def workers(self, lines):
        self.heard += lines
        for line in lines:
            if self.act and (found := WORKS.match(line)):
                self.act(int(found[1]), int(found[2]), int(found[3]))


class Once:
    """Sends one signal to the first worker that measures."""

    def __init__(self, sent):
        self.sent, self.pid = sent, None

    def __call__(self, _number, pid, _shard):
        if self.pid is None:
            os.kill(pid, self.sent)
            self.pid = pid


@pytest.fixture(scope="module")
def _cluster():
    """One cluster for all gates of this file: a Ray that is there is used, and left."""
    import ray

    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR", object_store_memory=2**28)
    yield
    assert ray.is_initialized(), "a gate has ended a cluster that is not its own"
    ray.shutdown()


@pytest.fixture(autouse=True)
def _quick_looks(monkeypatch):
    """A shard of these tests takes less time than usually passes between two looks at what workers do."""
    monkeypatch.setattr(ray_workers, "_POLL", 0.02)


@pytest.fixture(autouse=True)
def _one_thread():
    """This process computes with as many threads as a worker."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def workers(_cluster):
    """Two workers of one thread each, whom all gates of this file share."""
    engine = ray_engine.RayEngine(settings(engine="ray", workers=2, cpus_per_worker=1, worker_timeout=180))
    engine.start()
    yield engine
    engine.close()


@pytest.fixture
def gate_of(workers):
    """Makes a gate on 96 prompts in six shards, measured by workers or by this process."""

    def make(engine, listener=None, **changes):
        asked = settings(samples=96, shard_size=16, **changes)
        gate = Gate(asked, lambda _label: nullcontext(listener or NoProgress()))
        if engine == "ray":
            gate._engine = workers
        return gate

    return make


@pytest.fixture
def measured(gate_of):
    """Measures the reference; gives all of it, to the last bit."""
    return lambda engine, listener=None, **changes: bits_of(gate_of(engine, listener, **changes).measure())


@pytest.fixture(scope="module")
def undisturbed():
    """What one process measures of the reference, all prompts attributed."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield bits_of(Gate(settings(samples=96, shard_size=16, **ATTRIBUTED)).measure())
    torch.set_num_threads(before)


@pytest.mark.ci
def test_every_number_is_that_of_one_process(gate_of, monkeypatch):
    """Of the reference, a candidate, a control, and of layer 0, which the first shard gives up.

    Shards are begun until that is decided.
    """
    requests, begin = [], ray_workers.Hired.begin

    def spied(worker, task, request, *arguments):
        requests.append(request)
        begin(worker, task, request, *arguments)

    monkeypatch.setattr(ray_workers.Hired, "begin", spied)
    asked = {"layers": (0, 2), "attribution": ADAPTIVE, "attribution_samples": 40, "continuation": 4}
    control = "wrong-scales"
    found, listener = {}, Listener()
    for engine in ("local", "ray"):
        gate = gate_of(engine, listener, **asked)
        measurements = [bits_of(gate.measure(target)) for target in ("reference", "int8")]
        found[engine] = (*measurements, gate.compare(control), gate.judge_control(control).done)
    assert found["ray"] == found["local"]
    assert {WORKS.match(line)[1] for line in listener.heard if WORKS.match(line)} == {"1", "2"}
    assert "begin" in requests


@pytest.mark.ci
@pytest.mark.parametrize("asked", [{"attribution": AttributionMethod("fixed", 4)}, {"readout": "choices"}])
def test_other_settings_give_the_same_numbers(measured, asked):
    """Where no layer is given up by the first shard, none waits for it."""
    assert measured("ray", attribution_samples=30, **asked) == measured("local", attribution_samples=30, **asked)


@pytest.mark.ci
def test_shards_that_are_kept_are_not_measured_again(measured, undisturbed, tmp_path):
    """What one process has measured, workers take up."""

    class EnoughError(Exception):
        """Ends a run."""

    class Impatient(NoProgress):
        def start(self, label, _total):
            if label.startswith("shard 4"):
                raise EnoughError

    with pytest.raises(EnoughError):
        measured("local", Impatient(), cache=str(tmp_path), **ATTRIBUTED)
    listener = Listener()
    assert measured("ray", listener, cache=str(tmp_path), **ATTRIBUTED) == undisturbed
    assert {int(WORKS.match(line)[3]) for line in listener.heard if WORKS.match(line)} <= {4, 5, 6}


FAULTS = {"killed": signal.SIGKILL, "hanging": signal.SIGSTOP}


@pytest.mark.ci
@pytest.mark.parametrize("fault", FAULTS)
def test_worker_that_is_lost_costs_no_number(measured, undisturbed, workers, monkeypatch, fault):
    """Its shard is measured by another, or by it when it is back; a hanging one is ended after a while."""
    monkeypatch.setattr(workers._crew, "_patience", 40)  # a busy machine loads a model for longer than 12 s
    once = Once(FAULTS[fault])
    assert measured("ray", Listener(once), **ATTRIBUTED) == undisturbed
    assert once.pid is not None, "no worker was caught at work"
    assert not is_there(once.pid)


@pytest.mark.ci
def test_worker_without_memory_leaves_its_shard_to_another(gate_of, workers):
    """It gets a new process; the limit on the old one's memory leaves no room for so large a batch."""
    gate = gate_of("local", batch_size=512)
    prompts = read_prompts("builtin", samples=1024)
    plan = Plan(layers=(2,), attribution=AttributionMethod("off"), batch_size=512, shard_size=512)
    job = Job(gate.targets.reference, plan, {"builtin": prompts}, references={})
    with LocalEngine(LocalModels()).open(job) as model:
        expected = model.measure("builtin", None, NoProgress())
    with workers.open(job) as model:
        limited = int(re.search(r"process (\d+)", workers._crew.workers[0].name)[1])
        resource.prlimit(limited, resource.RLIMIT_AS, (2**20, resource.RLIM_INFINITY))
        assert bits_of(model.measure("builtin", None, NoProgress())) == bits_of(expected)
    assert not is_there(limited)


@pytest.mark.ci
def test_shard_that_kills_its_workers_is_named(measured, undisturbed, tmp_path):
    """In the end: shard, worker and cause; what was finished is kept, and the run goes on from there."""
    killed = []

    def kill(_number, pid, shard):
        if shard == 3 and pid not in killed:
            killed.append(pid)
            os.kill(pid, signal.SIGKILL)

    with pytest.raises(
        MeasurementError, match=r"shard 3 of 6 of builtin could not be .+ by worker \d, .+ process ended"
    ):
        measured("ray", Listener(kill), cache=str(tmp_path), **ATTRIBUTED)
    assert len(killed) == ray_engine.TRIES
    kept = {int(path.name[0]) for path in tmp_path.glob("*/shards/*")}
    assert 1 in kept
    assert 3 not in kept
    listener = Listener()
    assert measured("ray", listener, cache=str(tmp_path), **ATTRIBUTED) == undisturbed
    assert kept.isdisjoint(int(WORKS.match(line)[3]) for line in listener.heard if WORKS.match(line))


@pytest.mark.ci
def test_error_of_a_model_is_told_as_it_is(gate_of, tmp_path):
    """What a model gives is no fault of a worker: nothing is tried again."""
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        shutil.copy(builtin.DIRECTORY / name, tmp_path)
    weights = load_file(builtin.DIRECTORY / "model.safetensors")
    weights["model.layers.2.mlp.up_proj.weight"].fill_(float("inf"))
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(NonFiniteError, match="the logits of 16 of 16 prompts"):
        gate_of("ray", model=str(tmp_path)).measure()


@pytest.mark.ci
@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("127.0.0.1:1", r"address=127\.0\.0\.1:1: no cluster of Ray .+ can be joined there: .*Connection refused"),
        ("host.invalid:6379", r"can be joined there: .*(Name or service|name resolution)"),
    ],
)
def test_address_that_answers_nothing_is_refused(address, said, monkeypatch):
    """At once; Ray alone would try for minutes."""
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    with pytest.raises(SettingsError, match=said):
        ray_engine.RayEngine(settings(engine="ray", engine_address=address)).start()


@pytest.mark.ci
@pytest.mark.usefixtures("workers")
def test_waiting_for_room_is_said(monkeypatch):
    """The workers of another gate have all of the cluster: it is waited for, and given up in the end."""
    monkeypatch.setattr(ray_engine, "_LATE", 0.5)
    monkeypatch.setattr(ray_workers, "_STARTING", 3.0)
    noted = []

    class Listener(NoProgress):
        def note(self, what):
            noted.append(what)

    asked = settings(engine="ray", workers=1, cpus_per_worker=1, worker_timeout=1)
    with pytest.raises(MeasurementError, match="worker 1 did not start within 3 s"):
        ray_engine.RayEngine(asked, lambda _label: nullcontext(Listener())).start()
    assert noted == ["waiting for 1 worker to start: the cluster may have no room yet, because of others who use it"]


def is_there(pid):
    """Whether a process is there, and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


NODES = [{"CPU": 16.0, "GPU": 8.0}, {"CPU": 16.0, "GPU": 4.0}]
CPUS = [{"CPU": 6.0}, {"CPU": 4.0}]


@pytest.mark.parametrize(
    ("nodes", "asked", "expected"),
    [
        (NODES, {}, (12, 1.0, 1)),
        (NODES, {"gpus_per_worker": 4.0}, (3, 4.0, 1)),
        (NODES, {"gpus_per_worker": 0.5, "workers": 5, "cpus_per_worker": 2}, (5, 0.5, 2)),
        (NODES, {"device": "cpu"}, (2, 0.0, 16)),
        (CPUS, {}, (2, 0.0, 4)),
        (CPUS, {"workers": 4}, (4, 0.0, 2)),
        (CPUS[:1], {"workers": 2, "cpus_per_worker": 1}, (2, 0.0, 1)),
    ],
)
def test_cluster_is_shared_out(nodes, asked, expected):
    """A GPU for each worker where there are any; else a worker on each node, and its CPUs."""
    assert ray_cluster.shared_out(settings(engine="ray", **asked), nodes) == expected


@pytest.mark.parametrize(
    ("nodes", "asked", "said"),
    [
        (CPUS, {"gpus_per_worker": 1.0}, "--quantcheck-gpus-per-worker=1: no GPU in this cluster"),
        (NODES, {"gpus_per_worker": 16.0}, "--quantcheck-gpus-per-worker=16: at most 8 on one node"),
        (NODES, {"workers": 13}, "no room for 13 workers with 1 CPU and 1 GPU each: this cluster has room for 12"),
        (CPUS, {"cpus_per_worker": 8}, "no room for 2 workers with 8 CPUs and 0 GPUs each"),
    ],
)
def test_too_small_a_cluster_is_refused(nodes, asked, said):
    """Before any worker is started."""
    with pytest.raises(SettingsError, match=said):
        ray_cluster.shared_out(settings(engine="ray", **asked), nodes)


HERE = {name: installed(name) for name in KEYED_PACKAGES}


@pytest.mark.parametrize(
    ("place", "said"),
    [
        (Place("node2", "cpu AVX2", HERE), r"one kind of processor, got cpu AVX512 \(worker 1, node1\) and cpu AVX2"),
        (Place("node2", "cpu AVX512", HERE | {"torch": "1.0"}), r"got torch 1\.0 for worker 2, node2, here it is"),
        (Place("node2", "cpu AVX512", HERE | {"torch": None}), "got torch missing for worker 2, node2"),
    ],
)
def test_workers_of_several_kinds_are_refused(place, said):
    """Their numbers would not be those of one process."""
    first = SimpleNamespace(name="worker 1, node1", place=Place("node1", "cpu AVX512", HERE))
    ray_cluster.kind_of([first, first])
    with pytest.raises(SettingsError, match=said):
        ray_cluster.kind_of([first, SimpleNamespace(name=f"worker 2, {place.name}", place=place)])


def test_another_model_on_a_node_is_named():
    """Its content differs."""
    provenance = Gate(settings()).measure().provenance
    other = msgspec.structs.replace(provenance, content_hash="0" * 64, redundancy_neurons=1)
    ray_engine._refuse_unlike("worker 1", provenance, "worker 2", provenance)
    with pytest.raises(
        MeasurementError, match=r"worker 1 and worker 2 do not measure the same: content_hash '.+' and '0+'"
    ):
        ray_engine._refuse_unlike("worker 1", provenance, "worker 2", other)
