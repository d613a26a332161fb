"""The tiny models and what is made of them, as fixtures."""

from tests.tiny_models import *  # noqa: F403 - every fixture of that module
