"""What a run is going to do: the header of pytest's output, and the dry run."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from pytest_quantcheck.errors import printable
from pytest_quantcheck.metric_names import MetricName
from pytest_quantcheck.options import Settings
from pytest_quantcheck.profiles import Profile
from pytest_quantcheck.prompts import PromptSet
from pytest_quantcheck.text import counted

_SHOWN_LIBRARIES = ("torch", "transformers", "bitsandbytes")


class Outline(NamedTuple):
    """A run before anything is loaded: its settings, and the names of what it measures and judges."""

    settings: Settings
    model: str
    candidates: tuple[str, ...]
    controls: tuple[str, ...]
    prompt_sets: Mapping[str, PromptSet]
    metrics: tuple[MetricName, ...]
    profile: Profile

    def header_lines(self) -> Iterator[str]:
        """Yield the lines for the top of pytest's output."""
        settings = self.settings
        versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in _SHOWN_LIBRARIES)
        revision = f" at {settings.revision}" if settings.revision else ""
        prompts = ", ".join(f"{name} ({len(prompts)} prompts)" for name, prompts in self.prompt_sets.items())
        controls = f" and {len(self.controls)} controls" if self.controls else ""
        stored = f", its baseline in {settings.baseline}" if settings.baseline else ""
        reference, candidates = f"{self.model}{revision} ({settings.dtype}{stored})", ", ".join(self.candidates)
        yield printable(f"quantcheck: {reference} against {candidates}{controls}; profile {self.profile.label}")
        room = " and ".join(f"{size / 1e6:,.1f} MB of {device}" for device, size in settings.max_memory or ())
        device = f"device {settings.device}{f' with weights in {room}' if room else ''}"
        continued = f", continued by up to {settings.continuation} tokens" if settings.continuation else ""
        how = f"{device}, batch size {settings.batch_size}{_engine(settings)}"
        yield printable(f"quantcheck: {prompts}{continued}; {how}")
        yield printable(f"quantcheck: {versions}")

    def dry_run_lines(self, *, new_profile: str, report: str) -> Iterator[str]:
        """Yield what would be measured, judged and written.

        Args:
            new_profile: label of the profile that would be written; empty for none.
            report: where the report would be, in words; empty for none.
        """
        settings = self.settings
        stored = settings.baseline and not settings.update_baseline
        reference = f"taken from {settings.baseline}" if stored else f"measured ({settings.dtype})"
        on = f" on {settings.attribution_samples} prompts" if settings.attribution.method != "off" else ""
        layers = settings.layers if isinstance(settings.layers, str) else ", ".join(map(str, settings.layers))
        loaded = "some prompts are measured" if settings.trial else "nothing is loaded"
        yield f"dry run: {loaded}. The reference {self.model} would be {reference}"
        yield f"candidates: {', '.join(self.candidates)}"
        yield from (f"prompts: {_counted(p)} of {name} from {p.source}" for name, p in self.prompt_sets.items())
        yield f"attribution: {settings.attribution}{on}; layers: {layers}"
        if settings.continuation:
            yield f"continuation: up to {settings.continuation} tokens after each prompt, written by the reference"
        yield f"verdicts: {', '.join(self.metrics)} by {self.profile.label}"
        yield from self._ungated()
        if self.controls:
            yield f"controls: {', '.join(self.controls)}"
        if new_profile:
            yield f"limits would be written as {new_profile}"
        if report:
            yield f"report: {report}"

    def _ungated(self) -> Iterator[str]:
        """Yield which metrics each prompt set is too small to gate."""
        for name, prompts in self.prompt_sets.items():
            wanted = {metric: self.profile.fewest_prompts(metric) for metric in self.metrics}
            few = [f"{metric} (from {n:,} prompts up)" for metric, n in wanted.items() if n > len(prompts)]
            if few:
                yield f"not gated on {name}, which has {len(prompts):,} prompts: {', '.join(few)}"


def _engine(settings: Settings) -> str:
    """Name the workers of a run that has some."""
    if settings.engine == "local":
        return ""
    workers = counted(settings.workers, "worker") if settings.workers else "workers"
    return f", {workers} on Ray" + (f" at {settings.engine_address}" if settings.engine_address else "")


def _counted(prompts: PromptSet) -> str:
    """Count prompts, and how many differ where some are repeated."""
    distinct = len(set(prompts.texts))
    return str(len(prompts)) if distinct == len(prompts) else f"{len(prompts)} ({distinct} distinct)"
