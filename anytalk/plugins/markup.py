"""Prepares text for a tokenizer: makes characters whole, and splits chat markup that people typed. Imports no torch."""

from __future__ import annotations

import re
from collections.abc import Iterable


def whole_characters(text: str) -> str:
    """Join surrogate pairs, which JSON can contain, into characters; half of a pair becomes U+FFFD."""
    try:
        text.encode()
    except UnicodeEncodeError:
        # UTF-16 joins pairs by itself; only halves are left to be replaced.
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


class MarkupCutter:
    """Splits text inside each spelling of a special token, so that no piece contains one.

    When the pieces are encoded one by one, ordinary tokens spell the same text.

    Args:
        spellings: The spellings of the special tokens; single characters can't be split and stay whole.
    """

    def __init__(self, spellings: Iterable[str]) -> None:
        # Lookarounds match the place after the first character without consuming any text.
        places = [f"(?<={re.escape(s[0])})(?={re.escape(s[1:])})" for s in sorted(set(spellings)) if len(s) > 1]
        self._places = re.compile("|".join(places)) if places else None

    def pieces(self, text: str) -> list[str]:
        """Split `text`; without markup it stays one piece."""
        return [text] if self._places is None else self._places.split(text)
