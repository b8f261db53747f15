"""Defines the errors that a user can cause and fix.

An :class:`AnytalkError` says what was given and what was expected (`message`), and what to do next (`hint`). The
command line prints both and exits with status 1. Any other exception that reaches it is a bug in anytalk and keeps
its traceback.
"""


class AnytalkError(Exception):
    """Tells the user what went wrong and how to fix it; all errors below derive from it.

    Args:
        message: One sentence that says what was given and what was expected.
        hint: What to type or change next; may be empty.
    """

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n{self.hint}" if self.hint else self.message


class ConfigError(AnytalkError):
    """Raised when a configuration, an option or a combination of parts can't be used."""


class PluginError(AnytalkError):
    """Raised when a plugin is broken or misspelt, or clashes with another one."""


class UnknownNameError(AnytalkError):
    """Raised when nothing offers a part, task or file of the given name."""


class WeightsError(AnytalkError):
    """Raised when model weights are missing, truncated or of an unknown kind."""


class AudioError(AnytalkError):
    """Raised when sound can't be read or written, or is empty."""


class TalkerError(AnytalkError):
    """Raised when a talker folder is missing, incomplete or damaged."""


class ServedError(AnytalkError):
    """Raised when a remote language model can't be reached, refuses, or stops in the middle of an answer."""


class DataError(AnytalkError):
    """Raised when a training row or manifest can't be used."""


def did_you_mean(name: str, known: list[str]) -> str:
    """Return ``"; did you mean 'x'?"`` for the nearest known name, or an empty string."""
    # Only needed for an error, so other runs don't import it.
    from difflib import get_close_matches

    close = get_close_matches(name, known, n=1, cutoff=0.5)
    return f"; did you mean '{close[0]}'?" if close else ""
