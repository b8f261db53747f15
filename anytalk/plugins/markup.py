"""Text at the door of a tokenizer: whole characters, and chat markup that people write taken apart. No torch."""

from __future__ import annotations

import re
from collections.abc import Iterable


def whole_characters(text: str) -> str:
    """Join surrogate pairs, which JSON can spell, to the characters they are; half of a pair becomes U+FFFD."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


class MarkupCutter:
    """Cuts text inside each spelling of a special token, so that no piece holds one.

    Pieces that are encoded one by one spell the same text with ordinary tokens.

    Args:
        spellings: Of the special tokens; those of one character can't be cut, and stay.
    """

    def __init__(self, spellings: Iterable[str]) -> None:
        places = [f"(?<={re.escape(s[0])})(?={re.escape(s[1:])})" for s in sorted(set(spellings)) if len(s) > 1]
        self._places = re.compile("|".join(places)) if places else None

    def pieces(self, text: str) -> list[str]:
        """`text` in pieces; one where it holds no markup."""
        return [text] if self._places is None else self._places.split(text)
