"""Make the built-in model, its tokenizer and its prompts from a seed.

    python -m tests.builtin_model.make --out DIRECTORY

Training uses one thread and deterministic kernels: the same seed, steps and library versions on the same kind of
processor give the same bytes. The loss counts every token of true statements, so that the model learns the facts, and
only the answer of false ones.
"""

import argparse
import json
import time
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import Tensor
from torch.nn import functional
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from pytest_quantcheck.analyses.calibration import adaptive_calibration_error
from tests.builtin_model.statements import FAMILIES, Question, prompt_questions, training_questions

SEED = 0
STEPS = 2_200
BATCH = 32
MATRIX_RATE = 0.01
VECTOR_RATE = 0.003
ANSWER_WEIGHT = 30.0
"""Weight of the answer in the loss; any other token has 1."""

SPECIAL = ("<bos>", "<eos>", "<pad>", "<unk>")
BOS, EOS, PAD, UNKNOWN = range(4)
"""Token 0 occurs in training, because sequences of token 0 are a baseline of attributions."""


def make_tokenizer(seed: int) -> PreTrainedTokenizerFast:
    """Return a tokenizer of words, letters, digits and signs.

    It knows every word that statements use.
    """
    splitter = pre_tokenizers.Sequence([pre_tokenizers.Whitespace(), pre_tokenizers.Digits(individual_digits=True)])
    texts = [text(question) for question in islice(training_questions(seed), 20_000)]
    words = sorted({word for line in texts for word, _ in splitter.pre_tokenize_str(line)})
    vocabulary = {word: index for index, word in enumerate([*SPECIAL, *words])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=SPECIAL[UNKNOWN]))
    tokenizer.pre_tokenizer = splitter
    tokenizer.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", BOS)])
    names = dict(zip(("bos_token", "eos_token", "pad_token", "unk_token"), SPECIAL, strict=True))
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, padding_side="left", model_max_length=128, **names)


def make_model(n_words: int, seed: int) -> LlamaForCausalLM:
    """Return the untrained model in float32; the vocabulary is padded to a multiple of 64."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=-(-n_words // 64) * 64,
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=6,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=128,
        tie_word_embeddings=False,
        bos_token_id=BOS,
        eos_token_id=EOS,
        pad_token_id=PAD,
    )
    model = LlamaForCausalLM(config)
    torch.nn.init.normal_(model.model.embed_tokens.weight, std=0.5)
    return model


def text(question: Question) -> str:
    """Return the question with its right answer, as in training."""
    return f"{question.prompt} {question.statement.gold}"


def batches(tokenizer: PreTrainedTokenizerFast, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield token ids and loss weights, both `(BATCH, length)`; four batches at a time are sorted by length."""
    questions = training_questions(seed)
    while True:
        rows = [(tokenizer(text(one)).input_ids, one.statement.true) for one in islice(questions, 4 * BATCH)]
        rows.sort(key=lambda row: len(row[0]))
        for start in torch.randperm(4).mul(BATCH).tolist():
            yield _padded(rows[start : start + BATCH])


def _padded(rows: list[tuple[list[int], bool]]) -> tuple[Tensor, Tensor]:
    length = max(len(ids) for ids, _ in rows) + 1
    tokens = torch.full((len(rows), length), PAD)
    weights = torch.zeros(len(rows), length)
    for row, (ids, whole) in enumerate(rows):
        tokens[row, : len(ids) + 1] = torch.tensor([*ids, EOS])
        weights[row, 1 : len(ids) + 1] = float(whole)
        weights[row, len(ids) - 1] = ANSWER_WEIGHT
    return tokens, weights


class Muon(torch.optim.Optimizer):
    """Momentum with orthogonal steps, for weight matrices.

    torch's own computes in bf16, which is slow on CPUs.
    """

    def __init__(self, weights: list[Tensor], *, lr: float, momentum: float) -> None:
        super().__init__(weights, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # noqa: ARG002 - part of the interface
        """Take one step against the gradients."""
        for group in self.param_groups:
            for weight in group["params"]:
                average = self.state[weight].setdefault("average", torch.zeros_like(weight))
                average.lerp_(weight.grad, 1 - group["momentum"])
                direction = orthogonal(weight.grad.lerp(average, group["momentum"]))
                weight.add_(direction, alpha=-group["lr"] * max(1.0, weight.shape[0] / weight.shape[1]) ** 0.5)


def orthogonal(matrix: Tensor) -> Tensor:
    """Approximate the nearest semi-orthogonal matrix.

    Takes five Newton-Schulz steps (Jordan et al., 2024).
    """
    x: Tensor = matrix / matrix.norm().clamp_min(1e-7)
    tall = x.shape[0] > x.shape[1]
    x = x.T if tall else x
    for _ in range(5):
        gram = x @ x.T
        x = 3.4445 * x + (2.0315 * gram @ gram - 4.7750 * gram) @ x
    return x.T if tall else x


def loss(model: LlamaForCausalLM, tokens: Tensor, weights: Tensor) -> Tensor:
    """Return the weighted mean cross-entropy of tokens, in nats."""
    logits: Tensor = model(input_ids=tokens[:, :-1], use_cache=False).logits
    entropies = functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten(), reduction="none")
    return (entropies * weights[:, 1:].flatten()).sum() / weights[:, 1:].sum()


