"""Released checkpoints of a real model of 135 million parameters answer as the small ones do."""

import pytest
import torch

from pytest_quantcheck.models.gradients import float32_gradients
from pytest_quantcheck.models.loading import load
from pytest_quantcheck.models.source import Source
from tests.models.releases import RELEASES, logits_of, needs, plain_copy, slope_of, write

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),  # the formats' libraries warn of their own future
]


@pytest.fixture(scope="module")
def reference(smollm2_file, tmp_path_factory):
    """The model in bfloat16, as a plain checkpoint."""
    folder = tmp_path_factory.mktemp("135m")
    with load(Source(str(smollm2_file), device="cpu"), "bf16") as loaded:
        loaded.model.save_pretrained(folder)
        loaded.tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("name", [needs(name) for name in RELEASES])
def test_release_answers_and_is_differentiated_as_its_file_says(reference, tmp_path, name, record_property):
    """Logits are those that the maker's model has, bit for bit where it runs here; gradients those of the weights."""
    release = RELEASES[name]
    made = write(release, reference, tmp_path)
    plain = plain_copy(release, reference, tmp_path)
    expected = logits_of(made if release.exact else plain)
    slope = slope_of(plain)
    with load(Source(str(tmp_path), device="cpu"), "released") as loaded:
        assert loaded.module_types[release.label] == 210
        with float32_gradients(loaded.model, int8_kernels=False):
            difference = (slope_of(loaded.model) - slope).norm() / slope.norm()
        obtained = logits_of(loaded.model)
    divergence = torch.nn.functional.kl_div(
        obtained.log_softmax(-1), expected.log_softmax(-1), log_target=True, reduction="none"
    )
    record_property("gradient", float(difference))
    record_property("divergence", float(divergence.sum(-1).mean()))
    assert torch.equal(obtained, expected) or not release.exact
    # half-precision arithmetic against float32, in nats
    assert divergence.sum(-1).mean() < 0.01
    # GPTQ's and AWQ's own kernels round their weights to half precision
    assert difference < (1e-3 if release.exact or name == "fp8" else 2e-2)
