"""The tiny models and what is made of them, as fixtures."""

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from pytest_quantcheck.models import builtin
from tests.models.releases import RELEASES, write
from tests.tiny_models import *  # noqa: F403 - every fixture of that module


@pytest.fixture(scope="session")
def two_blocks(tmp_path_factory):
    """The built-in model's first two blocks as a checkpoint: quick to load, and it answers all the same."""
    folder = tmp_path_factory.mktemp("two-blocks")
    model = AutoModelForCausalLM.from_pretrained(builtin.DIRECTORY, num_hidden_layers=2, dtype="auto")
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(builtin.DIRECTORY).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def released(two_blocks, tmp_path_factory):
    """Makes a release of two blocks in a format: its folder, and the maker's model; each is made once."""
    made = {}

    def make(name):
        if name not in made:
            folder = tmp_path_factory.mktemp(name)
            made[name] = folder, write(RELEASES[name], two_blocks, folder)
        return made[name]

    return make
