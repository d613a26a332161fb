"""Options: command line before ini file before default, read into one frozen `Settings`.

The table is imported whenever pytest starts, with nothing but the standard library; the rest when an
option is given.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from pytest_quantcheck.options.table import OPTIONS, Option, asked, check_ini_keys, might_be_asked, register

if TYPE_CHECKING:
    from pytest_quantcheck.options.attribution import AttributionMethod
    from pytest_quantcheck.options.settings import Settings, settings_from
    from pytest_quantcheck.options.values import BIT_WIDTHS

__all__ = [
    "BIT_WIDTHS",
    "OPTIONS",
    "AttributionMethod",
    "Option",
    "Settings",
    "asked",
    "check_ini_keys",
    "might_be_asked",
    "register",
    "settings_from",
]

_HOMES = {
    "AttributionMethod": "attribution",
    "BIT_WIDTHS": "values",
    "Settings": "settings",
    "settings_from": "settings",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