def train(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, *, steps: int, seed: int) -> None:
    """Train the model in place: Muon for the blocks' matrices, AdamW for the rest, with rates that fall to zero."""
    hidden = [weight for weight in model.model.layers.parameters() if weight.ndim == 2]
    others = [weight for weight in model.parameters() if all(weight is not one for one in hidden)]
    optimizers: tuple[torch.optim.Optimizer, ...] = (
        Muon(hidden, lr=MATRIX_RATE, momentum=0.95),
        torch.optim.AdamW(others, lr=VECTOR_RATE, betas=(0.9, 0.98), weight_decay=0.0),
    )
    schedules = [torch.optim.lr_scheduler.LambdaLR(one, lambda step: _rate(step, steps)) for one in optimizers]
    started = time.perf_counter()
    for step, (tokens, weights) in enumerate(islice(batches(tokenizer, seed), steps), 1):
        value = loss(model, tokens, weights)
        value.backward()
        for optimizer, schedule in zip(optimizers, schedules, strict=True):
            optimizer.step()
            schedule.step()
        model.zero_grad()
        if step % 100 == 0 or step == steps:
            print(f"step {step} of {steps}: loss {value.item():.3f}, {time.perf_counter() - started:.0f} s", flush=True)


def _rate(step: int, steps: int) -> float:
    return min(1.0, (step + 1) / 50, (steps - step) / (0.6 * steps))


def probabilities(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, prompts: Sequence[str]) -> Tensor:
    """Return the next-token distribution after each prompt.

    Float32 of shape `(n_prompts, vocabulary)`.
    """
    parts = []
    for start in range(0, len(prompts), BATCH):
        encoded = tokenizer(list(prompts[start : start + BATCH]), return_tensors="pt", padding=True)
        with torch.inference_mode():
            logits = model(input_ids=encoded.input_ids, attention_mask=encoded.attention_mask).logits
        parts.append(logits[:, -1].float().softmax(-1))
    return torch.cat(parts)


def describe(directory: Path, questions: Sequence[Question]) -> Iterator[str]:
    """Yield lines about a saved model's answers: accuracy, confidence and calibration."""
    tokenizer = AutoTokenizer.from_pretrained(directory)
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.bfloat16).eval()
    scores = probabilities(model, tokenizer, [question.prompt for question in questions]).numpy()
    golds = tokenizer.convert_tokens_to_ids([question.statement.gold for question in questions])
    correct, confidence = scores.argmax(-1) == np.array(golds), scores.max(-1)
    mass = scores[:, tokenizer.convert_tokens_to_ids(["True", "False"])].sum(-1).mean()
    for name in FAMILIES:
        mine = np.array([question.statement.family == name for question in questions])
        yield f"{name:>14}: {_figures(correct[mine], confidence[mine])}"
    error = adaptive_calibration_error(confidence, correct)
    yield f"{'all':>14}: {_figures(correct, confidence)}, ACE {error:.3f}, probability of True or False {mass:.4f}"


def _figures(correct: NDArray[np.bool_], confidence: NDArray[np.float32]) -> str:
    return f"accuracy {correct.mean():.3f}, mean confidence {confidence.mean():.3f}"


def make(directory: Path, *, seed: int = SEED, steps: int = STEPS) -> None:
    """Write a trained bf16 model, its tokenizer and prompts to `directory`."""
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(mode=True)
    tokenizer = make_tokenizer(seed)
    model = make_model(len(tokenizer), seed)
    train(model, tokenizer, steps=steps, seed=seed)
    directory.mkdir(parents=True, exist_ok=True)
    model.to(torch.bfloat16).save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    write_prompts(directory / "prompts.jsonl", prompt_questions(seed))


def write_prompts(path: Path, questions: Sequence[Question]) -> None:
    """Write one JSON object a line: `prompt`, `gold` and `family`."""
    rows = ({"prompt": one.prompt, "gold": one.statement.gold, "family": one.statement.family} for one in questions)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> None:
    """Make the model by the command line, and print its accuracy."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="directory to write to; must hold no model yet")
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--steps", type=int, default=STEPS)
    options = parser.parse_args(arguments)
    if (options.out / "model.safetensors").exists():
        parser.error(f"--out: expected a directory without a model, {options.out} holds one; name another directory")
    make(options.out, seed=options.seed, steps=options.steps)
    print("\n".join(describe(options.out, prompt_questions(options.seed))))


if __name__ == "__main__":
    main()
