"""What the layers of a checkpoint's files are called in the model: experts are one parameter for all of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from typing import Any


def renaming(model: Any) -> Callable[[str], str]:
    """Return how transformers names a layer of the files in a model.

    `….experts.3.w1` is a part of the parameter `….experts.gate_up_proj`; `….q_proj` is a module in most models.
    """
    from transformers.conversion_mapping import get_model_conversion_mapping  # noqa: PLC0415 - heavy
    from transformers.core_model_loading import (  # noqa: PLC0415 - heavy
        WeightConverter,
        WeightRenaming,
        rename_source_key,
    )

    transforms = get_model_conversion_mapping(model)
    renamings = [one for one in transforms if isinstance(one, WeightRenaming)]
    converters = [one for one in transforms if isinstance(one, WeightConverter)]
    parameters = model.state_dict(keep_vars=True)

    @cache
    def rename(layer: str) -> str:
        weight = f"{layer}.weight"
        name, _ = rename_source_key(weight, renamings, converters, model.base_model_prefix or None, parameters)
        return (weight if weight in parameters and name not in parameters else name).removesuffix(".weight")

    return rename


def layers_around(tensor: str) -> Iterator[str]:
    """Yield the layers around a tensor of the files: `a`, then `a.b` of `a.b.scale`."""
    parts = tensor.split(".")
    yield from (".".join(parts[:n]) for n in range(1, len(parts)))
