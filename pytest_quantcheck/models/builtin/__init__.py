"""A small language model that comes with the package, and the prompts it is asked.

The model is a real, trained Llama of 1.3 million parameters that answers True or False to short statements
about numbers, letters, words and things. `make.py` trained it, from a seed and nothing else. None of its prompts
was in its training, so what it gets right it has learned, and what it gets wrong makes its calibration worth
measuring. It is here to try a gate on: no download, seconds on a CPU.
"""

from pathlib import Path

DIRECTORY = Path(__file__).parent
"""The checkpoint: configuration, weights (bf16) and tokenizer, as `from_pretrained` wants them."""

PROMPTS = DIRECTORY / "prompts.jsonl"
"""The prompts: one JSON object a line with `prompt`, `gold` (`"True"` or `"False"`) and `family`."""
