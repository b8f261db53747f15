"""What clients say of sound before it is heard: which language is spoken, and what text comes before it."""

from __future__ import annotations

from anytalk.errors import AnytalkError
from anytalk.model.talker import Talker
from anytalk.plugins.contracts import Ears, Hints, TakesHints
from anytalk.serve.errors import RequestError, of_ours

_USUAL = "en"
"""The language that stock clients name without being asked."""


def ears_told(talker: Talker, language: str | None = None, prompt: str | None = None, above: str = "") -> Ears | None:
    """Return the talker's ears, told what is known of a sound; None where there is nothing to tell.

    Args:
        talker: Whose ears.
        language: A code such as ``de``, or a name.
        prompt: Text in front of the sound, or words as they are to be spelt.
        above: What stands before the fields' names in errors.

    Raises:
        RequestError: a language that the ears don't know, or ears that can't be told.
    """
    hints = Hints((language or "").strip() or None, (prompt or "").strip())
    ears: object = talker.model.ears
    if hints == Hints():
        return None
    if isinstance(ears, TakesHints):
        try:
            return ears.hinted(hints)
        except AnytalkError as error:
            raise RequestError(of_ours(error).message, "unsupported_value", f"{above}language") from None
    if hints.prompt:
        said = "these ears don't read a text before they hear; leave `prompt` out"
        raise RequestError(said, "unsupported_value", f"{above}prompt")
    if hints.language is not None and hints.language.lower().partition("-")[0] != _USUAL:
        said = f"these ears can't be told a language, '{hints.language[:20]}' was given; leave `language` out"
        raise RequestError(said, "unsupported_value", f"{above}language")
    return None
