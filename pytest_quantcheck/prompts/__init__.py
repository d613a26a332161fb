"""Prompt sets: built in, from CSV or JSONL files, or the paper's data sets from the hub."""

from pytest_quantcheck.prompts.promptset import PromptSet
from pytest_quantcheck.prompts.sources import read_prompts

__all__ = ["PromptSet", "read_prompts"]
