"""A run's models, each resolved once from the options into a record."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from pytest_quantcheck.controls.catalogue import CONTROLS
from pytest_quantcheck.errors import SettingsError
from pytest_quantcheck.models.source import Source, declared, local_path, quantization_of, quantized_already
from pytest_quantcheck.options import BIT_WIDTHS, Settings
from pytest_quantcheck.options.candidate import name_candidates
from pytest_quantcheck.options.values import PRECISIONS
from pytest_quantcheck.records import REFERENCE, RELEASED
from pytest_quantcheck.text import ONE_OF_THESE, nearest, nearest_first

Kind = Literal["reference", "bit_width", "checkpoint", "control"]


@dataclass(frozen=True)
class Target:
    """One model of a run.

    `name` stands in test ids; `source` says where its files are, as the user named them; `load_as` is what
    `models.loading.load` takes; `label` is what messages call it. A control is made from the reference after loading.
    """

    name: str
    kind: Kind
    source: Source
    load_as: str
    label: str


@dataclass(frozen=True)
class Targets:
    """All models of a run; candidates are bit-widths, then released checkpoints."""

    reference: Target
    candidates: tuple[Target, ...]
    controls: tuple[Target, ...]

    def find(self, name: str) -> Target:
        """Find a target by its name; bit-widths may be spelled as in `--quantcheck-bits` and need not be candidates.

        Raises:
            SettingsError: this run has no such model.
        """
        spelled = str(name)  # a test may say 8 instead of "8"
        targets = {target.name: target for target in (self.reference, *self.candidates)}
        if spelled in targets:
            return targets[spelled]
        if spelled in BIT_WIDTHS:
            return _bit_width_target(BIT_WIDTHS[spelled], self.reference)
        if spelled in CONTROLS:
            return _control_target(spelled, self.reference)
        models, widths, controls = (
            ", ".join(nearest_first(spelled, names)) for names in (targets, BIT_WIDTHS, CONTROLS)
        )
        raise SettingsError(
            f"expected a model of this run ({models}), a bit-width ({widths}) or a control ({controls}), got "
            f"{name!r:.100}.{nearest(spelled, [*targets, *BIT_WIDTHS, *CONTROLS]) or ONE_OF_THESE}"
        )


def resolve_targets(settings: Settings, stored_model: str | None) -> Targets:
    """Resolve the options into targets. Looks at paths and at one small file, and loads nothing.

    Args:
        settings: the options.
        stored_model: the reference's name in a baseline that stands for it; None when the reference is measured.

    Raises:
        SettingsError: a bit-width that is the reference's precision, or two candidates of one name.
        ModelError: a path that does not exist, a reference that is quantized, or layers that it does not have.
    """
    model = settings.model or stored_model or ""
    reference = Target(REFERENCE, "reference", _source(settings, model, settings.revision), REFERENCE, model)
    checkpoints = tuple(_checkpoints(settings))
    if (
        settings.device.startswith("cuda") and settings.engine == "local" and not settings.dry_run
    ):  # a dry run says it beside what else is wrong
        from pytest_quantcheck.models.pretrained import choose_device  # noqa: PLC0415 - heavy

        choose_device(settings.device)
    if stored_model is None or settings.bits or settings.controls or settings.calibrate:
        _check_declared(settings, reference.source)
    return Targets(
        reference=reference,
        candidates=(*(_bit_width_target(bits, reference) for bits in settings.bits), *checkpoints),
        controls=tuple(
            _control_target(name, reference) for name in CONTROLS if settings.controls or settings.calibrate
        ),
    )


def equal_to_reference(bits: str) -> SettingsError:
    """Make the error for a candidate that would be the reference."""
    return SettingsError(
        f"--quantcheck-bits names {bits}, which is the precision of the reference: the candidate would be equal to it; "
        "leave it out, or give the reference another precision with --quantcheck-dtype"
    )


def _checkpoints(settings: Settings) -> Iterator[Target]:
    for name, checkpoint in name_candidates(settings.candidate).items():
        local_path(checkpoint.model)
        source = _source(settings, checkpoint.model, checkpoint.revision)
        yield Target(name, "checkpoint", source, RELEASED, str(checkpoint))


def _bit_width_target(bits: str, reference: Target) -> Target:
    return Target(bits, "bit_width", reference.source, bits, reference.label)


def _control_target(name: str, reference: Target) -> Target:
    return Target(name, "control", reference.source, REFERENCE, reference.label)


def _source(settings: Settings, model: str, revision: str | None) -> Source:
    return Source(
        model=model,
        revision=revision,
        dtype=settings.dtype,
        device=settings.device,
        neurons=settings.neurons,
        trust_remote_code=settings.trust_remote_code,
        allow_pickle=settings.allow_pickle,
        attribution_memory=settings.attribution_memory,
        max_memory=settings.max_memory or (),
    )


def _check_declared(settings: Settings, source: Source) -> None:
    """Check the reference's path, precision and layers."""
    config = declared(source.model)
    if quantization_of(config):
        raise quantized_already(source)
    dtype = PRECISIONS.get(str(config.get("dtype") or config.get("torch_dtype")))
    if settings.dtype == "auto" and dtype and dtype in settings.bits:
        raise equal_to_reference(dtype)
    n_layers = config.get("num_hidden_layers")
    if isinstance(settings.layers, tuple) and isinstance(n_layers, int) and n_layers > 0:
        from pytest_quantcheck.models.neurons import choose_layers  # noqa: PLC0415 - heavy

        choose_layers(settings.layers, n_layers)
