"""Options: command line before ini file before default, read into one frozen `Settings`.

This package is imported whenever pytest starts: beside pytest it needs nothing but the standard library.
"""

from pytest_quantcheck.options.attribution import Attribution
from pytest_quantcheck.options.settings import Settings, settings_from
from pytest_quantcheck.options.table import OPTIONS, Option, register
from pytest_quantcheck.options.values import BIT_WIDTHS

__all__ = ["BIT_WIDTHS", "OPTIONS", "Attribution", "Option", "Settings", "register", "settings_from"]
