"""Only what the tests of every folder need; the plugin itself comes from its entry point."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # the tests' models are too small for threads to pay
os.environ.pop("GITHUB_STEP_SUMMARY", None)  # the gates of these tests are nobody's release

pytest_plugins = ["pytester"]
