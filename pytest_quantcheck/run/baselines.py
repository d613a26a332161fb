"""Baselines: the stored measurement of a reference, in its place, if it is the one that a run needs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from pytest_quantcheck.errors import StorageError
from pytest_quantcheck.models.neurons import choose_layers
from pytest_quantcheck.models.source import Source, content_hash
from pytest_quantcheck.options import Settings
from pytest_quantcheck.options.attribution import covering
from pytest_quantcheck.prompts import PromptSet
from pytest_quantcheck.records import REFERENCE, Measurement, Provenance
from pytest_quantcheck.storage import load_measurement, load_provenance, save_baseline

_AGAIN = "take the baseline that belongs to this run, or write it anew with --quantcheck-update-baseline"


@dataclass(frozen=True)
class Baseline:
    """A directory with one folder for each prompt set; `provenance` says where each measurement comes from."""

    directory: Path
    provenance: Mapping[str, Provenance]

    @property
    def model(self) -> str:
        """The reference's name."""
        return next(iter(self.provenance.values())).model

    def load(self, prompt_set: str) -> Measurement:
        """The reference's measurement on a prompt set.

        Raises:
            StorageError: it is damaged.
        """
        return load_measurement(self.directory / prompt_set)

    def check_files(self, source: Source) -> None:
        """Refuse a baseline of another model than the one at hand; nothing to compare where its files are elsewhere.

        Raises:
            StorageError: the files are not those that the baseline was measured on.
        """
        here = content_hash(source) if source.model == "builtin" or Path(source.model).expanduser().exists() else None
        for name, found in self.provenance.items():
            if here and found.content_hash and found.content_hash != here:
                raise StorageError(
                    f"{self.directory / name} was measured on other files than those of {source.model}: sha256 "
                    f"{found.content_hash} of {found.model} there, {here} here; {_AGAIN}"
                )


def find_baseline(directory: Path, prompt_sets: Mapping[str, PromptSet], asked: Settings) -> Baseline:
    """Look at a baseline without loading what it holds, or a model.

    What depends on the tokenizer is compared when a candidate is.

    Args:
        directory: where it lies.
        prompt_sets: the run's, by name.
        asked: the run's options.

    Raises:
        StorageError: there is none, it is damaged, of another release, or of another reference, prompt set or
            setting; names each difference.
    """
    found = {name: load_provenance(directory / name) for name in prompt_sets}
    for name, provenance in found.items():
        unlike = list(_differences(provenance, prompt_sets[name], asked))
        if unlike:
            raise StorageError(f"{directory / name} was measured otherwise: {'; '.join(unlike)}; {_AGAIN}")
    return Baseline(directory, found)


def store_baseline(directory: Path, measurements: Mapping[str, Measurement]) -> Baseline:
    """Write a reference's measurements, by prompt set, in place of what was there.

    Raises:
        StorageError: it cannot be written; what was there before is unchanged.
    """
    for name, measurement in measurements.items():
        save_baseline(measurement, directory / name)
    return Baseline(directory, {name: load_provenance(directory / name) for name in measurements})


def _differences(found: Provenance, prompts: PromptSet, asked: Settings) -> Iterator[str]:
    wanted = {
        "bits": REFERENCE,
        "dtype": found.dtype if asked.dtype == "auto" else asked.dtype,
        "revision": found.revision if asked.model is None else asked.revision,
        "prompt_hash": prompts.hash,
        "readout": asked.readout,
        "layers": choose_layers(asked.layers, found.n_layers),
        "attribution": covering(asked.attribution, asked.attribution_samples),
        "seed": asked.seed,
    }
    for name, value in wanted.items():
        if (stored := getattr(found, name)) != value:
            yield f"{name} ({stored!r} in the baseline, {value!r} asked for)"
    either = (True, False) if prompts.chat is None else (prompts.chat,)
    templates = [prompts.template_used(chat=chat) for chat in either]
    if found.template not in templates:
        yield f"template ({found.template!r} in the baseline, {' or '.join(map(repr, templates))} asked for)"
