"""Tells the ears what a client says about its sound: the spoken language, and the text before it."""

from __future__ import annotations

from anytalk.errors import AnytalkError
from anytalk.model.talker import Talker
from anytalk.plugins.contracts import Ears, Hints, TakesHints
from anytalk.serve.errors import RequestError, of_ours

_USUAL = "en"
"""The language that stock clients send by default."""


def ears_told(talker: Talker, language: str | None = None, prompt: str | None = None, above: str = "") -> Ears | None:
    """Return the talker's ears with these hints; None if there are none.

    Args:
        talker: The talker whose ears are used.
        language: A code such as ``de``, or a name.
        prompt: Text before the sound, or words spelt as they should be.
        above: Prefix of the fields' names in errors.

    Raises:
        RequestError: the ears don't know the language, or take no hints.
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
