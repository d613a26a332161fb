"""What measuring larger models on a cluster costs, on paper.

`python -m tests.studies.on_paper` prints the table of `docs/how-to/cluster.md`, whose page says where the numbers are
from.
"""

from typing import NamedTuple

from pytest_quantcheck.analyses.draws import neurons_of_each
from pytest_quantcheck.measuring.streams import affordable_neurons

PROMPTS, TOKENS, ATTRIBUTED, BATCH, LAYERS = 1024, 52, 128, 16, 3
"""Of a run; tokens are those of one prompt."""

MEASURING, ATTRIBUTING, DECIDING = 1.1, 6.3, 25
"""Measured: forward passes of a measuring pass; of attributing one prompt, in float32; prompts that take as long as the
eight deciding ones."""

COPYING, MERGING = 2.7e9, 3.6e9
"""Measured: bytes a second."""

BF16, FLOAT32, NETWORK, READING = 400e12, 40e12, 25e9 / 8, 2e9
"""Assumed: operations of a GPU, and bytes, a second."""


class Model(NamedTuple):
    """A model: `active` weights of the blocks for a token, bytes, neurons and experts of a layer, GPUs of a worker."""

    name: str
    active: float
    size: float
    neurons: int
    gpus: int
    experts: int = 1

    def bytes_of_sums(self, most=None):
        """Bytes of a shard's sums; `most`: neurons to correlate in a layer."""
        chosen = most or affordable_neurons(round(self.active), LAYERS)
        each = min(self.neurons, chosen if self.experts == 1 else neurons_of_each(chosen, self.experts))
        return 4 * LAYERS * self.experts * each**2

    @property
    def forward(self):
        """Seconds of one worker for all forward passes."""
        return MEASURING * 2 * self.active * PROMPTS * TOKENS / BF16

    @property
    def attribution(self):
        """Seconds of one worker for all attributions."""
        return ATTRIBUTING * 2 * self.active * ATTRIBUTED * TOKENS / FLOAT32

    @property
    def deciding(self):
        """Seconds of one worker for the eight deciding prompts."""
        return DECIDING * self.attribution / ATTRIBUTED


MODELS = (
    Model("7B, 11,008 neurons a layer", 6.5e9, 13.5e9, 11_008, 1),
    Model("70B, 28,672 neurons, two GPUs each", 68.5e9, 141e9, 28_672, 2),
    Model("235B, of which 22B compute, 128 experts of 1,536, eight GPUs each", 22e9, 470e9, 1_536, 8, 128),
)


def merging(model, shards, most=None):
    """Seconds that it takes to send, copy and merge the sums of shards."""
    return shards * model.bytes_of_sums(most) * (1 / NETWORK + 1 / COPYING + 1 / MERGING)


def rows():
    """The rows of the table."""
    for model in MODELS:
        name = f"{model.name}; {_seconds(model.forward)} and {_seconds(model.attribution)}"
        for gpus in (8, 64, 512):
            workers = gpus // model.gpus
            shards = min(PROMPTS // BATCH, max(8, 4 * workers))
            busy = min(workers, shards)
            idle = f", of whom {busy} have work" if busy < workers else ""
            times = [
                model.size / READING,
                (model.forward + model.attribution) / busy,
                merging(model, shards),
            ]
            cells = [f"**{_seconds(time)}**" if time == max(times) else _seconds(time) for time in times]
            sent = f"{shards}; {shards * model.bytes_of_sums() / 1e9:.0f} GB"
            yield f"| {name} | {gpus} ({workers}{idle}) | {sent} | {' | '.join(cells)} |".replace("|  |", "| |")
            name = ""


def _seconds(time):
    return f"{time:.0f} s" if time >= 2 else f"{time:.1f} s"


if __name__ == "__main__":
    print("\n".join(rows()))
    for model in MODELS:
        print(
            f"{model.name}: sums {model.bytes_of_sums() / 1e9:.1f} GB; of 2,048 neurons "
            f"{model.bytes_of_sums(2048) / 1e6:.0f} MB, merging 64 {merging(model, 64, 2048):.0f} s; deciding "
            f"{model.deciding:.0f} s"
        )
