"""Every error a user can cause, as a sentence.

An :class:`AnytalkError` says what was given and what was expected (`message`) and what to do next
(`hint`). The command line prints the two and exits with status 1; anything else that reaches it is a
bug of ours and keeps its traceback.
"""


class AnytalkError(Exception):
    """Base of all errors that the user can fix.

    Args:
        message: What was given and what was expected, one sentence.
        hint: What to type or change next; may be empty.
    """

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n{self.hint}" if self.hint else self.message


class ConfigError(AnytalkError):
    """A configuration, an option or a combination of parts that can't be used."""


class PluginError(AnytalkError):
    """A plugin that is broken, misspelt, or clashes with another."""


class UnknownNameError(AnytalkError):
    """A part, task or file was asked for by a name that nothing offers."""


class WeightsError(AnytalkError):
    """Model weights that are missing, truncated or of an unknown kind."""


class AudioError(AnytalkError):
    """Sound that can't be read, is empty, or can't be written."""


class TalkerError(AnytalkError):
    """A talker folder that is missing, incomplete or damaged."""


class ServedError(AnytalkError):
    """A language model that is served elsewhere, and can't be reached, refuses, or stops in the middle."""


class DataError(AnytalkError):
    """A training row or manifest that can't be used."""


def did_you_mean(name: str, known: list[str]) -> str:
    """Return ``"; did you mean 'x'?"`` for the nearest known name, or an empty string."""
    from difflib import get_close_matches

    close = get_close_matches(name, known, n=1, cutoff=0.5)
    return f"; did you mean '{close[0]}'?" if close else ""
