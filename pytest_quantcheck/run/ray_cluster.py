"""The Ray cluster: joining or starting one, how its workers share it, and whether they are alike."""

from __future__ import annotations

import logging
import signal
import socket
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import ray

from pytest_quantcheck.errors import SettingsError
from pytest_quantcheck.libraries import installed
from pytest_quantcheck.options import Settings
from pytest_quantcheck.run.cache_key import KEYED_PACKAGES
from pytest_quantcheck.run.ray_workers import Hired
from pytest_quantcheck.text import counted

_STORE = 2**30
"""Bytes of the store of a cluster that is started here. Shards pass through it one by one."""

_KNOCKING = 10.0
"""Seconds in which a cluster's head must answer."""


def shared_out(settings: Settings, nodes: Sequence[Mapping[str, float]]) -> tuple[int, float, int]:
    """Decide on the number of workers, and what each is given.

    Args:
        settings: say so, or leave it open.
        nodes: what each node of the cluster has.

    Returns:
        The number of workers, the GPUs of each and its CPUs.

    Raises:
        SettingsError: there is no room for them.
    """
    most_gpus = max(node.get("GPU", 0) for node in nodes)
    gpus = settings.gpus_per_worker
    if gpus is None:
        gpus = float(settings.device != "cpu" and most_gpus > 0)
    if gpus > most_gpus:
        got = f"at most {most_gpus:g} on one node" if most_gpus else "no GPU in this cluster"
        raise SettingsError(f"--quantcheck-gpus-per-worker={gpus:g}: {got}; ask for fewer")
    workers, cpus = settings.workers, settings.cpus_per_worker
    if workers is None:
        workers = _room(nodes, gpus, cpus or 1) if gpus else len(nodes)
    if cpus is None:
        fewest = int(min(node.get("CPU", 0) for node in nodes))
        cpus = 1 if gpus else max(fewest // -(-workers // len(nodes)), 1)
    if workers > (room := _room(nodes, gpus, cpus)) or not workers:
        raise SettingsError(
            f"no room for {counted(workers, 'worker')} with {counted(cpus, 'CPU')} and {gpus:g} "
            f"{'GPU' if gpus == 1 else 'GPUs'} each: this cluster has room for {room}; lower --quantcheck-workers or "
            "what each is given"
        )
    return workers, gpus, cpus


def _room(nodes: Sequence[Mapping[str, float]], gpus: float, cpus: int) -> int:
    """Count the workers for whom there is room."""
    needs = {"CPU": cpus, "GPU": gpus}
    return sum(int(min(node.get(kind, 0) / n for kind, n in needs.items() if n)) for node in nodes)


@contextmanager
def connected(address: str | None) -> Iterator[None]:
    """Connect to a cluster, or start one on this machine; Ray itself says nothing meanwhile.

    Raises:
        SettingsError: nothing answers at the address, or another version.
    """
    _connect(address)
    said = _let_it_print(_nothing)
    try:
        yield
    finally:
        _let_it_print(said)
        ray.shutdown()


def _let_it_print(write: Callable[..., object]) -> Callable[..., object]:
    """Change what prints Ray's words on lost workers.

    Ray has no switch for them. Returns what did before.
    """
    from ray._private import worker  # noqa: PLC0415 - used here alone

    before: Callable[..., object] = getattr(worker, "print_to_stdstream", _nothing)
    worker.print_to_stdstream = write
    return before


def _nothing(*_arguments: object, **_named: object) -> None:
    """Print nothing."""


def _connect(address: str | None) -> None:
    handler = signal.getsignal(signal.SIGTERM)
    try:
        _knock(address)
        ray.init(
            address=address or "local",
            include_dashboard=None if address else False,
            object_store_memory=None if address else _STORE,
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
    except (OSError, RuntimeError, ValueError) as error:
        why = " ".join(str(error).split(". ")[0].split())
        if not address:
            raise SettingsError(f"--quantcheck-engine=ray: Ray cannot start here: {why}") from error
        token = "" if "ersion mismatch" in why else "; one that asks for a token is joined with RAY_AUTH_TOKEN"
        raise SettingsError(
            f"--quantcheck-engine-address={address}: no cluster of Ray {ray.__version__} can be joined there: "
            f"{why}{token}"
        ) from error
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)  # Ray has put its own in its place


def _knock(address: str | None) -> None:
    """Raise `OSError` if nothing answers at an address: Ray would try for minutes."""
    if address and address != "auto":
        host, _, port = address.rpartition(":")
        socket.create_connection((host.strip("[]"), int(port)), timeout=_KNOCKING).close()


def kind_of(workers: Sequence[Hired]) -> str:
    """Name the kind of processor that workers have.

    Raises:
        SettingsError: there are several, or a worker has other libraries than are installed here.
    """
    here = {name: installed(name) for name in KEYED_PACKAGES}
    (first, kind), *others = [(worker.name, worker.place.processor) for worker in workers if worker.place]
    for name, other in others:
        if other != kind:
            raise SettingsError(
                f"expected workers on one kind of processor, got {kind} ({first}) and {other} ({name}), which do not "
                "give the same numbers; use nodes of one kind"
            )
    for worker in workers:
        for package, version in (worker.place.libraries if worker.place else {}).items():
            if version != here[package]:
                raise SettingsError(
                    f"expected the libraries that are installed here on every node, got {package} "
                    f"{version or 'missing'} for {worker.name}, here it is {here[package] or 'missing'}"
                )
    return kind
