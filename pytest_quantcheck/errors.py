"""Errors that users can correct, by the place of the cause."""


class QuantcheckError(Exception):
    """Something the user must know; the message says what was expected, what came and what to do."""


class SettingsError(QuantcheckError):
    """An option, or a combination of options, that cannot be used."""


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


class ComparisonError(QuantcheckError):
    """Two measurements that must not be compared."""


class StorageError(QuantcheckError):
    """A stored record that cannot be written, read or trusted."""


class CheckpointError(StorageError):
    """The state of an unfinished measurement that cannot be read or trusted."""
