"""Both error rates of a profile: how often models that are the same fail, and how often damaged ones are caught.

    python tests/studies/error_rates.py FILE MODEL PROMPTS [--template T] [--sizes N,N,N] [--pool N] [--draws N]

The reference, the nulls, every rewrite and every defect at every grade are measured over a pool of prompts, in shards
of 32. A fresh sample of prompts is so many shards, drawn without replacement and merged, which is exact. Each
comparison of a sample is appended to FILE as a line of JSON; `error_tables.py` judges those lines by a profile.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import msgspec
import numpy as np

from pytest_quantcheck.comparing import IntervalSettings, compare
from pytest_quantcheck.controls.applying import apply_control
from pytest_quantcheck.controls.catalogue import CONTROLS
from pytest_quantcheck.errors import NotApplicable
from pytest_quantcheck.measuring import Plan, measure
from pytest_quantcheck.measuring.merging import merge
from pytest_quantcheck.models.loaded import LoadedModel
from pytest_quantcheck.models.loading import load
from pytest_quantcheck.models.source import Source
from pytest_quantcheck.prompts import PromptSet, read_prompts
from pytest_quantcheck.records import Comparison, Measurement

SHARD = 32
"""Prompts measured together; samples are made of whole shards."""

NEURONS = 256
"""Neurons correlated in each layer, a seeded sample: the sums of every shard are kept in memory."""

ATTRIBUTED = 2
"""Shards of a sample that are attributed: as many prompts as a gate attributes by default."""


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """One comparison of one fresh sample of n prompts."""

    model: str
    prompts: str
    kind: str
    control: str
    grade: float | None
    draw: int
    n: int
    comparison: Comparison


@dataclass(frozen=True)
class Case:
    """One candidate: how it is loaded and measured, and what is done to it first."""

    kind: str
    name: str
    grade: float | None = None
    bits: str = "reference"
    batch_size: int = 16
    change: Callable[[LoadedModel], object] | None = None


@dataclass(frozen=True, eq=False)
class Study:
    """A model on a pool of prompts: `sizes` of samples, `draws` of each, and how many shards are attributed."""

    source: Source
    prompts: PromptSet
    plan: Plan
    sizes: tuple[int, ...]
    draws: int

    def lines(self, cases: Sequence[Case], pool: int) -> Iterator[Line]:
        """Measure the reference and each case on the first `pool` prompts, and compare samples of them."""
        shards = _shards(min(pool, len(self.prompts)))
        reference = self._measured(Case("reference", "reference"), shards, [])
        for case in cases:
            try:
                candidate = self._measured(case, shards, reference)
            except NotApplicable as error:
                print(f"{case.name} {case.grade}: not applicable: {error}", flush=True)
                continue
            yield from self._samples(case, reference, candidate)

    def _samples(self, case: Case, reference: list[Measurement], candidate: list[Measurement]) -> Iterator[Line]:
        for n in self.sizes:
            for draw in range(self.draws if n < SHARD * len(reference) else 1):
                chosen = self._draw(len(reference), n // SHARD, draw)
                pair = [merge([shards[i] for i in chosen]) for shards in (reference, candidate)]
                yield Line(
                    model=Path(self.source.model).name,
                    prompts=self.prompts.name,
                    kind=case.kind,
                    control=case.name,
                    grade=case.grade,
                    draw=draw,
                    n=n,
                    comparison=compare(*pair, IntervalSettings(seed=draw)),
                )

    def _draw(self, shards: int, taken: int, seed: int) -> list[int]:
        """Some shards of the pool: two that were attributed, then others, then what is left."""
        generator = np.random.default_rng([seed, taken])
        attributed = self.plan.samples // SHARD
        first = generator.permutation(attributed).tolist()
        others = (attributed + generator.permutation(shards - attributed)).tolist()
        return [*first[:ATTRIBUTED], *others, *first[ATTRIBUTED:]][:taken]

    def _measured(self, case: Case, shards: list[range], reference: list[Measurement]) -> list[Measurement]:
        """Every shard of one candidate."""
        with load(self.source, case.bits) as loaded:
            if case.change:
                case.change(loaded)
            plan = replace(self.plan, batch_size=case.batch_size)
            work = partial(measure, loaded, self.prompts, plan, model=self.source.model)
            if not reference:
                return [work(index=shard) for shard in shards]
            return [work(index=shard, reference=known) for shard, known in zip(shards, reference, strict=True)]


def _shards(prompts: int) -> list[range]:
    return [range(start, start + SHARD) for start in range(0, prompts - SHARD + 1, SHARD)]


def nulls(dtype: str) -> Iterator[Case]:
    """The same weights: other batches, in which every prompt has other mates, and the other float formats."""
    yield Case("null", "null-batches", batch_size=5)
    yield from (Case("null", f"null-dtype {bits}", bits=bits) for bits in ("bf16", "fp32") if bits != dtype)


def damaged(plan: Plan, prompts: PromptSet) -> Iterator[Case]:
    """Every rewrite, every defect at every grade (a ladder of roundings among them), and bitsandbytes' formats."""
    for control in CONTROLS.values():
        change = partial(apply_control, name=control.name, plan=plan, prompts=prompts)
        if control.kind == "rewrite":
            yield Case("rewrite", control.name, change=change)
        for grade in control.grades:
            yield Case("defect", control.name, grade, change=partial(change, severity=grade))
    yield from (Case("candidate", bits, bits=bits) for bits in ("int8", "nf4"))


def parse(words: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("model")
    parser.add_argument("prompts")
    parser.add_argument("--template", default="auto")
    parser.add_argument("--dtype", default="bf16")
    parser.add_argument("--sizes", default="64,256,1024")
    parser.add_argument("--pool", type=int, default=1536, help="prompts of the nulls; 0 for none")
    parser.add_argument("--damage-pool", type=int, default=256, help="prompts of everything else; 0 for none")
    parser.add_argument("--attributed", type=int, default=256, help="prompts of the nulls that are attributed")
    parser.add_argument("--damage-attributed", type=int, default=64)
    parser.add_argument("--draws", type=int, default=100, help="samples of each null and size")
    parser.add_argument("--damage-draws", type=int, default=10)
    parser.add_argument("--only", default="", help="of everything else, what has this in its name")
    return parser.parse_args(words)


def main() -> None:
    """Append the lines of one model on one prompt set."""
    asked = parse()
    prompts = read_prompts(asked.prompts, template=asked.template, samples=max(asked.pool, asked.damage_pool))
    source = Source(asked.model, dtype=asked.dtype)
    sizes = tuple(int(size) for size in asked.sizes.split(","))
    few = tuple(size for size in sizes if size <= asked.damage_pool)
    plan = Plan(samples=asked.attributed, redundancy_neurons=NEURONS)
    fewer = replace(plan, samples=asked.damage_attributed)
    others = [case for case in damaged(plan, prompts) if asked.only in case.name]
    with asked.file.open("ab") as file:
        for study, cases, pool in (
            (Study(source, prompts, plan, sizes, asked.draws), list(nulls(asked.dtype)), asked.pool),
            (Study(source, prompts, fewer, few, asked.damage_draws), others, asked.damage_pool),
        ):
            for line in study.lines(cases, pool) if pool else ():
                file.write(msgspec.json.encode(line) + b"\n")
                file.flush()


if __name__ == "__main__":
    main()
