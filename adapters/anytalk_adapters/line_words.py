"""Scores the words that tokens spell, while a search makes lines longer token by token."""

from __future__ import annotations

import re

from .ctc_search import Line
from .spelling import Spelling
from .words_search import TextChance

_NOT_IN_WORDS = re.compile(r"[^a-z' ]")


class LineWords:
    """Sums up how likely the words of a line are: an :data:`anytalk_adapters.ctc_search.LineScore`, for one clip.

    A word ends where the next token begins with a space. Case and punctuation are ignored.

    Args:
        spelling: Spells tokens.
        chance: How likely a text's last word is.
        weight: Weight of the word's log probability.
        per_word: Added for each word.
    """

    def __init__(self, spelling: Spelling, chance: TextChance, weight: float, per_word: float) -> None:
        self._spelling = spelling
        self._chance = chance
        self._weight = weight
        self._per_word = per_word
        # For each line: its text, and the sum over all words but the last.
        self._known: dict[Line, tuple[str, float]] = {(): ("", 0.0)}

    def __call__(self, line: Line, ended: bool) -> float:
        """Return the sum over the words of a line that have ended; `ended`: the last one has, too."""
        text, score = self._read(line)
        return score + (self._word(text) if ended else 0.0)

    def _read(self, line: Line) -> tuple[str, float]:
        found = self._known.get(line)
        if found is None:
            text, score = self._read(line[:-1])
            piece = _NOT_IN_WORDS.sub("", self._spelling.text_of(line[-1]).lower())
            if piece.startswith(" "):
                score += self._word(text)
            found = self._known[line] = text + piece, score
        return found

    def _word(self, text: str) -> float:
        # After a space there is no word that could end, e.g. after a mark that was left out.
        has_word = bool(text) and not text.endswith(" ")
        return self._weight * self._chance(text) + self._per_word if has_word else 0.0
