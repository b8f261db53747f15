"""Text to letters in place of phonemes, for languages that no lexicon is at hand for."""

from __future__ import annotations

import unicodedata

from anytalk_heart.pronounce import EDGE, SPACE

__all__ = ["LetterPronouncer", "unit_of"]

_KNOWN = "abcdefghijklmnopqrstuvwxyz0123456789'.,!?;:-"
_FIRST = 20
_FIRST_OTHER, _NUM_OTHERS = _FIRST + len(_KNOWN), 110
_SENTENCE_ENDS = (".", "!", "?", "…", "。", "？", "！")


def unit_of(letter: str) -> int:
    """Return the unit of a letter without its accents; letters outside English share 110 units."""
    place = _KNOWN.find(letter)
    return _FIRST + place if place >= 0 else _FIRST_OTHER + ord(letter) % _NUM_OTHERS


class LetterPronouncer:
    """Reads each word as its letters, in lower case and without accents, as soon as it is over.

    Numbers are digits: write them out before the speech decoder, or train it on them.
    """

    def __init__(self) -> None:
        self._is_inside = False  # a sentence

    def fresh(self) -> LetterPronouncer:
        """Return a pronouncer at the beginning of a text."""
        return LetterPronouncer()

    def units(self, text_piece: str, is_word_end: bool) -> list[int]:
        """Take the next words -> their units, an edge around each sentence.

        Args:
            text_piece: Whole words, with their spaces.
            is_word_end: Whether another word follows; letters don't depend on it.
        """
        found: list[int] = []
        for word in text_piece.split():
            plain = unicodedata.normalize("NFKD", word.casefold())
            found.append(SPACE if self._is_inside else EDGE)
            found += [unit_of(letter) for letter in plain if not unicodedata.combining(letter)]
            self._is_inside = not word.endswith(_SENTENCE_ENDS)
            if not self._is_inside:
                found.append(EDGE)
        return found

    def flush(self) -> list[int]:
        """Return what ends the text; the next one starts anew."""
        found, self._is_inside = [EDGE] * self._is_inside, False
        return found
