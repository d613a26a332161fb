"""All options of one run, checked and frozen."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from pytest_quantcheck.errors import SettingsError
from pytest_quantcheck.options.attribution import Attribution
from pytest_quantcheck.options.table import OPTIONS

if TYPE_CHECKING:
    import pytest

_NEEDS_MODEL = ("controls", "only", "dry_run", "calibrate")


@dataclass(frozen=True)
class Settings:
    """What the user asked for; the option of the same name says what each field means.

    `bits` holds exact names (`int8`, `nf4`), none twice; `layers` is ascending where it names blocks; `fail`
    holds finite limits, one for a metric.
    """

    model: str
    revision: str | None
    bits: tuple[str, ...]
    dtype: str
    prompts: tuple[str, ...]
    template: str
    samples: int
    seed: int
    layers: Literal["paper", "all"] | tuple[int, ...]
    readout: str
    attribution: Attribution
    attribution_samples: int
    attribution_tokens: int
    redundancy_neurons: Literal["auto", "all"] | int
    profile: str
    fail: tuple[tuple[str, float], ...]
    allow_unmeasured: tuple[str, ...]
    calibrate: str | None
    calibrate_rate: float
    calibrate_directory: str
    device: str
    batch_size: int
    report: str | None
    controls: bool
    only: bool
    dry_run: bool
    neurons: str | None
    trust_remote_code: bool
    allow_pickle: bool


def settings_from(config: pytest.Config) -> Settings | None:
    """The run's settings: command line before ini file before default; None when no model is named.

    Raises `SettingsError` for a value that cannot be used, and names the option and where it was given.
    """
    by_field = {option.field: option for option in OPTIONS}
    if by_field["model"].read(config) is None:
        for field in _NEEDS_MODEL:
            if by_field[field].read(config):
                raise SettingsError(f"{by_field[field].flag} needs a model: add --quantcheck-model=MODEL")
        return None
    settings = Settings(**{field: option.read(config) for field, option in by_field.items()})
    check_together(settings)
    return settings


def check_together(settings: Settings) -> None:
    """Refuse options that contradict one another or themselves. Raises `SettingsError`."""
    _refuse_twice("--quantcheck-fail", (metric for metric, _ in settings.fail))
    _refuse_twice("--quantcheck-prompts", settings.prompts)
    if settings.dtype in settings.bits:
        raise SettingsError(
            f"--quantcheck-bits={','.join(settings.bits)} names {settings.dtype}, which is the reference's precision "
            f"(--quantcheck-dtype={settings.dtype}): the candidate would be equal to the reference. Leave it out."
        )


def _refuse_twice(flag: str, names: Iterable[str]) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise SettingsError(f"{flag}: expected {name!r} once, got it twice; leave one out")
        seen.add(name)
