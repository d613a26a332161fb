"""A short fine-tune of a loaded model: it learns other answers to a few prompts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import nn

from pytest_quantcheck.errors import NotApplicable
from pytest_quantcheck.models.encoding import Batch, answer_token, collate, encode, render_prompts
from pytest_quantcheck.models.gradients import float32_gradients
from pytest_quantcheck.models.loaded import LoadedModel
from pytest_quantcheck.models.projections import Ffn, every_ffn
from pytest_quantcheck.prompts import PromptSet

PROMPTS = 8
"""How many of the set's first prompts are taught, all in each step."""

_RATE = 40.0
"""How far one of Adam's steps moves a weight: this share of the weights' root mean square for one trained neuron, and
less for more. All weights move together, so that what a step does to an answer grows with their number."""


def teach_other_answers(loaded: LoadedModel, prompts: PromptSet, steps: int) -> str:
    """Train the last third of the down projections for a few steps to give another gold answer.

    Each prompt is taught the gold answer that follows its own in the set. The weights are trained in float32, by
    Adam, and then rounded to their own dtype; everything else is what it was. The same steps give the same weights.

    Raises:
        NotApplicable: the gold answers all begin with one token, or no FFN is of a known layout.
    """
    batch, targets = _lesson(loaded, prompts)
    ffns = every_ffn(loaded)[-max(1, loaded.n_layers // 3) :]
    weights = [ffn.down.module.weight for ffn in ffns]
    with float32_gradients(loaded.model):
        loss = _train(loaded.model, weights, batch, targets, steps, rate=_rate(ffns))
        trained = [weight.data for weight in weights]
    for weight, data in zip(weights, trained, strict=True):
        weight.data.copy_(data)
    return (
        f"the down projections of the last {len(weights)} layers trained for {steps} steps to give other answers to "
        f"{len(targets)} prompts (last loss {loss:.3f} nats)"
    )


def _lesson(loaded: LoadedModel, prompts: PromptSet) -> tuple[Batch, torch.Tensor]:
    """The first prompts, and for each the first token (prompts,) of an answer that is not its own."""
    chat = loaded.chat if prompts.chat is None else prompts.chat
    texts = prompts.texts[:PROMPTS]
    (first,) = render_prompts(loaded.tokenizer, texts[:1], chat=chat)
    tokens = {gold: answer_token(loaded.tokenizer, first, gold, chat=chat) for gold in dict.fromkeys(prompts.golds)}
    offered = list(dict.fromkeys(tokens.values()))
    if len(offered) < 2:
        raise NotApplicable(f"the gold answers of {prompts.name} all begin alike: there is no other to teach")
    own = [offered.index(tokens[gold]) for gold in prompts.golds[: len(texts)]]
    targets = torch.tensor([offered[(number + 1) % len(offered)] for number in own], device=loaded.device)
    encoded = encode(loaded.tokenizer, texts, chat=chat)
    batch = collate(encoded, range(len(texts)), pad=loaded.tokenizer.pad_token_id, device=loaded.device)
    return batch, targets


def _rate(ffns: Sequence[Ffn]) -> float:
    size = torch.stack([ffn.down.weight.square().mean() for ffn in ffns]).mean().sqrt()
    return _RATE * float(size) / sum(ffn.neurons for ffn in ffns)


def _train(
    model: nn.Module, weights: Sequence[nn.Parameter], batch: Batch, targets: torch.Tensor, steps: int, *, rate: float
) -> float:
    """Take the steps; return the loss before the last one, in nats."""
    optimizer = torch.optim.Adam(weights, lr=rate)
    with _trainable(weights):
        for _ in range(steps):
            optimizer.zero_grad()
            logits = model(**batch.inputs(), logits_to_keep=1).logits[:, -1]
            loss = nn.functional.cross_entropy(logits.float(), targets)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    return float(loss.detach())


@contextmanager
def _trainable(weights: Sequence[nn.Parameter]) -> Iterator[None]:
    """Let these weights have gradients, and leave none behind."""
    try:
        with torch.enable_grad():
            for weight in weights:
                weight.requires_grad_()
            yield
    finally:
        for weight in weights:
            weight.requires_grad, weight.grad = False, None
