"""All options of one run, checked and frozen."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from pytest_quantcheck.errors import SettingsError
from pytest_quantcheck.metric_names import MetricName
from pytest_quantcheck.options.attribution import AttributionMethod
from pytest_quantcheck.options.candidate import Released, name_candidates
from pytest_quantcheck.options.table import OPTIONS

if TYPE_CHECKING:
    import pytest

_ALONE = ("only", "dry_run", "trial", "controls", "calibrate", "update_baseline")
"""Options that mean nothing without a model or a candidate."""

_OF_WORKERS = ("engine_address", "workers", "gpus_per_worker", "cpus_per_worker")
"""Options that mean nothing without workers."""

_FROM_REFERENCE = ("bits", "controls", "calibrate", "update_baseline", "trial")
"""Options that need the reference itself, not only its stored measurement."""


@dataclass(frozen=True)
class Settings:
    """What the user asked for; the option of the same name says what each field means.

    `model` is None where a baseline stands for it; `bits` holds exact names (`int8`, `nf4`), none twice; `columns` has
    the column of `prompt` and of `gold`; `layers` is ascending where it names blocks; `fail` holds finite limits, one
    for a metric.
    """

    model: str | None
    revision: str | None
    candidate: tuple[Released, ...]
    bits: tuple[str, ...]
    dtype: str
    prompts: tuple[str, ...]
    columns: Mapping[str, str]
    template: str
    samples: int
    seed: int
    layers: Literal["paper", "all"] | tuple[int, ...]
    readout: str
    attribution: AttributionMethod
    attribution_samples: int
    attribution_tokens: int
    attribution_memory: int | None
    continuation: int
    redundancy_neurons: Literal["auto", "all"] | int
    profile: str
    fail: tuple[tuple[MetricName, float], ...]
    allow_unmeasured: tuple[MetricName, ...]
    allow_difference: tuple[str, ...]
    calibrate: str | None
    calibrate_rate: float
    calibrate_directory: str
    baseline: str | None
    update_baseline: bool
    cache: str | None
    device: str
    max_memory: tuple[tuple[str, int], ...] | None
    batch_size: int
    shard_size: int
    engine: str
    engine_address: str | None
    workers: int | None
    gpus_per_worker: float | None
    cpus_per_worker: int | None
    worker_timeout: int
    report: str | None
    controls: bool
    only: bool
    dry_run: bool
    trial: bool
    neurons: str | None
    trust_remote_code: bool
    allow_pickle: bool


def settings_from(config: pytest.Config) -> Settings | None:
    """Read the run's settings; None when no model is named.

    The command line comes before the ini file, and that before the default.

    Raises `SettingsError` for a value that cannot be used, and names the option and where it was given.
    """
    by_field = {option.field: option for option in OPTIONS}
    if by_field["model"].read(config) is None and not by_field["candidate"].read(config):
        for field in _ALONE:
            if by_field[field].read(config):
                raise SettingsError(f"{by_field[field].flag} needs a model: add --quantcheck-model=MODEL")
        return None
    values = {field: option.read(config) for field, option in by_field.items()}
    given = {field for field, option in by_field.items() if values[field] and option.is_given(config)}
    if values["candidate"] and "bits" not in given:
        values["bits"] = ()
    values["dry_run"] |= values["trial"]
    settings = Settings(**values)
    _require_reference(settings, [by_field[field].flag for field in _FROM_REFERENCE if field in given])
    check_together(settings)
    return settings


def _require_reference(settings: Settings, made_from_it: list[str]) -> None:
    """Check that there is a reference, or a baseline that suffices."""
    if settings.update_baseline and not settings.baseline:
        raise SettingsError("--quantcheck-update-baseline needs a place to write to: add --quantcheck-baseline=DIR")
    if settings.model is not None:
        return
    if not settings.baseline:
        raise SettingsError(
            "--quantcheck-candidate needs a reference: add --quantcheck-model=MODEL, or --quantcheck-baseline=DIR with "
            "its stored measurement"
        )
    if made_from_it:
        raise SettingsError(
            f"{made_from_it[0]} needs the reference itself, a baseline is not enough: add --quantcheck-model=MODEL"
        )


def check_together(settings: Settings) -> None:
    """Refuse options that contradict one another or themselves. Raises `SettingsError`."""
    _refuse_twice("--quantcheck-fail", (metric for metric, _ in settings.fail))
    _refuse_twice("--quantcheck-prompts", settings.prompts)
    name_candidates(settings.candidate)
    if settings.dtype in settings.bits:
        raise SettingsError(
            f"--quantcheck-bits={','.join(settings.bits)} names {settings.dtype}, which is the reference's precision "
            f"(--quantcheck-dtype={settings.dtype}): the candidate would be equal to the reference. Leave it out."
        )
    if settings.max_memory and settings.device != "auto":
        raise SettingsError(
            f"--quantcheck-max-memory lays a model out over devices, and --quantcheck-device={settings.device} names "
            "one: leave one out"
        )
    if settings.engine == "local":
        _refuse_without_ray(settings)
    elif settings.trial:
        raise SettingsError(
            f"--quantcheck-trial measures in this process, and --quantcheck-engine={settings.engine} in others: leave "
            "one out"
        )


def _refuse_without_ray(settings: Settings) -> None:
    """Refuse what only workers can have."""
    for field in _OF_WORKERS:
        if getattr(settings, field) is not None:
            raise SettingsError(
                f"--quantcheck-{field.replace('_', '-')} is for workers, and --quantcheck-engine=local has none: add "
                "--quantcheck-engine=ray"
            )


def _refuse_twice(flag: str, names: Iterable[str]) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise SettingsError(f"{flag}: expected {name!r} once, got it twice; leave one out")
        seen.add(name)
