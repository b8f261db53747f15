"""Implements the hearing ``beam``: it searches for likely token sequences and lets the backbone choose among them.

It can weigh the tokens against how common their words are, or how likely after the words before them.

It works with every input adapter that returns token probabilities (:class:`anytalk.plugins.contracts.HearsTokens`),
such as ``ctc``. The chosen sequence becomes its own text embeddings, so the backbone sees what a typed prompt would
give it.
"""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from anytalk.errors import ConfigError
from anytalk.plugins.contracts import Backbone, HeardBatch, HearsTokens, InputAdapter

from .ctc_search import Line, found_lines
from .line_words import LineWords
from .reading_hearing import ReadingHearing, ReadingOptions
from .spelling import Spelling


class BeamHearing(ReadingHearing):
    """Chooses one token sequence for each clip."""

    class Options(ReadingOptions):
        beam: int = Field(16, ge=1, description="Beam width.")
        candidates: int = Field(16, ge=1, description="Likeliest tokens of each frame that are considered.")
        hearings: int = Field(
            1,
            ge=1,
            description="Passes over a clip, each shifted by one frame; log probabilities are averaged.",
        )

    def __init__(self, options: BeamHearing.Options, adapter: InputAdapter, backbone: Backbone) -> None:
        super().__init__(options, adapter, backbone)
        if not isinstance(adapter, HearsTokens):
            raise ConfigError(
                f"the hearing 'beam' needs an input adapter that hears tokens; {type(adapter).__name__} doesn't",
                "attach with the input adapter 'ctc', or leave `hearing:` out",
            )
        self._listener: tuple[HearsTokens] = (adapter,)
        self._spelling: Spelling | None = None

    @torch.no_grad()
    def forward(self, features: Tensor, lengths: Tensor) -> HeardBatch:
        """Return the most probable tokens of each clip of (B,F,E) features with (B,) lengths, as one column each."""
        clips = zip(features, lengths.tolist(), strict=True)
        return self._columns([self._line(clip[:length]) for clip, length in clips], features, lengths)

    def _line(self, features: Tensor) -> Line:
        """Return the most probable token sequence of one clip (F,E)."""
        options, hearings = self.options, self.options.hearings
        # The adapter joins frames in groups; each shift groups them differently. Padding at both ends keeps one length.
        later = [F.pad(features, (0, 0, shift, hearings - 1 - shift)) for shift in range(hearings)]
        lengths = torch.arange(hearings, device=features.device) + len(features)
        chances = self._listener[0].token_chances(torch.stack(later), lengths)
        words = None
        if options.common or options.per_word:
            self._spelling = self._spelling or Spelling(self._backbone[0].tokenizer)
            words = LineWords(self._spelling, self._how_likely(), options.common, options.per_word)
        return self._choose(found_lines(chances, options.candidates, options.beam, words))
