"""Gates for tests: quick ones, and one that remembers what it loaded."""

from pytest_quantcheck.options import OPTIONS, AttributionMethod, Settings
from pytest_quantcheck.run.gate import Gate


class CountingGate(Gate):
    """Remembers what was loaded."""

    def __init__(self, settings):
        super().__init__(settings)
        self.loads = []

    def load(self, bits="reference"):
        self.loads.append(bits)
        return super().load(bits)


def settings(**changes):
    """The default settings, cut down to what takes a second, with these changes."""
    quick = {
        "model": "builtin",
        "bits": ("int8",),
        "samples": 12,
        "layers": (2,),
        "attribution": AttributionMethod("off"),
    }
    return Settings(**{option.field: option._value(option._default) for option in OPTIONS} | quick | changes)
