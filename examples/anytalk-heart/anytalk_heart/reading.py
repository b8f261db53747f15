"""Text tokens to phonemes, one token at a time, whatever the tokenizer."""

from __future__ import annotations

import copy
import re
from typing import Protocol

from anytalk.plugins.contracts import END_OF_TEXT, TextTokenizer

__all__ = ["Pronouncer", "TextReader"]

_WORD = re.compile(r"\s*\S+(?=\s)")
"""A word that the text has left."""
_UNFINISHED = "\ufffd"
"""Ends a text whose last character lacks bytes."""


class Pronouncer(Protocol):
    """Text to units, word by word; a shallow copy goes on by itself."""

    def fresh(self) -> Pronouncer:
        """Return a pronouncer at the beginning of a text."""

    def units(self, text_piece: str, is_word_end: bool) -> list[int]:
        """Take the next piece of text -> the units that are final now; `is_word_end`: another word follows."""

    def flush(self) -> list[int]:
        """Return the units of what was held back; the next text starts anew."""


class TextReader:
    """Reads the tokens of one text.

    Args:
        tokenizer: Of the backbone.
        pronouncer: At the beginning of a text; it is used up.
    """

    def __init__(self, tokenizer: TextTokenizer, pronouncer: Pronouncer) -> None:
        self._tokenizer, self._pronouncer = tokenizer, pronouncer
        # Some tokenizers drop the space of a first token.
        self._anchor = tokenizer.encode("a")[-1:]
        self._prefix = len(tokenizer.decode(self._anchor))
        self._ids: list[int] = []  # tokens that end inside a character
        self._text = ""  # of words that are not over

    def read(self, token: int) -> list[int]:
        """Return the units that are final once a token has come: a text id, ``NO_TEXT`` or ``END_OF_TEXT``."""
        if token == END_OF_TEXT:
            found = self._pronouncer.units(self._text.rstrip(), False) + self._pronouncer.flush()
            self._ids, self._text = [], ""
            return found
        if token < 0:
            return []
        self._ids.append(token)
        piece = self._tokenizer.decode([*self._anchor, *self._ids])[self._prefix :]
        if piece.endswith(_UNFINISHED) and len(self._ids) < 4:  # no character has more bytes
            return []
        self._ids = []
        self._text += piece.replace(_UNFINISHED, "")
        found = []
        while word := _WORD.match(self._text):
            self._text = self._text[word.end() :]
            found += self._pronouncer.units(word.group(), True)
        return found

    def copy(self) -> TextReader:
        """Return a reader that goes on from here by itself."""
        copied = copy.copy(self)
        copied._ids, copied._pronouncer = list(self._ids), copy.copy(self._pronouncer)
        return copied
