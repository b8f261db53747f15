"""English text to the phonemes that hibari reads, word by word while the text is still being written.

How a word is said hangs on its neighbours ("the" before a vowel, "2024" after a month), so the sentence so far is read
anew at each word's end, and a word leaves when others have come after it. Words with digits wait for the first without.
"""

from __future__ import annotations

import copy
import importlib
import json
import re
from functools import lru_cache
from pathlib import Path
from typing import Any

from anytalk.errors import PluginError

__all__ = ["EnglishPronouncer"]

_LAST = r"(?:\S*\d\S*\s+)*(?:\S+\s*){1,%d}$"
"""The end of a text that later words can still change: its last words, and words with digits before them."""
EDGE = 0
"""The unit around each sentence."""
SPACE = 16
"""The unit between words."""


class EnglishPronouncer:
    """hibari-tts' own reading: misaki's lexicon and rules, numbers and dates as words, a net for unknown words.

    Args:
        held_words: Words that must follow before a word leaves. 1 is enough for "the" and numbers; with 2 the streamed
            reading of verbs and nouns that are spelled alike ("lives") is nearer to that of the whole sentence.

    Raises:
        PluginError: hibari-tts is not installed.
    """

    def __init__(self, held_words: int = 1) -> None:
        self._held = re.compile(_LAST % held_words)
        try:
            hibari: Any = importlib.import_module("hibari")
            g2p: Any = importlib.import_module("hibari.g2p").G2P()
        except ImportError as error:
            raise PluginError(f"English can't be pronounced: {error}", "pip install hibari-tts==0.2.1") from None
        # The text up to a word is read when the word comes and, as what is final then, when the next one does.
        self._g2p = lru_cache(maxsize=64)(g2p)
        self._sentences: Any = hibari.Hibari.split_sentences
        vocabulary = Path(hibari.__file__).parent / "assets" / "vocab.json"
        self._ids: dict[str, int] = json.loads(vocabulary.read_text(encoding="utf-8"))
        self._restart()

    def fresh(self) -> EnglishPronouncer:
        """Return a pronouncer at the beginning of a text, which shares the lexicon with this one."""
        made = copy.copy(self)
        made._restart()
        return made

    def _restart(self) -> None:
        self._text = ""  # of the sentence that is being written
        self._said = 0  # its words of phonemes that have left

    def units(self, text_piece: str, is_word_end: bool) -> list[int]:
        """Take the next piece of text -> the units that are final now.

        Args:
            text_piece: A token's text, with its spaces.
            is_word_end: The next token begins another word.
        """
        self._text += text_piece
        if not is_word_end:
            return []
        found: list[int] = []
        *whole, rest = self._sentences(self._text) or [""]
        for sentence in whole:
            found += self._leave(self._words(sentence), last=True)
        if whole:
            self._text = rest
        final = self._held.sub("", self._text)
        if not final.strip():
            return found
        return found + self._leave(self._words(self._text)[: len(self._words(final))], last=False)

    def flush(self) -> list[int]:
        """The units of what is held back; the next text starts anew."""
        found: list[int] = []
        for sentence in self._sentences(self._text):
            found += self._leave(self._words(sentence), last=True)
        self._restart()
        return found

    def _leave(self, words: list[str], last: bool) -> list[int]:
        """Units of the words after those that have left; `last` ends the sentence."""
        found: list[int] = []
        for place in range(self._said, len(words)):
            found += [EDGE] if place == 0 else [SPACE]
            found += [self._ids[letter] for letter in words[place] if letter in self._ids]
        self._said = max(self._said, len(words))
        if last:
            found += [EDGE] if self._said else []
            self._said = 0
        return found

    def _words(self, text: str) -> list[str]:
        said: str = self._g2p(text.strip())
        return said.split(" ") if said else []
