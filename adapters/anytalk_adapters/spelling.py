"""Spells text tokens as bytes, for adapters that must know how a token sounds."""

from __future__ import annotations

from anytalk.plugins.contracts import END_OF_TEXT, TextTokenizer

START, END, PADDING = 256, 257, 258
"""Symbols besides the 256 bytes of UTF-8: before the text, after the text, and in empty slots."""

NUM_LETTERS = 259

MOST_KEPT = 300_000
"""How many spellings are kept: more than any model has tokens."""


class Spelling:
    """Looks up the bytes of each token of a tokenizer, once."""

    def __init__(self, tokenizer: TextTokenizer, max_letters: int = 64) -> None:
        self._tokenizer = tokenizer
        self._max_letters = max_letters
        # Tokens are decoded after another one: some tokenizers drop a space at the beginning of a text.
        self._anchor = tokenizer.encode("a")[-1:]
        self._prefix = len(tokenizer.decode(self._anchor))
        self._spelt: dict[int, list[int]] = {}

    def letters_of(self, token: int) -> list[int]:
        """Return the bytes of a text token, at most `max_letters`; END for the end of the text, [] for other marks."""
        if token == END_OF_TEXT:
            return [END]
        if token < 0:
            return []
        found = self._spelt.get(token)
        if found is None:
            piece = self._tokenizer.decode([*self._anchor, token])[self._prefix :]
            found = list(piece.encode("utf-8"))[: self._max_letters]
            if len(self._spelt) >= MOST_KEPT:  # a served model has no fixed vocabulary, so the table could grow on
                self._spelt.clear()
            self._spelt[token] = found
        return found

    def text_of(self, token: int) -> str:
        """Return the text that these bytes spell, "" for marks; bytes of half a character are left out."""
        return bytes(letter for letter in self.letters_of(token) if letter < START).decode("utf-8", "ignore")
