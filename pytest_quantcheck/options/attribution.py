"""How `--quantcheck-attribution` is spelled and what it asks for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from pytest_quantcheck.options.values import is_whole
from pytest_quantcheck.text import nearest

PAPER_NODES = 50
_METHODS = ("adaptive", "paper", "off")
_CHOICES = {"baseline": ("token", "zero"), "target": ("reference", "own")}


@dataclass(frozen=True)
class AttributionMethod:
    """How salient neurons are found.

    `method`: `adaptive` adds quadrature nodes until the attribution is complete, `paper` takes the paper's 50,
    `fixed` takes `nodes`, `off` attributes nothing; `nodes` is None where the number is not fixed. `baseline`:
    the path starts at the activations of token id 0 or at the zero vector. `target`: the log-probability of the
    reference's answer in both models, or of each model's own answer.
    """

    method: Literal["adaptive", "paper", "off", "fixed"] = "adaptive"
    nodes: int | None = None
    baseline: Literal["token", "zero"] = "token"
    target: Literal["reference", "own"] = "reference"

    def __str__(self) -> str:
        """Spell it as `parse_attribution` reads it back."""
        if self.method == "off":
            return "off"
        method = f"nodes={self.nodes}" if self.method == "fixed" else self.method
        return f"{method},baseline={self.baseline},target={self.target}"


def covering(attribution: AttributionMethod, samples: int) -> str:
    """How a measurement's provenance spells what was attributed: by which method, on how many prompts."""
    return f"{attribution},samples={samples}"


def parse_attribution(raw: str) -> AttributionMethod:
    """Read `adaptive`, `paper`, `off` or `nodes=N`, with `baseline=` and `target=` behind commas.

    >>> parse_attribution("paper,target=own")
    AttributionMethod(method='paper', nodes=50, baseline='token', target='own')
    """
    fields: dict[str, Any] = {}
    for part in (part.strip() for part in raw.split(",")):
        for name, value in _read_part(part).items():
            if name in fields:
                raise ValueError(f"{raw!r} says its {name} twice; say it once")
            fields[name] = value
    if fields.get("method") == "off" and len(fields) > 1:
        raise ValueError(f"'off' takes nothing beside it, got {raw!r}")
    return AttributionMethod(**fields)


def _read_part(part: str) -> dict[str, Any]:
    name, equals, value = part.partition("=")
    if not equals and name in _METHODS:
        return {"method": "paper", "nodes": PAPER_NODES} if name == "paper" else {"method": name}
    if name == "nodes" and is_whole(value) and int(value) > 0:
        return {"method": "fixed", "nodes": int(value)}
    if name in _CHOICES and value in _CHOICES[name]:
        return {name: value}
    spellings = [*_METHODS, "nodes=N", *(f"{key}={choice}" for key, choices in _CHOICES.items() for choice in choices)]
    raise ValueError(f"expected {', '.join(spellings)}, joined by commas, got {part!r}.{nearest(part, spellings)}")
