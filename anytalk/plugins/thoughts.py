"""Separates thoughts from words by their markup, for models whose tokens are unknown. Imports no torch."""

from __future__ import annotations

FIRST, LAST = "<think>", "</think>"
MARKS = ((FIRST, LAST), ("[THINK]", "[/THINK]"), ("<seed:think>", "</seed:think>"), ("<thought>", "</thought>"))
"""The tokens that models write before and after their thoughts."""


class ThoughtReader:
    """Reads text piece by piece, and separates the thoughts at its beginning from the words after them."""

    def __init__(self) -> None:
        self._held, self._is_thinking, self._has_begun = "", False, False

    def push(self, text: str, is_last: bool = False) -> tuple[str, str]:
        """Add a piece; return the words and the thoughts that are certain by now.

        Args:
            text: The next piece; white space before the thoughts and before the words after them is dropped.
            is_last: Whether nothing follows, so that nothing is held back.
        """
        if self._has_begun:
            return text, ""
        self._held += text
        if not self._is_thinking:
            start = self._held.lstrip()
            # The opening mark may arrive in several pieces.
            if FIRST.startswith(start[: len(FIRST)]) and len(start) < len(FIRST) and not is_last:
                return "", ""
            # The text has no thoughts, so all that was held back is words.
            if not start.startswith(FIRST):
                self._has_begun, held, self._held = True, self._held, ""
                return held, ""
            self._is_thinking, self._held = True, start.removeprefix(FIRST)
        thoughts, found, words = self._held.partition(LAST)
        # The words begin with the first one that isn't white space.
        if found and (words.strip() or is_last):
            self._has_begun, self._held = True, ""
            return words.lstrip(), thoughts
        if found:
            self._held = LAST + words
            return "", thoughts
        # What may be the beginning of the closing mark is held back.
        kept = 0 if is_last else next(n for n in range(len(LAST) - 1, -1, -1) if thoughts.endswith(LAST[:n]))
        self._held = thoughts[len(thoughts) - kept :]
        return "", thoughts[: len(thoughts) - kept]
