"""The ``beam`` hearing: searches for the likeliest lines of tokens, and asks the backbone which one people would say.

It works on any input adapter that tells how likely each token is in each place
(:class:`anytalk.plugins.contracts.HearsTokens`), such as ``ctc``. The columns are the text embeddings of one line: for
the backbone, what was heard is what would have been typed.
"""

from __future__ import annotations

from typing import Self

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from anytalk import plugins
from anytalk.errors import ConfigError
from anytalk.plugins.components import BuildContext
from anytalk.plugins.contracts import Backbone, HeardBatch, Hearing, HearsTokens, InputAdapter

from .ctc_search import Line, found_lines
from .input_adapters import padded_columns
from .likely_words import Reader


class BeamHearing(Hearing):
    """Chooses one line of tokens for each clip."""

    licence = "MIT"

    class Options(plugins.Options):
        beam: int = Field(16, ge=1, description="Beam width.")
        candidates: int = Field(16, ge=1, description="Likeliest tokens of each frame that are considered.")
        hearings: int = Field(
            1,
            ge=1,
            description="Passes over a clip, each shifted by one frame; log probabilities are averaged.",
        )
        weight: float = Field(
            0.0, ge=0, description="Weight of the backbone's log probability of a hypothesis; 0: none."
        )
        context: str = Field(
            "",
            description="Text before a hypothesis for the backbone, such as the beginning of a user's turn in its chat "
            "markup; empty: none.",
        )

    def __init__(self, options: BeamHearing.Options, adapter: InputAdapter, backbone: Backbone) -> None:
        super().__init__()
        if not isinstance(adapter, HearsTokens):
            raise ConfigError(
                f"the hearing 'beam' needs an input adapter that hears tokens; {type(adapter).__name__} doesn't",
                "attach with the input adapter 'ctc', or leave `hearing:` out",
            )
        self.options = options
        # Tuples, so that neither is part of this module.
        self._adapter: tuple[InputAdapter] = (adapter,)
        self._listener: tuple[HearsTokens] = (adapter,)
        self._backbone = (backbone,)
        self._reader: Reader | None = None

    @classmethod
    def build(cls, options: BeamHearing.Options, context: BuildContext) -> Self:
        """Take adapter and backbone from the context (ConfigError: an input adapter that hears no tokens)."""
        return cls(options, context.need_input_adapter(), context.need_backbone())

    def train(self, mode: bool = True) -> Self:
        """Forget what the backbone has read: it may have been trained."""
        self._reader = None
        super().train(mode)
        return self

    @torch.no_grad()
    def forward(self, features: Tensor, lengths: Tensor) -> HeardBatch:
        """(B,F,E), (B,) -> one column for each token of the line that was most probably said."""
        adapter, backbone = self._adapter[0], self._backbone[0]
        clips = zip(features, lengths.tolist(), strict=True)
        lines = [self._line(clip[:length])[: adapter.output_length(length)] for clip, length in clips]
        ids = [torch.tensor([line], device=features.device) for line in lines]
        rows = [backbone.embed_text(row)[0].to(features.dtype) for row in ids]
        columns, counts = padded_columns(rows, adapter.output_length(features.shape[1]), lengths)
        return HeardBatch(columns, counts, lines)

    def _line(self, features: Tensor) -> Line:
        """(F,E) of one clip -> the line that was most probably said."""
        options, hearings = self.options, self.options.hearings
        later = [F.pad(features, (0, 0, shift, hearings - 1 - shift)) for shift in range(hearings)]
        lengths = torch.arange(hearings, device=features.device) + len(features)
        chances = self._listener[0].token_chances(torch.stack(later), lengths)
        self._reader = self._reader or Reader(self._backbone[0], options.context, options.weight)
        return self._reader.choose(found_lines(chances, options.candidates, options.beam))
