"""Jobs: what an engine measures of one target; and how its model is loaded and made ready."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from pytest_quantcheck.errors import ModelError
from pytest_quantcheck.prompts import PromptSet
from pytest_quantcheck.records import Measurement
from pytest_quantcheck.run.local_models import LocalModels
from pytest_quantcheck.run.targets import Target, equal_to_reference
from pytest_quantcheck.serving import refuse_unlike

if TYPE_CHECKING:
    from pytest_quantcheck.measuring import Plan
    from pytest_quantcheck.models.loaded import LoadedModel


@dataclass(frozen=True, eq=False)
class Job:
    """One target, to be measured on all prompt sets of a run.

    `references`: the reference's measurements by prompt set, none for the reference itself; `allow_difference`: the
    fields in which a checkpoint may be served otherwise than the reference.
    """

    target: Target
    plan: Plan
    prompt_sets: Mapping[str, PromptSet]
    references: Mapping[str, Measurement]
    allow_difference: tuple[str, ...] = ()

    @property
    def reference(self) -> Measurement:
        """One measurement of the reference: all are of one model."""
        return next(iter(self.references.values()))


@contextmanager
def prepared(job: Job, models: LocalModels) -> Iterator[tuple[LoadedModel, Plan, str | None]]:
    """Load a job's model; make it the control, or check the candidate.

    Yields the model, the plan for it, and what was done to it.
    """
    target, plan = job.target, job.plan
    if target.kind != "control":
        with models.load(target) as loaded:
            _check_candidate(job, loaded)
            yield loaded, plan, None
        return
    from pytest_quantcheck.controls.applying import apply_control, load_as  # noqa: PLC0415 - heavy
    from pytest_quantcheck.models.placement import fetched_share  # noqa: PLC0415 - heavy

    with models.load(replace(target, load_as=load_as(target.name, job.reference.provenance.dtype))) as loaded:
        if fetched_share(loaded.model):
            raise ModelError(
                f"control {target.name} of {target.label} is made by changing weights, and some are on disk: give them "
                "more memory with --quantcheck-max-memory, or leave out --quantcheck-controls"
            )
        prompts = next(iter(job.prompt_sets.values()))
        yield loaded, *apply_control(loaded, target.name, plan=plan, prompts=prompts)


def _check_candidate(job: Job, loaded: LoadedModel) -> None:
    if not job.references:
        return
    reference = job.reference.provenance
    if loaded.bits == reference.dtype:
        raise equal_to_reference(loaded.bits)
    if job.target.kind == "checkpoint":
        refuse_unlike(job.target.label, reference.configuration, loaded.configuration, job.allow_difference)
