"""Null and damage: what every metric says of models that are the same, and of models broken in known ways.

    python tests/studies/limits.py MODEL PROMPTS [--samples N] [--attribution-samples N] [--template T]

The limits of `default@1` come from its tables; the numbers stand in the evidence of that profile and of `default@2`.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace

from pytest_quantcheck.comparing import compare
from pytest_quantcheck.controls.applying import apply_control
from pytest_quantcheck.measuring import Plan, measure
from pytest_quantcheck.metrics import METRICS
from pytest_quantcheck.models.loaded import LoadedModel
from pytest_quantcheck.models.loading import load
from pytest_quantcheck.models.source import Source
from pytest_quantcheck.prompts import PromptSet, read_prompts
from pytest_quantcheck.records import Comparison, Measurement


@dataclass(frozen=True)
class Case:
    """One candidate: how it is loaded, and what is done to it then."""

    name: str
    bits: str = "reference"
    batch_size: int = 16
    damage: Callable[[LoadedModel, PromptSet], object] | None = None


def defect(name: str, severity: float | None = None, layer: int = 0) -> Callable[[LoadedModel, PromptSet], object]:
    """One of the package's own defects; `layer` is where it is, if it is about one."""

    def damage(loaded: LoadedModel, prompts: PromptSet) -> object:
        return apply_control(loaded, name, plan=Plan(layers=(layer,)), prompts=prompts, severity=severity)

    return damage


def scale_gate(layer: int, factor: float) -> Callable[[LoadedModel, PromptSet], object]:
    """Multiply one block's gate projection, and nothing else of it."""

    def damage(loaded: LoadedModel, _prompts: PromptSet) -> None:
        loaded.neurons.blocks[layer].mlp.gate_proj.weight.data *= factor

    return damage


def cases(n_layers: int) -> Iterator[Case]:
    """The nulls, a ladder of roundings, bitsandbytes' formats and some defects."""
    middle = (n_layers - 1) // 2
    yield Case("null: batches of 5", batch_size=5)
    yield Case("null: bf16", bits="bf16")
    yield from (
        Case(f"round to nearest, {bits} bits", damage=defect("three-bits", bits)) for bits in (8, 6, 5, 4, 3, 2)
    )
    yield from (Case(f"bitsandbytes {bits}", bits=bits) for bits in ("int8", "nf4", "fp4"))
    yield Case("last block at 2 bits", damage=defect("two-bit-layer", 2, layer=n_layers - 1))
    yield Case("gate scales of the middle block x 1.25", damage=scale_gate(middle, 1.25))
    yield Case("5 % of gate rows zeroed", damage=defect("zeroed-rows", 0.05))
    yield Case("final norm x 1.3", damage=defect("sharpened-logits", 1.3))


def study(
    source: Source, prompts: PromptSet, plan: Plan, only: Collection[str] | None = None
) -> Iterator[tuple[str, Comparison]]:
    """Measure the reference, then every case, or those named, against it."""
    reference = _measured(source, prompts, plan, Case("reference"), None)
    for case in cases(reference.provenance.n_layers):
        if only is None or case.name in only:
            yield case.name, compare(reference, _measured(source, prompts, plan, case, reference))


def _measured(source: Source, prompts: PromptSet, plan: Plan, case: Case, reference: Measurement | None) -> Measurement:
    with load(source, case.bits) as loaded:
        if case.damage:
            case.damage(loaded, prompts)
        plan = replace(plan, batch_size=case.batch_size)
        return measure(loaded, prompts, plan, model=source.model, reference=reference)


def row(name: str, comparison: Comparison) -> str:
    """One line of the table: each metric's value, by layer where it has layers."""
    cells = []
    for metric in METRICS:
        values = [f"{e.value:.4f}" if e.value is not None else "-" for e in comparison.of(metric) if e.applicable]
        cells.append(", ".join(values))
    return f"| {name} | {' | '.join(cells)} |"


def interval_row(name: str, comparison: Comparison) -> str:
    """The same with intervals, for a machine."""
    estimates = [[e.metric, e.layer, e.value, e.low, e.high, e.candidate] for e in comparison.estimates]
    return json.dumps({"case": name, "estimates": estimates})


def parse(words: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("prompts")
    parser.add_argument("--samples", type=int, default=512)
    parser.add_argument("--attribution-samples", type=int, default=24)
    parser.add_argument("--template", default="auto")
    parser.add_argument("--json", action="store_true", help="print every estimate with its interval instead")
    return parser.parse_args(words)


def main() -> None:
    """Print the table of one model on one prompt set."""
    asked = parse()
    prompts = read_prompts(asked.prompts, template=asked.template, samples=asked.samples)
    titles = [metric.title for metric in METRICS.values()]
    if not asked.json:
        print("| case |", " | ".join(titles), "|\n|" + "---|" * (len(titles) + 1))
    for name, comparison in study(Source(asked.model, dtype="fp32"), prompts, Plan(samples=asked.attribution_samples)):
        print((interval_row if asked.json else row)(name, comparison), flush=True)


if __name__ == "__main__":
    main()
