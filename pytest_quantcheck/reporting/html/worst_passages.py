"""What the reference wrote, its tokens marked by token KL."""

from typing import NamedTuple

from pytest_quantcheck.prompts import PromptSet
from pytest_quantcheck.records import Passage, ScoredToken, TokenDivergence
from pytest_quantcheck.reporting.html.texts import ShownPrompt, answer, on_one_line, shown_prompt
from pytest_quantcheck.reporting.wording import number

_MARKED = (0.1, 0.5, 1.0)
"""Token KL in nats from which a token is marked, and more strongly marked."""

_NAMES = {"50": "median", "100": "largest"}


class Token(NamedTuple):
    """One token as the page shows it; `strength` counts from 0, and `divergence` is empty there.

    `instead`: the candidate's most probable token, where it is another.
    """

    text: str
    strength: int
    divergence: str
    instead: str | None


class WorstPassage(NamedTuple):
    """One passage: its prompt, its mean token KL in nats, and its tokens."""

    asked: ShownPrompt
    divergence: str
    tokens: tuple[Token, ...]


class WrittenTokens(NamedTuple):
    """What a section shows of scored tokens."""

    percentiles: str
    marked_from: str
    passages: tuple[WorstPassage, ...]


def written_tokens(divergence: TokenDivergence, prompts: PromptSet | None) -> WrittenTokens:
    """Tell the percentiles of token KL, and mark tokens."""
    ascending = sorted(divergence.percentiles.items(), key=lambda pair: float(pair[0]))
    percentiles = [f"{_NAMES.get(share, f'{share}th percentile')} {number(value)}" for share, value in ascending]
    return WrittenTokens(
        percentiles=", ".join(percentiles),
        marked_from=", ".join(f"{strength:g}" for strength in _MARKED),
        passages=tuple(_passage(passage, prompts) for passage in divergence.worst),
    )


def _passage(passage: Passage, prompts: PromptSet | None) -> WorstPassage:
    return WorstPassage(
        asked=shown_prompt(prompts, passage.index),
        divergence=number(passage.divergence),
        tokens=tuple(map(_token, passage.tokens)),
    )


def _token(token: ScoredToken) -> Token:
    strength = sum(token.divergence >= strength for strength in _MARKED)
    return Token(
        text=on_one_line(token.written),
        strength=strength,
        divergence=number(token.divergence) if strength else "",
        instead=None if token.top == token.written else answer(token.top),
    )
