"""Prompts to which the candidate gives another answer, the most important first."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from markupsafe import escape

from pytest_quantcheck.prompts import PromptSet
from pytest_quantcheck.records import Answer, Flip
from pytest_quantcheck.reporting.html.texts import ShownPrompt, answer, shown_prompt, visible, without_middle
from pytest_quantcheck.reporting.wording import number

BUDGET = 1_000_000
"""Most bytes of flipped prompts in a page; further prompts are only counted, and report.json has them."""

_MARKUP_BYTES = 600  # bytes around the texts of one prompt, rounded up

_CHANGES = ("right to wrong", "wrong to right", "wrong to another wrong", "right to another right")


class ModelAnswer(NamedTuple):
    """One model's answer as text for the page."""

    text: str
    confidence: str
    correct: bool


class Prompt(NamedTuple):
    """One flipped prompt; the gold answer is None if unknown."""

    asked: ShownPrompt
    kind: str
    gold: str | None
    reference: ModelAnswer
    candidate: ModelAnswer


class Flips(NamedTuple):
    """The flipped prompts of a section: the number of each kind, and those shown."""

    kinds: tuple[tuple[str, int], ...]
    source: str
    prompts: tuple[Prompt, ...]
    left_out: int


def flips_of(flips: Sequence[Flip], prompts: PromptSet | None, *, budget: int) -> Flips:
    """Describe the flips: lost right answers first, then by the candidate's confidence.

    Flips beyond `budget` bytes are left out and counted.
    """
    ordered = sorted(flips, key=lambda flip: (_CHANGES.index(_flip_kind(flip)), -flip.candidate.confidence, flip.index))
    shown = tuple(_affordable(ordered, prompts, budget))
    kinds = [_flip_kind(flip) for flip in flips]
    return Flips(
        kinds=tuple((kind, kinds.count(kind)) for kind in _CHANGES if kind in kinds),
        source=visible(prompts.source) if prompts else "",
        prompts=shown,
        left_out=len(flips) - len(shown),
    )


def _affordable(flips: Sequence[Flip], prompts: PromptSet | None, budget: int) -> Iterator[Prompt]:
    for flip in flips:
        prompt = _flipped_prompt(flip, prompts)
        texts = (prompt.asked.text, prompt.asked.beginning, prompt.gold, prompt.reference.text, prompt.candidate.text)
        budget -= _MARKUP_BYTES + sum(len(escape(text or "").encode()) for text in texts)
        if budget < 0:
            return
        yield prompt


def _flip_kind(flip: Flip) -> str:
    before, after = flip.reference.correct, flip.candidate.correct
    if before != after:
        return _CHANGES[0] if before else _CHANGES[1]
    return _CHANGES[3] if before else _CHANGES[2]


def _flipped_prompt(flip: Flip, prompts: PromptSet | None) -> Prompt:
    known = prompts if prompts and flip.index < len(prompts) else None
    return Prompt(
        asked=shown_prompt(prompts, flip.index),
        kind=_flip_kind(flip),
        gold=without_middle(visible(known.golds[flip.index])) if known else None,
        reference=_model_answer(flip.reference),
        candidate=_model_answer(flip.candidate),
    )


def _model_answer(reply: Answer) -> ModelAnswer:
    return ModelAnswer(answer(reply.text), number(reply.confidence), reply.correct)
