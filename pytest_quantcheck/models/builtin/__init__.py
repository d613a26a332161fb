"""A small language model that comes with the package, and its prompts.

The model is a trained Llama of 1.3 million parameters. It answers True or False to short statements about numbers,
letters, words and things. `tests/builtin_model/make.py` of the source distribution trained it from a seed, without
other data. None of the prompts was in its training, so right answers are learned, and wrong ones make its calibration
worth measuring. Use it to try a gate: it needs no download and seconds on a CPU.
"""

from pathlib import Path

DIRECTORY = Path(__file__).parent
"""The checkpoint: configuration, weights (bf16) and tokenizer, as `from_pretrained` reads them."""

PROMPTS = DIRECTORY / "prompts.jsonl"
"""The prompts: one JSON object a line with `prompt`, `gold` (`"True"` or `"False"`) and `family`."""
