"""Implements the hearing ``words``: it turns letter probabilities into words.

It weighs the letters against how common each word is, or how likely it is after the words before it, and how likely the
backbone finds the text. It works with input adapters that return letter probabilities, such as ``letters``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import torch
from pydantic import Field
from torch import Tensor

from anytalk.errors import ConfigError
from anytalk.plugins.contracts import Backbone, HeardBatch, InputAdapter

from .ctc_search import Line
from .letters_adapter import LETTERS
from .reading_hearing import ReadingHearing, ReadingOptions
from .words_search import likeliest_texts


@runtime_checkable
class HearsLetters(Protocol):
    """Returns the probability of each letter at each position of the sound; some input adapters do."""

    def letter_chances(self, features: Tensor, lengths: Tensor) -> Sequence[Tensor]:
        """Return (T,1+28) log probabilities for each clip of (B,F,E) frames with (B,) lengths: blank, then letters."""


class WordsHearing(ReadingHearing):
    """Chooses the words of each clip."""

    class Options(ReadingOptions):
        beam: int = Field(32, ge=1, description="Beam width: texts kept from position to position.")
        candidates: int = Field(6, ge=1, le=28, description="Likeliest letters considered at each position.")
        common: float = Field(
            0.3, ge=0, description="Weight of how common, or with `sequences` how likely, each word is; 0 ignores it."
        )

    def __init__(self, options: WordsHearing.Options, adapter: InputAdapter, backbone: Backbone) -> None:
        super().__init__(options, adapter, backbone)
        if not isinstance(adapter, HearsLetters):
            raise ConfigError(
                f"the hearing 'words' needs an input adapter that hears letters; {type(adapter).__name__} doesn't",
                "attach with the input adapter 'letters', or leave `hearing:` out",
            )
        self._listener: tuple[HearsLetters] = (adapter,)

    @torch.no_grad()
    def forward(self, features: Tensor, lengths: Tensor) -> HeardBatch:
        """Return the most probable words of each clip of (B,F,E) features with (B,) lengths, one column per token."""
        lines = [self._line(chances) for chances in self._listener[0].letter_chances(features, lengths)]
        return self._columns(lines, features, lengths)

    def _line(self, chances: Tensor) -> Line:
        """Return the tokens of the most probable words of one clip (T,1+28), at least one token."""
        options, backbone = self.options, self._backbone[0]
        tokenizer = backbone.tokenizer
        texts = likeliest_texts(
            chances, LETTERS, options.beam, options.candidates, self._how_likely(), options.common, options.per_word
        )
        lines = {tuple(tokenizer.encode(text)): score for text, score in texts.items() if text}
        if not lines:  # a prompt needs at least one column: the likeliest letter, without the space
            return tuple(tokenizer.encode(LETTERS[int(chances[:, 1:-1].amax(dim=0).argmax())]))
        return self._choose(lines)
