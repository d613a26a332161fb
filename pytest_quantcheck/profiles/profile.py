"""Records of a threshold profile and its limits."""

from collections.abc import Iterable
from typing import Literal, NamedTuple

import msgspec

from pytest_quantcheck.bit_widths import BitWidth
from pytest_quantcheck.errors import ProfileError
from pytest_quantcheck.metric_names import MetricName
from pytest_quantcheck.metrics import check_limit, find_metric

LayerName = Literal["first", "middle", "last"]
Inconclusive = Literal["fail", "warn", "point"]

_NAMED_KEYS = ("bits", "model", "prompts")
_CASE_KEYS = ("bits", "layer", "model", "prompts")


class Limit(msgspec.Struct, frozen=True, kw_only=True):
    """Limit of one metric in one case.

    `direction` is `"max"` when a `value` above the limit fails and `"min"` when one below it does; `evidence`
    says what was measured to set the limit; `source` names the table of a profile, or the option, that gives it.
    With fewer than `from_prompts` prompts the metric is reported and does not gate, because chance would decide.
    """

    metric: MetricName
    value: float
    direction: Literal["max", "min"]
    evidence: str
    source: str
    from_prompts: int = 1


class Case(NamedTuple):
    """Case to find a limit for: candidate, block, model and prompt set."""

    bits: str | None
    layer: int | None
    n_layers: int | None
    model: str | None
    prompts: str | None

    @property
    def layer_names(self) -> tuple[int | LayerName | None, ...]:
        """The block's number and its name, or None."""
        if self.layer is None or self.n_layers is None:
            return ()
        return (self.layer, block_name(self.layer, self.n_layers))


class Rule(msgspec.Struct, frozen=True, kw_only=True):
    """A limit and its cases: those that agree with every key that is set.

    `layer` is the number or the name of a block. A block has one name: the only block of a model is `first`.
    """

    limit: Limit
    bits: BitWidth | None = None
    layer: int | LayerName | None = None
    model: str | None = None
    prompts: str | None = None

    @property
    def case(self) -> dict[str, int | str]:
        """The keys that are set, in order; empty in the rule for every other case."""
        return {key: value for key in _CASE_KEYS if (value := getattr(self, key)) is not None}

    @property
    def rank(self) -> int:
        """The number of keys that are set: the most specific rule wins."""
        return len(self.case)

    def matches(self, case: Case) -> bool:
        """Tell whether the rule is for this case."""
        named = all(getattr(self, key) in (None, getattr(case, key)) for key in _NAMED_KEYS)
        return named and (self.layer is None or self.layer in case.layer_names)

    def may_meet(self, other: "Rule") -> bool:
        """Tell whether some case matches both rules: they differ in no key."""
        named = ((getattr(self, key), getattr(other, key)) for key in _NAMED_KEYS)
        if any(first is not None and second is not None and first != second for first, second in named):
            return False
        return _layers_may_meet(self.layer, other.layer)


class Profile(msgspec.Struct, frozen=True, kw_only=True):
    """A version of a threshold profile.

    `confidence` is the level of every interval; `inconclusive` says how to judge an interval that contains the
    limit: `fail`, `warn` (pass with a warning) or `point` (decide by the point estimate).
    """

    name: str
    version: int
    description: str
    confidence: float
    inconclusive: Inconclusive
    rules: tuple[Rule, ...]
    path: str
    allow_unmeasured: tuple[MetricName, ...] = ()

    @property
    def label(self) -> str:
        """The name and version, as `--quantcheck-profile` takes them."""
        return f"{self.name}@{self.version}"

    @property
    def metrics(self) -> tuple[MetricName, ...]:
        """The metrics with a limit, in the order of the profile's file."""
        return tuple(dict.fromkeys(rule.limit.metric for rule in self.rules))

    def fewest_prompts(self, metric: MetricName) -> int:
        """Find the fewest prompts to which a limit of a metric applies."""
        return min(rule.limit.from_prompts for rule in self.rules if rule.limit.metric == metric)

    def limit(
        self,
        metric: MetricName,
        *,
        bits: str | None,
        layer: int | None = None,
        n_layers: int | None = None,
        model: str | None = None,
        prompts: str | None = None,
    ) -> Limit | None:
        """Find the most specific limit for a case, or None.

        Args:
            metric: name of the metric.
            bits: the candidate's exact bit-width.
            layer: number of a block.
            n_layers: number of blocks of the model.
            model: the reference as the user named it.
            prompts: name of the prompt set.

        Raises:
            MetricError: there is no such metric.
            ValueError: `layer` is given without `n_layers`.
        """
        if layer is not None and n_layers is None:
            raise ValueError("expected n_layers with layer: without it the last block is not known")
        find_metric(metric)
        case = Case(bits, layer, n_layers, model, prompts)
        matching = [rule for rule in self.rules if rule.limit.metric == metric and rule.matches(case)]
        return max(matching, key=lambda rule: rule.rank).limit if matching else None

    def with_limits(self, pairs: Iterable[tuple[MetricName, float]], source: str = "--quantcheck-fail") -> "Profile":
        """Copy the profile with new limits, each for all its metric's cases."""
        profile = self
        for name, value in pairs:
            others = tuple(rule for rule in profile.rules if rule.limit.metric != name)
            profile = msgspec.structs.replace(profile, rules=(*others, _given_rule(name, value, source)))
        return profile

    def allowing(self, metrics: Iterable[MetricName]) -> "Profile":
        """Copy the profile with metrics that may pass unmeasured."""
        return msgspec.structs.replace(self, allow_unmeasured=tuple(metrics))


def block_name(layer: int, n_layers: int) -> LayerName | None:
    """Name a block: first, last, or middle, block (L-1)//2 of L.

    >>> [block_name(layer, 5) for layer in range(5)]
    ['first', None, 'middle', None, 'last']
    """
    if layer == 0:
        return "first"
    if layer == n_layers - 1:
        return "last"
    return "middle" if layer == (n_layers - 1) // 2 else None


def _layers_may_meet(first: int | LayerName | None, second: int | LayerName | None) -> bool:
    if first is None or second is None or first == second:
        return True
    if type(first) is type(second):
        return False
    name, number = (first, second) if isinstance(first, str) else (second, first)
    return (name == "first") == (number == 0)


def _given_rule(name: str, value: float, source: str) -> Rule:
    try:
        metric = find_metric(name)
        limit = check_limit(metric, value)
    except ValueError as problem:
        raise ProfileError(f"{source}: {problem}") from None
    evidence = f"given by {source}"
    return Rule(
        limit=Limit(metric=metric.name, value=limit, direction=metric.direction, evidence=evidence, source=source)
    )
