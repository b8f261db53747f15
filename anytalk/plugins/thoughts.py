"""Thoughts in the text of a model whose tokens nobody here knows: told from its words by their markup. No torch."""

from __future__ import annotations

FIRST, LAST = "<think>", "</think>"
MARKS = ((FIRST, LAST), ("[THINK]", "[/THINK]"), ("<seed:think>", "</seed:think>"), ("<thought>", "</thought>"))
"""What models write before and after their thoughts, as tokens."""


class ThoughtReader:
    """Takes a text piece by piece, and tells thoughts at its beginning from the words after them."""

    def __init__(self) -> None:
        self._held, self._is_thinking, self._has_begun = "", False, False

    def push(self, text: str, is_last: bool = False) -> tuple[str, str]:
        """Take a piece; return the words and the thoughts that are certain now.

        Args:
            text: More of it; white space in front of the thoughts and of the words after them is left out.
            is_last: Nothing follows, so that nothing is held back.
        """
        if self._has_begun:
            return text, ""
        self._held += text
        if not self._is_thinking:
            start = self._held.lstrip()
            if FIRST.startswith(start[: len(FIRST)]) and len(start) < len(FIRST) and not is_last:
                return "", ""
            if not start.startswith(FIRST):
                self._has_begun, held, self._held = True, self._held, ""
                return held, ""
            self._is_thinking, self._held = True, start.removeprefix(FIRST)
        thoughts, found, words = self._held.partition(LAST)
        if found and (words.strip() or is_last):
            self._has_begun, self._held = True, ""
            return words.lstrip(), thoughts
        if found:
            self._held = LAST + words
            return "", thoughts
        kept = 0 if is_last else next(n for n in range(len(LAST) - 1, -1, -1) if thoughts.endswith(LAST[:n]))
        self._held = thoughts[len(thoughts) - kept :]
        return "", thoughts[: len(thoughts) - kept]
