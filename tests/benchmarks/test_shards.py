"""The measuring pass in shards against the same pass in one."""

import pytest

from pytest_quantcheck.measuring import Plan, measure
from pytest_quantcheck.options.attribution import AttributionMethod


@pytest.mark.benchmark(group="shards")
def test_shards(model, prompts, race, full):
    """256 prompts in shards of the default size and in one; nothing is attributed."""
    loaded, chosen = model(dtype="bf16" if full else "fp32"), prompts(256 if full else 24)
    size = Plan().shard_size if full else 8

    def measured(shard_size):
        plan = Plan(attribution=AttributionMethod("off"), batch_size=16 if full else 4, shard_size=shard_size)
        return measure(loaded, chosen, plan, model="benchmark")

    found, peers = race(
        lambda: measured(size), {"one shard": lambda: measured(len(chosen))}, rounds=12, n_prompts=len(chosen)
    )
    (whole,) = peers.values()
    assert (found.answers.confidence == whole.answers.confidence).all()
