"""The routed experts of a block: which tokens reach each, and what its neurons say."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import torch
from torch import nn

from pytest_quantcheck.errors import ModelError

See = Callable[[int, torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor | None]
"""Called with an expert's number, the tokens (n,) int64 that reach it, as positions in the flattened batch, the place
(n,) int64 of the expert among each token's choices, and its neurons (n, d); neurons that it returns replace them."""

_SHARED = re.compile(r"(.*\.)?shared_(experts?|mlp)\.(act|act_fn|activation_fn|activation)")


class Router(NamedTuple):
    """What decides which experts a token goes to: `weight` is (experts, width)."""

    name: str
    weight: nn.Parameter


class Mixture:
    """The routed experts of one block, in transformers' batched layout.

    Args:
        name: the module's path inside its block.
        experts: it, called with hidden states (tokens, width) and the experts chosen for each token, (tokens, k).
        per_token: k, where the block says.
    """

    def __init__(self, name: str, experts: Any, per_token: int | None) -> None:
        self.name, self.per_token, self.experts = name, per_token, experts

    @property
    def n_experts(self) -> int:
        """Number of routed experts."""
        return int(self.experts.num_experts)

    @property
    def idle_parameters(self) -> int:
        """Number of weights that a token is not routed to.

        It is 0 where the block does not say.
        """
        whole = sum(parameter.numel() for parameter in self.experts.parameters())
        return int(whole - whole * (self.per_token or self.n_experts) // self.n_experts)

    @property
    def function(self) -> nn.Module | None:
        """The activation function, where it is a module."""
        found = getattr(self.experts, "act_fn", None)
        return found if isinstance(found, nn.Module) else None

    @contextmanager
    def watch(self, see: See, route: Callable[[torch.Tensor], None] | None = None) -> Iterator[None]:
        """Call `see` for each expert that a token reaches.

        Args:
            see: see `See`.
            route: called first with the experts chosen for each token, (tokens, k) int64.
        """
        waiting: list[tuple[int, torch.Tensor, torch.Tensor]] = []

        def before(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            chosen = _chosen(args, kwargs)
            waiting[:] = _by_expert(chosen)
            if route is not None:
                route(chosen)

        def neurons(values: torch.Tensor) -> torch.Tensor | None:
            expert, tokens, place = waiting.pop(0) if waiting else (-1, values.new_empty(0), values.new_empty(0))
            if values.shape[:-1] != tokens.shape:
                raise ModelError(
                    f"{type(self.experts).__name__}: expected its experts to run one by one, each on its own tokens, "
                    f"and got neurons of shape {tuple(values.shape)}: this kind of mixture cannot be measured"
                )
            return see(expert, tokens, place, values)

        with ExitStack() as hooks:
            hooks.callback(self.experts.register_forward_pre_hook(before, with_kwargs=True).remove)
            if self.function is not None:
                handle = self.function.register_forward_hook(lambda _module, _args, values: neurons(values))
                hooks.callback(handle.remove)
            else:
                hooks.enter_context(_split_gate(self.experts, neurons))
            yield


class EveryTokenMixture(Mixture):
    """The routed experts of one block of Llama 4: each gets all tokens, and zeros for those that are not its own.

    Args:
        router: called with hidden states (tokens, width); its second result is the scores (tokens, experts).
    """

    def __init__(self, name: str, experts: Any, router: Any) -> None:
        super().__init__(name, experts, router.top_k)
        self._router = router

    @contextmanager
    def watch(self, see: See, route: Callable[[torch.Tensor], None] | None = None) -> Iterator[None]:
        """Call `see` as `Mixture.watch` does."""
        chosen: list[torch.Tensor] = []

        def routed(_module: nn.Module, _args: object, output: tuple[torch.Tensor, torch.Tensor]) -> None:
            chosen[:] = [output[1].topk(self._router.top_k, dim=1).indices]
            if route is not None:
                route(chosen[0])

        def neurons(_module: nn.Module, _args: object, values: torch.Tensor) -> torch.Tensor | None:
            replaced = None
            for expert, tokens, place in _by_expert(chosen[0]):
                own = see(expert, tokens, place, values[expert, tokens])
                if own is not None:
                    replaced = values if replaced is None else replaced
                    index = torch.full_like(tokens, expert), tokens
                    replaced = replaced.index_put(index, own)
            return replaced

        assert self.function is not None
        with ExitStack() as hooks:
            hooks.callback(self._router.register_forward_hook(routed).remove)
            hooks.callback(self.function.register_forward_hook(neurons).remove)
            yield


def find_mixture(block: nn.Module) -> Mixture | None:
    """Find the routed experts of a block; None where it has none."""
    for name, module in block.named_modules():
        if type(module).__name__ == "Llama4TextExperts":
            return EveryTokenMixture(name, module, block.get_submodule(f"{name.rpartition('.')[0]}.router".lstrip(".")))
        if hasattr(module, "is_concatenated") and hasattr(module, "num_experts"):  # what transformers' decorator sets
            told = (getattr(one, "top_k", None) for one in block.modules())
            return Mixture(name, module, next((k for k in told if isinstance(k, int)), None))
    return None


def find_shared(block: nn.Module) -> nn.Module | None:
    """Find the activation function of the experts that every token passes."""
    return next((module for name, module in block.named_modules() if _SHARED.fullmatch(name)), None)


def find_router(block: nn.Module, mixture: Mixture) -> Router | None:
    """Find the module whose rows stand for the experts."""
    for name, module in block.named_modules():
        weight = getattr(module, "weight", None)
        if isinstance(weight, nn.Parameter) and weight.ndim == 2 and len(weight) == mixture.n_experts:
            return Router(name, weight)
    return None


def run_experts_one_by_one(model: Any) -> None:
    """Run experts one after another, as their own class does: other kernels do not show their neurons."""
    if any(find_mixture(module) for module in model.children()):
        model.set_experts_implementation("eager")


def _chosen(args: tuple[Any, ...], kwargs: dict[str, Any]) -> torch.Tensor:
    found = args[1] if len(args) > 1 else kwargs.get("top_k_index", kwargs.get("router_indices"))
    if not isinstance(found, torch.Tensor):
        raise ModelError("expected the experts of a mixture to be called with those chosen for each token, got others")
    return found


def _by_expert(chosen: torch.Tensor) -> list[tuple[int, torch.Tensor, torch.Tensor]]:
    """List each expert that is reached, ascending.

    With its tokens and their places, in the order in which the experts' class takes them.
    """
    found = []
    for expert in sorted(set(chosen.flatten().tolist())):
        place, token = torch.where((chosen == expert).T)
        found.append((expert, token, place))
    return found


@contextmanager
def _split_gate(experts: Any, neurons: Callable[[torch.Tensor], torch.Tensor | None]) -> Iterator[None]:
    """Show the neurons of experts whose activation function is no module: gpt-oss.

    They are gate * sigmoid(alpha * gate) of the limited gate; the limited up projection plus 1 multiplies them.
    """
    alpha, limit = getattr(experts, "alpha", None), getattr(experts, "limit", None)
    if alpha is None or limit is None:
        raise ModelError(f"{type(experts).__name__}: where its neurons are is not known")

    def gated(gate_up: torch.Tensor) -> torch.Tensor:
        gate, up = gate_up[..., ::2].clamp(max=limit), gate_up[..., 1::2].clamp(min=-limit, max=limit)
        values = gate * torch.sigmoid(gate * alpha)
        replaced = neurons(values)
        return (up + 1) * (values if replaced is None else replaced)

    experts._apply_gate = gated  # noqa: SLF001 - what transformers' expert classes are split by
    try:
        yield
    finally:
        del experts._apply_gate  # noqa: SLF001
