"""How far routers agree under harmless changes and under damage: the evidence for the limit in `preview@1`.

    python -m tests.studies.routers MODEL [--experts N] [--noise X] [--prompts P] [--samples N] [--template T]

MODEL is a dense Llama. It is made into a Mixtral whose experts are its FFN with a share of noise, and whose routers are
random (`tests/upcycled.py`). Prints the worst layer's router agreement with its interval, and what other metrics read.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from pytest_quantcheck.comparing import compare
from pytest_quantcheck.controls.catalogue import Site
from pytest_quantcheck.controls.defects import four_bit_router, three_bits
from pytest_quantcheck.measuring import Plan, measure
from pytest_quantcheck.models import builtin
from pytest_quantcheck.models.loaded import LoadedModel
from pytest_quantcheck.models.loading import load
from pytest_quantcheck.models.neurons import find_neurons
from pytest_quantcheck.models.source import Source
from pytest_quantcheck.options.attribution import AttributionMethod
from pytest_quantcheck.prompts import PromptSet, read_prompts
from pytest_quantcheck.records import Comparison, Measurement
from tests.upcycled import upcycle

PLAN = Plan(samples=1, attribution=AttributionMethod("off"), redundancy_neurons=256)
BITS = (8, 6, 5, 4, 3, 2)


def study(
    folder: Path, prompts: PromptSet, *, bits: Sequence[int] = BITS, widths: Sequence[str] = ("int8", "nf4")
) -> Iterator[tuple[str, Comparison]]:
    """Yield each change of a mixture, and the comparison with it as it was."""
    source = Source(str(folder))
    with load(source) as loaded:
        reference = measure(loaded, prompts, PLAN, model=source.model)
        for n in bits:
            yield f"routers at {n} bits", _altered(loaded, four_bit_router, n, reference, prompts)
        for n in bits:
            yield f"all but routers at {n} bits", _altered(loaded, three_bits, n, reference, prompts)
    for dtype in ("fp32", "fp16"):
        with load(Source(str(folder), dtype=dtype)) as loaded:
            yield dtype, compare(reference, measure(loaded, prompts, PLAN, model=source.model, reference=reference))
    for width in widths:
        with load(source, width) as loaded:
            yield width, compare(reference, measure(loaded, prompts, PLAN, model=source.model, reference=reference))


def _altered(
    loaded: LoadedModel, alter: Callable[[Site], str], bits: int, reference: Measurement, prompts: PromptSet
) -> Comparison:
    model = copy.deepcopy(loaded.model)
    own = dataclasses.replace(loaded, model=model, neurons=find_neurons(model))
    alter(Site(own, PLAN, reference.provenance.layers, prompts, bits))
    return compare(reference, measure(own, prompts, PLAN, model=reference.provenance.model, reference=reference))


def row(change: str, comparison: Comparison) -> str:
    """One line of the table."""
    worst = min(comparison.of("router_agreement"), key=lambda estimate: estimate.value)
    redundancy = max(estimate.value for estimate in comparison.of("redundancy_change"))
    (kl,), (flips,) = comparison.of("kl_divergence"), comparison.of("flip_rate")
    read = f"{worst.value:.3f} | {worst.low:.3f} to {worst.high:.3f}"
    return f"| {change} | {read} | {kl.value:.4f} | {flips.value:.3f} | {redundancy:.4f} |"


def parse(words: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--experts", type=int, default=8)
    parser.add_argument("--noise", type=float, default=0.3)
    parser.add_argument("--prompts", default="builtin")
    parser.add_argument("--samples", type=int, default=256)
    parser.add_argument("--template", default="auto")
    return parser.parse_args(words)


def main() -> None:
    """Print the table."""
    asked = parse()
    prompts = read_prompts(asked.prompts, samples=asked.samples, template=asked.template)
    dense = builtin.DIRECTORY if asked.model == "builtin" else Path(asked.model)
    columns = ("change", "router agreement", "interval", "KL divergence", "flip rate", "redundancy change")
    print(f"| {' | '.join(columns)} |\n{'|---' * len(columns)}|")
    with tempfile.TemporaryDirectory() as folder:
        upcycle(dense, Path(folder), experts=asked.experts, noise=asked.noise)
        for change, comparison in study(Path(folder), prompts):
            print(row(change, comparison), flush=True)


if __name__ == "__main__":
    main()
