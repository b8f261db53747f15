"""Implements the input adapter ``letters``: it recognises letters by CTC and types their words into the prompt.

A vocabulary of tokens needs many hours of speech until each token has been heard; for 28 letters, minutes are enough.
The recognised text is encoded into the backbone's own tokens, as with ``ctc``. No loss after the backbone can train
this adapter, because no gradient passes through the choice of a text.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from anytalk.plugins.components import BuildContext
from anytalk.plugins.contracts import Backbone, HeardBatch

from .frame_listener import FrameListener, FrameOptions
from .input_adapters import typed

LETTERS = "abcdefghijklmnopqrstuvwxyz' "
"""What a position can hold, besides a blank."""


def letters_of(text: str) -> list[int]:
    """Return the indices in :data:`LETTERS` of a text in lower case; all other characters become spaces."""
    plain = "".join(letter if letter in LETTERS else " " for letter in text.lower())
    return [LETTERS.index(letter) for letter in " ".join(plain.split())]


class LettersAdapter(FrameListener):
    """Turns frames into the text embeddings of the words that their letters spell."""

    class Options(FrameOptions):
        """Options of the frame encoder; the letters themselves need none."""

    def __init__(
        self, options: LettersAdapter.Options, encoder_width: int, backbone: Backbone, folder: Path | None = None
    ) -> None:
        super().__init__(options, encoder_width, folder)
        self.out = nn.Linear(options.width, 1 + len(LETTERS))
        # A tuple hides the backbone from nn.Module, which would save and train it as part of the adapter.
        self._backbone = (backbone,)

    @classmethod
    def build(cls, options: LettersAdapter.Options, context: BuildContext) -> LettersAdapter:
        width, backbone = context.need_encoder_width(), context.need_backbone()
        return cls(options, width, backbone, context.folder).to(context.device)

    @torch.no_grad()
    def forward(self, features: Tensor, lengths: Tensor) -> HeardBatch:
        """Recognise (B,F,E) features with (B,) lengths: (B,F',D), a column per token and at least one, and tokens."""
        encode = self._backbone[0].tokenizer.encode
        texts = [likeliest_letters(chances) for chances in self.letter_chances(features, lengths)]
        # A prompt needs at least one column.
        lines = [tuple(encode(text) or encode("a")) for text in texts]
        return typed(lines, self._backbone[0], self, features, lengths)

    @torch.no_grad()
    def letter_chances(self, features: Tensor, lengths: Tensor) -> Sequence[Tensor]:
        """Return (T,1+28) log probabilities for each clip of (B,F,E) frames with (B,) lengths: blank, then letters."""
        x, places = self._places(self._partly_hidden(features), lengths)
        chances = self.out(x).float().log_softmax(dim=-1)
        return [row[:count] for row, count in zip(chances, places.tolist(), strict=True)]

    def align(self, features: Tensor, lengths: Tensor, transcripts: Sequence[Tensor]) -> Tensor:
        """Return the (B,) negative log likelihood of each clip's letters under CTC, summed over its letters."""
        x, places = self._places(self._partly_hidden(features), lengths)
        spelt = [letters_of(self._backbone[0].tokenizer.decode(ids.tolist())) for ids in transcripts]
        # Index 0 is the blank.
        targets = torch.tensor([1 + letter for line in spelt for letter in line], device=places.device)
        sizes = torch.tensor([len(line) for line in spelt], device=places.device)
        chances = self.out(x).float().log_softmax(dim=-1).transpose(0, 1)
        found: Tensor = F.ctc_loss(chances, targets, places, sizes, reduction="none", zero_infinity=True)
        return found


def likeliest_letters(chances: Tensor) -> str:
    """Return the text of the likeliest letters of (T,1+28), repetitions joined; "" if they are only spaces."""
    best = torch.unique_consecutive(chances.argmax(dim=-1)).tolist()
    heard = [place - 1 for place in best if place] or [int(chances[:, 1:].amax(dim=0).argmax())]
    return " ".join("".join(LETTERS[letter] for letter in heard).split())
