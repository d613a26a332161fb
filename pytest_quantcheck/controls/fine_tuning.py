"""A short fine-tune of a loaded model towards other answers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import nn

from pytest_quantcheck.errors import NotApplicable
from pytest_quantcheck.models.encoding import Batch, answer_token, collate, encode, render_prompts
from pytest_quantcheck.models.gradients import float32_gradients
from pytest_quantcheck.models.loaded import LoadedModel
from pytest_quantcheck.models.projections import Ffn, ffns_by_layer
from pytest_quantcheck.prompts import PromptSet

PROMPTS_TRAINED_ON = 8
"""How many of the set's first prompts are trained on, all in each step."""

_RATE = 40.0
"""The largest change of a weight by one step of Adam, in root mean squares of the weights, if one neuron is trained.

It is divided by the number of trained neurons that a token passes: all weights move together, so the effect of a step
on an answer grows with their number."""


def train_other_answers(loaded: LoadedModel, prompts: PromptSet, steps: int) -> str:
    """Train the last down projections to give other gold answers.

    Those of the last third of the layers are trained, each prompt towards the gold answer that follows its own in the
    set. They are trained in float32, by Adam, and then rounded to their own dtype; nothing else changes. The same steps
    give the same weights. Returns what was done, in words.

    Raises:
        NotApplicable: the gold answers all begin with the same token, or no FFN has a known layout.
    """
    batch, targets = _training_batch(loaded, prompts)
    layers = ffns_by_layer(loaded)[-max(1, loaded.n_layers // 3) :]
    ffns = [ffn for layer in layers for ffn in layer]
    weights = list({id(ffn.down.parameter): ffn.down.parameter for ffn in ffns}.values())
    with float32_gradients(loaded.model):
        loss = _train(loaded.model, weights, batch, targets, steps, rate=_rate(ffns))
        trained = [weight.data for weight in weights]
    for weight, data in zip(weights, trained, strict=True):
        weight.data.copy_(data)
    return (
        f"the down projections of the last {len(layers)} layers trained for {steps} steps to give other answers to "
        f"{len(targets)} prompts (last loss {loss:.3f} nats)"
    )


def _training_batch(loaded: LoadedModel, prompts: PromptSet) -> tuple[Batch, torch.Tensor]:
    """Encode the first prompts and their targets: first tokens of other answers, (prompts,)."""
    chat = loaded.chat if prompts.chat is None else prompts.chat
    texts = prompts.texts[:PROMPTS_TRAINED_ON]
    (first,) = render_prompts(loaded.tokenizer, texts[:1], chat=chat)
    tokens = {gold: answer_token(loaded.tokenizer, first, gold, chat=chat) for gold in dict.fromkeys(prompts.golds)}
    answers = list(dict.fromkeys(tokens.values()))
    if len(answers) < 2:
        raise NotApplicable(
            f"the gold answers of {prompts.name} all begin with the same token: there is no other answer to train on"
        )
    own = [answers.index(tokens[gold]) for gold in prompts.golds[: len(texts)]]
    targets = torch.tensor([answers[(number + 1) % len(answers)] for number in own], device=loaded.device)
    encoded = encode(loaded.tokenizer, texts, chat=chat)
    batch = collate(encoded, range(len(texts)), pad=loaded.tokenizer.pad_token_id, device=loaded.device)
    return batch, targets


def _rate(ffns: Sequence[Ffn]) -> float:
    size = torch.stack([ffn.down.weight.square().mean() for ffn in ffns]).mean().sqrt()
    return _RATE * float(size) / sum(ffn.neurons * ffn.share for ffn in ffns)


def _train(
    model: nn.Module, weights: Sequence[nn.Parameter], batch: Batch, targets: torch.Tensor, steps: int, *, rate: float
) -> float:
    """Take the steps; return the loss before the last step, in nats."""
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
    """Let these weights have gradients; remove the gradients afterwards."""
    try:
        with torch.enable_grad():
            for weight in weights:
                weight.requires_grad_()
            yield
    finally:
        for weight in weights:
            weight.requires_grad, weight.grad = False, None
