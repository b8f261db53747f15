"""Separates thoughts from words by their markup, for models whose tokens are unknown. Imports no torch."""

from __future__ import annotations

FIRST, LAST = "<think>", "</think>"
MARKS = ((FIRST, LAST), ("[THINK]", "[/THINK]"), ("<seed:think>", "</seed:think>"), ("<thought>", "</thought>"))
"""The tokens that models write before and after their thoughts."""


class ThoughtReader:
    """Reads text piece by piece, and separates the thoughts at its beginning from the words after them.

    Args:
        marks: Before and after the thoughts.
        is_open: Whether the mark before them was written already.
    """

    def __init__(self, marks: tuple[str, str] = (FIRST, LAST), is_open: bool = False) -> None:
        self._first, self._last = marks
        self._held, self._is_thinking, self._has_begun = "", is_open, False

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
            if self._first.startswith(start[: len(self._first)]) and len(start) < len(self._first) and not is_last:
                return "", ""
            # The text has no thoughts, so all that was held back is words.
            if not start.startswith(self._first):
                self._has_begun, held, self._held = True, self._held, ""
                return held, ""
            self._is_thinking, self._held = True, start.removeprefix(self._first)
        thoughts, found, words = self._held.partition(self._last)
        # The words begin with the first one that isn't white space.
        if found and (words.strip() or is_last):
            self._has_begun, self._held = True, ""
            return words.lstrip(), thoughts
        if found:
            self._held = self._last + words
            return "", thoughts
        # What may be the beginning of the closing mark is held back.
        lengths = range(0 if is_last else len(self._last) - 1, -1, -1)
        kept = next(n for n in lengths if thoughts.endswith(self._last[:n]))
        self._held = thoughts[len(thoughts) - kept :]
        return "", thoughts[: len(thoughts) - kept]
