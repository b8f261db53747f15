"""Implements the hearing ``words``: it turns letter probabilities into words.

It weighs the letters against how common each word is, or how likely it is after the words before it, and how likely the
backbone finds the text. It works with input adapters that return letter probabilities, such as ``letters``.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, Self, runtime_checkable

import torch
from pydantic import Field
from torch import Tensor

from anytalk import plugins
from anytalk.errors import ConfigError
from anytalk.plugins.components import BuildContext
from anytalk.plugins.contracts import Backbone, HeardBatch, InputAdapter
from anytalk.plugins.optional import require

from .ctc_search import Line
from .letters_adapter import LETTERS
from .likely_words import Reader
from .reading_hearing import ReadingHearing
from .word_sequences import follows
from .words_search import TextChance, common_words, likeliest_texts


@runtime_checkable
class HearsLetters(Protocol):
    """Returns the probability of each letter at each position of the sound; some input adapters do."""

    def letter_chances(self, features: Tensor, lengths: Tensor) -> Sequence[Tensor]:
        """Return (T,1+28) log probabilities for each clip of (B,F,E) frames with (B,) lengths: blank, then letters."""


class WordsHearing(ReadingHearing):
    """Chooses the words of each clip."""

    class Options(plugins.Options):
        beam: int = Field(32, ge=1, description="Beam width: texts kept from position to position.")
        candidates: int = Field(6, ge=1, le=28, description="Likeliest letters considered at each position.")
        common: float = Field(
            0.3, ge=0, description="Weight of how common, or with `sequences` how likely, each word is; 0 ignores it."
        )
        sequences: str = Field(
            "",
            description="N-gram model of words that says how likely each word is after those before it: a file that "
            "pocketsphinx reads, such as its own package:pocketsphinx/model/en-us/en-us.lm.bin. Empty: a word is as "
            "likely as it is common.",
        )
        per_word: float = Field(0.0, description="Added to the score for each word; above 0 prefers more words.")
        weight: float = Field(
            0.0, ge=0, description="Weight of the backbone's log probability of a text; 0 skips the backbone."
        )
        lines: int = Field(8, ge=1, description="How many of the likeliest texts the backbone reads.")
        margin: float = Field(
            4.0, gt=0, description="The backbone doesn't read texts whose score is further than this below the best."
        )
        context: str = Field("", description="Text before a hypothesis for the backbone; empty: none.")

    def __init__(self, options: WordsHearing.Options, adapter: InputAdapter, backbone: Backbone) -> None:
        super().__init__(options, adapter, backbone)
        if not isinstance(adapter, HearsLetters):
            raise ConfigError(
                f"the hearing 'words' needs an input adapter that hears letters; {type(adapter).__name__} doesn't",
                "attach with the input adapter 'letters', or leave `hearing:` out",
            )
        self._listener: tuple[HearsLetters] = (adapter,)
        self._folder: Path | None = None
        self._word_chance: TextChance | None = None

    @classmethod
    def build(cls, options: Any, context: BuildContext) -> Self:
        """Build with the context's adapter, backbone and folder; the folder is where paths of n-gram models start.

        Raises:
            ConfigError: an input adapter without letter probabilities, or `sequences` without pocketsphinx.
        """
        hearing = super().build(options, context)
        hearing._folder = context.folder
        if options.sequences:
            require("the hearing 'words' with `sequences`", "words", "pocketsphinx")
        return hearing

    @torch.no_grad()
    def forward(self, features: Tensor, lengths: Tensor) -> HeardBatch:
        """Return the most probable words of each clip of (B,F,E) features with (B,) lengths, one column per token."""
        lines = [self._line(chances) for chances in self._listener[0].letter_chances(features, lengths)]
        return self._columns(lines, features, lengths)

    def _line(self, chances: Tensor) -> Line:
        """Return the tokens of the most probable words of one clip (T,1+28), at least one token."""
        options, backbone = self.options, self._backbone[0]
        tokenizer = backbone.tokenizer
        chance = self._word_chance = self._word_chance or self._how_likely()
        texts = likeliest_texts(
            chances, LETTERS, options.beam, options.candidates, chance, options.common, options.per_word
        )
        lines = {tuple(tokenizer.encode(text)): score for text, score in texts.items() if text}
        if not lines:  # a prompt needs at least one column: the likeliest letter, without the space
            return tuple(tokenizer.encode(LETTERS[int(chances[:, 1:-1].amax(dim=0).argmax())]))
        self._reader = self._reader or Reader(
            backbone, options.context, options.weight, num_lines=options.lines, margin=options.margin
        )
        return self._reader.choose(lines)

    def _how_likely(self) -> TextChance:
        """Return the function that says how likely a text's last word is."""
        backbone = self._backbone[0]
        common = common_words(backbone.tokenizer, backbone.text_vocab_size)
        return follows(self.options.sequences, self._folder, common) if self.options.sequences else common
