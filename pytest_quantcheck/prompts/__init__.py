"""Prompt sets: built in, CSV or JSONL files, or data sets of the hub."""

from pytest_quantcheck.prompts.promptset import PromptSet
from pytest_quantcheck.prompts.sources import read_prompts

__all__ = ["PromptSet", "read_prompts"]
