"""Errors that users can correct, by the place of the cause."""

_LONGEST = 2000
"""Characters of the longest message."""


class QuantcheckError(Exception):
    """Something the user must know; the message says what was expected, what came and what to do.

    It may quote what a file holds, so it is printed on one line, shortened, and without control characters.
    """

    def __str__(self) -> str:
        text = printable(super().__str__())
        return text if len(text) <= _LONGEST else f"{text[: _LONGEST // 2]} … {text[-_LONGEST // 2 + 3 :]}"


def printable(text: str) -> str:
    r"""Return the text on one line, with control characters written as escapes.

    >>> printable("a\nb\x1b[31m")
    'a b\\x1b[31m'
    """
    return "".join(map(_printable, text))


def _printable(character: str) -> str:
    if character.isprintable():
        return character
    return " " if character.isspace() else character.encode("unicode_escape").decode()


class SettingsError(QuantcheckError):
    """An option, or a combination of options, that cannot be used."""


class MetricError(QuantcheckError, ValueError):
    """A name that is no metric's."""


class PromptError(QuantcheckError):
    """A prompt set that cannot be read or is incomplete."""


class ProfileError(QuantcheckError):
    """A threshold profile that cannot be read or is not valid."""


class ModelError(QuantcheckError):
    """A model that cannot be found, loaded or understood."""


class NotApplicable(QuantcheckError):  # noqa: N818 - not an error of the user's: a control that has nothing to say here
    """A control that makes no sense for this model or these prompts; the message says why."""


class MeasurementError(QuantcheckError):
    """A model that was loaded and gave nothing that can be measured."""


class NonFiniteError(MeasurementError):
    """A model that gave NaN or infinite numbers."""


class TooLittleMemoryError(MeasurementError):
    """A measurement for which there is too little memory."""


class ComparisonError(QuantcheckError):
    """Two measurements that must not be compared."""


class StorageError(QuantcheckError):
    """A stored record that cannot be written, read or trusted."""
