"""How far each type of GGUF file is from the checkpoint it was written of, in nats: the figures of docs/formats.md.

    python -m tests.studies.gguf_types MODEL [--types Q8_0 …] [--prompts P] [--samples N]

MODEL is a Llama: a `.gguf` file, or a directory. It is unpacked to float32; each type is written from that by `gguf`'s
own rounding, embeddings at Q8_0, and is compared as a candidate: in float32, rounded to bf16, and against a reference
in bf16.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from pytest_quantcheck.comparing import compare
from pytest_quantcheck.measuring import Plan, measure
from pytest_quantcheck.models.files import resolve_files
from pytest_quantcheck.models.loading import load
from pytest_quantcheck.models.released import unpacked
from pytest_quantcheck.models.source import Source
from pytest_quantcheck.options.attribution import AttributionMethod
from pytest_quantcheck.prompts import PromptSet, read_prompts
from pytest_quantcheck.records import Measurement
from tests.models.gguf_files import write_gguf

TYPES = ("Q4_1", "Q8_0", "Q5_0", "Q5_1", "Q4_0")
DTYPES = (("fp32", "fp32"), ("fp32", "bf16"), ("bf16", "fp32"))
"""Of the reference, and of the candidate."""


def study(plain: Path, prompts: PromptSet, types: Sequence[str], *, pre: str) -> Iterator[tuple[str, list[float]]]:
    """Yield each type's KL divergences, one for each pair of float formats.

    `plain`: a checkpoint in float32; `pre`: the name that GGUF files have for its pre-tokenizer.
    """
    references = {dtype: _measured(Source(str(plain), dtype=dtype), prompts) for dtype in ("fp32", "bf16")}
    with tempfile.TemporaryDirectory() as folder:
        for kind in types:
            path = write_gguf(plain, Path(folder) / f"{kind}.gguf", kind, embedding="Q8_0", pre=pre)
            yield kind, [_divergence(references[of], Source(str(path), dtype=dtype), prompts) for of, dtype in DTYPES]


def _divergence(reference: Measurement, candidate: Source, prompts: PromptSet) -> float:
    (estimate,) = compare(reference, _measured(candidate, prompts, reference)).of("kl_divergence")
    assert estimate.value is not None
    return estimate.value


def _measured(source: Source, prompts: PromptSet, reference: Measurement | None = None) -> Measurement:
    plan = Plan(attribution=AttributionMethod(method="off"), layers=(0,))
    with load(source, "released" if reference else "reference") as loaded:
        return measure(loaded, prompts, plan, model=source.model, reference=reference)


def parse(words: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--types", nargs="+", default=TYPES)
    parser.add_argument("--prompts", default="builtin")
    parser.add_argument("--samples", type=int, default=64)
    parser.add_argument("--pre", default="smollm", help="what GGUF files call the model's pre-tokenizer")
    return parser.parse_args(words)


def main() -> None:
    """Print the table."""
    asked = parse()
    prompts = read_prompts(asked.prompts, samples=asked.samples)
    print("| type | float32 | rounded to bf16 | against a reference in bf16 |\n|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        source = Source(asked.model, dtype="fp32")
        plain = unpacked(resolve_files(source), Path(folder)).folder
        for kind, divergences in study(plain, prompts, asked.types, pre=asked.pre):
            print(f"| {kind} | {' | '.join(f'{value:.4f}' for value in divergences)} |", flush=True)


if __name__ == "__main__":
    main()
