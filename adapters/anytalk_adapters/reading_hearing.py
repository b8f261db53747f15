"""Defines the base class of the hearings ``beam`` and ``words``: words have a likelihood, and the backbone chooses."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from pydantic import Field
from torch import Tensor

from anytalk import plugins
from anytalk.plugins.components import BuildContext
from anytalk.plugins.contracts import Backbone, HeardBatch, Hearing, InputAdapter
from anytalk.plugins.optional import require

from .ctc_search import Line
from .input_adapters import typed
from .likely_words import Reader
from .word_sequences import follows
from .words_search import TextChance, common_words


class ReadingOptions(plugins.Options):
    """Options of how likely words are, and of what the backbone reads."""

    common: float = Field(
        0.0, ge=0, description="Weight of how common, or with `sequences` how likely, each word is; 0 ignores it."
    )
    sequences: str = Field(
        "",
        description="N-gram model of words that says how likely each word is after those before it: a file that "
        "pocketsphinx reads, such as its own package:pocketsphinx/model/en-us/en-us.lm.bin. Empty: a word is as "
        "likely as it is common.",
    )
    per_word: float = Field(0.0, description="Added to the score for each word; above 0 prefers more words.")
    weight: float = Field(0.0, ge=0, description="Weight of the backbone's log probability of a text; 0 skips it.")
    lines: int = Field(Reader.num_lines, ge=1, description="How many of the likeliest texts the backbone reads.")
    margin: float = Field(
        Reader.margin,
        gt=0,
        description="The backbone doesn't read texts whose score is further than this below the best.",
    )
    context: str = Field(
        "",
        description="Text before a hypothesis for the backbone, such as the beginning of a user's turn in its chat "
        "markup; empty: none.",
    )


class ReadingHearing(Hearing):
    """Finds token sequences that may have been heard, and may ask the backbone which one is likely."""

    licence = "MIT"

    def __init__(self, options: Any, adapter: InputAdapter, backbone: Backbone) -> None:
        super().__init__()
        self.options = options
        # Tuples hide both from nn.Module, which would save and train them as parts of the hearing.
        self._adapter, self._backbone = (adapter,), (backbone,)
        self._reader: Reader | None = None
        self._folder: Path | None = None
        self._word_chance: TextChance | None = None

    @classmethod
    def build(cls, options: Any, context: BuildContext) -> Self:
        """Build with the context's adapter, backbone and folder; the folder is where paths of n-gram models start.

        Raises:
            ConfigError: an input adapter that can't be searched, or `sequences` without pocketsphinx.
        """
        hearing = cls(options, context.need_input_adapter(), context.need_backbone())
        hearing._folder = context.folder
        if options.sequences:
            require("a hearing with `sequences`", "words", "pocketsphinx")
        return hearing

    def train(self, mode: bool = True) -> Self:
        """Drop the reader, which keeps a cache of the backbone: its weights may have changed."""
        self._reader = None
        super().train(mode)
        return self

    def _how_likely(self) -> TextChance:
        """Return the function that says how likely a text's last word is."""
        if self._word_chance is None:
            backbone, options = self._backbone[0], self.options
            common = common_words(backbone.tokenizer, backbone.text_vocab_size)
            self._word_chance = follows(options.sequences, self._folder, common) if options.sequences else common
        return self._word_chance

    def _choose(self, lines: Mapping[Line, float]) -> Line:
        """Return the best of some lines, given their scores without the backbone."""
        options = self.options
        self._reader = self._reader or Reader(
            self._backbone[0], options.context, options.weight, num_lines=options.lines, margin=options.margin
        )
        return self._reader.choose(lines)

    def _columns(self, lines: list[Line], features: Tensor, lengths: Tensor) -> HeardBatch:
        """Return the chosen tokens of each clip as columns, in the dtype of (B,F,E) features."""
        return typed(lines, self._backbone[0], self._adapter[0], features, lengths)
