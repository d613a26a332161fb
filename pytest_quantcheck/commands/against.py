"""A candidate measured against a reference that is stored."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

from pytest_quantcheck.commands.stored import load_provenance
from pytest_quantcheck.errors import SettingsError, StorageError
from pytest_quantcheck.gate import REFERENCE, Gate
from pytest_quantcheck.measuring import Plan, Progress, measure
from pytest_quantcheck.models.identity import Source, local_path
from pytest_quantcheck.models.loading import load
from pytest_quantcheck.models.neurons import choose_layers
from pytest_quantcheck.options import Settings
from pytest_quantcheck.prompts import PromptSet
from pytest_quantcheck.records import Measurement, Provenance
from pytest_quantcheck.storage import load_measurement


@dataclass(frozen=True)
class Candidate:
    """What is loaded: the model at a bit-width, or a released checkpoint as it is."""

    source: Source
    bits: str

    @classmethod
    def of(cls, settings: Settings, released: str | None) -> Candidate:
        """The candidate that is asked for; `released` is spelled PATH_OR_ID[@REVISION].

        Raises:
            ModelError: a path that leads nowhere.
        """
        source = Source(
            model=settings.model,
            revision=settings.revision,
            dtype=settings.dtype,
            device=settings.device,
            neurons=settings.neurons,
            trust_remote_code=settings.trust_remote_code,
            allow_pickle=settings.allow_pickle,
        )
        if released is None:
            (bits,) = settings.bits
            return cls(source, bits)
        model, revision = _split(released)
        local_path(model)
        return cls(replace(source, model=model, revision=revision), "released")


def check_reference(stored: Path, gate: Gate, candidate: Candidate) -> None:
    """Refuse a stored reference that is not what is asked for, before a model is loaded.

    Raises:
        SettingsError: the candidate would be equal to it.
        StorageError: it is not there, cannot be read, or was measured otherwise; names each difference.
    """
    for name, prompts in gate.prompt_sets.items():
        found = load_provenance(stored / name)
        unlike = list(_differences(found, prompts, gate.settings))
        if unlike:
            raise StorageError(
                f"{stored / name} was measured otherwise: {'; '.join(unlike)}; ask for the same, or measure the "
                "reference anew"
            )
        if found.dtype == candidate.bits:
            raise SettingsError(
                f"--bits={candidate.bits} is the precision of the reference in {stored / name}: the candidate would be "
                "equal to it"
            )


def measured_against(
    stored: Path,
    gate: Gate,
    candidate: Candidate,
    progress: Callable[[str], AbstractContextManager[Progress]] | None,
) -> Iterator[tuple[str, Measurement]]:
    """Load the candidate once and yield each prompt set's name and measurement.

    Raises:
        QuantcheckError: it cannot be loaded or measured.
    """
    source = candidate.source
    with load(source, candidate.bits) as loaded:
        for name, prompts in gate.prompt_sets.items():
            with progress(f"{candidate.bits} on {name}") if progress else nullcontext() as told:
                yield (
                    name,
                    measure(
                        loaded,
                        prompts,
                        _plan(gate.settings),
                        model=source.model,
                        revision=source.revision,
                        reference=load_measurement(stored / name),
                        progress=told,
                    ),
                )


def _split(released: str) -> tuple[str, str | None]:
    """The checkpoint and its revision; a path that is there is taken whole, with any `@` in it."""
    model, at, revision = released.rpartition("@")
    return (model, revision) if at and not Path(released).expanduser().exists() else (released, None)


def _plan(asked: Settings) -> Plan:
    return Plan(
        layers=asked.layers,
        readout=asked.readout,
        attribution=asked.attribution,
        samples=asked.attribution_samples,
        tokens=asked.attribution_tokens,
        batch_size=asked.batch_size,
        seed=asked.seed,
        redundancy_neurons=asked.redundancy_neurons,
    )


def _differences(found: Provenance, prompts: PromptSet, asked: Settings) -> Iterator[str]:
    wanted = {
        "bits": REFERENCE,
        "dtype": found.dtype if asked.dtype == "auto" else asked.dtype,
        "prompt_hash": prompts.hash,
        "readout": asked.readout,
        "layers": choose_layers(asked.layers, found.n_layers),
        "attribution": f"{asked.attribution},samples={asked.attribution_samples}",
        "seed": asked.seed,
    }
    for name, value in wanted.items():
        if (stored := getattr(found, name)) != value:
            yield f"{name} ({stored!r} there, {value!r} asked for)"
