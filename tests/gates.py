"""Gates for tests: quick ones, and one that records what it loads."""

from pytest_quantcheck.options import OPTIONS, AttributionMethod, Settings
from pytest_quantcheck.run.gate import Gate
from pytest_quantcheck.run.local_models import LocalModels


class CountingModels(LocalModels):
    """Records the name of each model that is loaded, for a control what it is made from."""

    def __init__(self):
        super().__init__()
        self.loads = []

    def load(self, target):
        self.loads.append(target.load_as if target.kind == "control" else target.name)
        return super().load(target)


class CountingGate(Gate):
    """A gate whose `loads` are recorded."""

    def __init__(self, settings):
        models = CountingModels()
        super().__init__(settings, models=models)
        self.loads = models.loads


def settings(**changes):
    """The default settings, cut down to what takes a second, with these changes."""
    quick = {
        "model": "builtin",
        "bits": ("int8",),
        "samples": 12,
        "layers": (2,),
        "attribution": AttributionMethod("off"),
        "continuation": 0,
    }
    return Settings(**{option.field: option._value(option._default) for option in OPTIONS} | quick | changes)
