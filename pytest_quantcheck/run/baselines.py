"""Baselines: stored measurements of a reference, checked against what a run asks for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from pytest_quantcheck.compatibility import Meaning, fields
from pytest_quantcheck.errors import StorageError
from pytest_quantcheck.models.files import ModelFiles
from pytest_quantcheck.models.neurons import choose_layers
from pytest_quantcheck.options import Settings
from pytest_quantcheck.options.attribution import covering
from pytest_quantcheck.prompts import PromptSet
from pytest_quantcheck.records import REFERENCE, Measurement, Provenance
from pytest_quantcheck.storage import load_measurement, load_provenance, save_baseline

_AGAIN = "take the baseline that belongs to this run, or write it anew with --quantcheck-update-baseline"


@dataclass(frozen=True)
class Baseline:
    """A directory with a folder and a provenance for each prompt set."""

    directory: Path
    provenance: Mapping[str, Provenance]

    @property
    def model(self) -> str:
        """The reference's name."""
        return next(iter(self.provenance.values())).model

    @property
    def configuration(self) -> Mapping[str, str]:
        """What decides how the reference is served."""
        return next(iter(self.provenance.values())).configuration

    def load(self, prompt_set: str) -> Measurement:
        """Load the reference's measurement on a prompt set.

        Raises:
            StorageError: it is damaged.
        """
        return load_measurement(self.directory / prompt_set)

    def check_files(self, files: ModelFiles) -> None:
        """Refuse a baseline of another model than the one at hand.

        Raises:
            StorageError: the files are not those that the baseline was measured on.
        """
        here = files.content_hash
        for name, provenance in self.provenance.items():
            if provenance.content_hash and provenance.content_hash != here:
                raise StorageError(
                    f"{self.directory / name} was measured on other files than those of {files.name}: sha256 "
                    f"{provenance.content_hash} of {provenance.model} there, {here} here; {_AGAIN}"
                )


def find_baseline(directory: Path, prompt_sets: Mapping[str, PromptSet], settings: Settings) -> Baseline:
    """Find a baseline, check its hashes and its provenance.

    No model is loaded. Fields that depend on the tokenizer are checked when a candidate is compared.

    Args:
        directory: where it lies.
        prompt_sets: the run's, by name.
        settings: the run's options.

    Raises:
        StorageError: there is none, it is damaged, of another release, or of another reference, prompt set or
            setting; names each difference.
    """
    provenances = {name: load_provenance(directory / name, verify=True) for name in prompt_sets}
    for name, provenance in provenances.items():
        refuse_shard(directory / name, provenance)
        unlike = list(_differences(provenance, prompt_sets[name], settings))
        if unlike:
            raise StorageError(f"{directory / name} was measured otherwise: {'; '.join(unlike)}; {_AGAIN}")
    return Baseline(directory, provenances)


def refuse_shard(directory: Path, provenance: Provenance) -> None:
    """Refuse a measurement of one shard.

    Raises:
        StorageError: it is one; says what to do.
    """
    if provenance.shard is not None:
        number, count = provenance.shard
        raise StorageError(
            f"{directory} is shard {number} of {count} alone: merge all {count} with `python -m pytest_quantcheck "
            "merge`, and take that"
        )


def store_baseline(directory: Path, measurements: Mapping[str, Measurement]) -> Baseline:
    """Write a reference's measurements in place of older ones.

    Args:
        directory: gets one folder for each prompt set.
        measurements: by prompt set.

    Raises:
        StorageError: it cannot be written; what was there before is unchanged.
    """
    for name, measurement in measurements.items():
        save_baseline(measurement, directory / name)
    return Baseline(directory, {name: load_provenance(directory / name) for name in measurements})


def _differences(provenance: Provenance, prompts: PromptSet, settings: Settings) -> Iterator[str]:
    allowed = _allowed(provenance, prompts, settings)
    for name in fields("baseline", Meaning.REFUSED):
        if (stored := getattr(provenance, name)) not in allowed[name]:
            yield f"{name} ({stored!r} in the baseline, {' or '.join(map(repr, allowed[name]))} asked for)"


def _allowed(provenance: Provenance, prompts: PromptSet, settings: Settings) -> dict[str, tuple[object, ...]]:
    """List the values that a run accepts, for each checked field."""
    either = (True, False) if prompts.chat is None else (prompts.chat,)
    return {
        "bits": (REFERENCE,),
        "content_hash": (provenance.content_hash,),  # `check_files` compares it before the first measurement is made
        "dtype": (provenance.dtype if settings.dtype == "auto" else settings.dtype,),
        "revision": (provenance.revision if settings.model is None else settings.revision,),
        "prompt_hash": (prompts.hash,),
        "template": tuple(prompts.template_used(chat=chat) for chat in either),
        "readout": (settings.readout,),
        "layers": (choose_layers(settings.layers, provenance.n_layers),),
        "attribution": (covering(settings.attribution, settings.attribution_samples),),
        "continuation": (settings.continuation,),
        "seed": (settings.seed,),
        "shard": (None,),
    }
