"""The ``letters`` input adapter: ears that hear letters, and type the words that they make.

A vocabulary of tokens needs many hours of speech before each of its tokens was heard; 28 letters are heard in minutes.
What was heard is cut into the backbone's own tokens, so that it stands in the prompt where it would have been typed, as
with ``ctc``. Nothing behind the letters can be trained: a text is no sum of what might have been said.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from anytalk.plugins.components import BuildContext
from anytalk.plugins.contracts import Backbone, HeardBatch

from .frame_listener import FrameListener, FrameOptions
from .input_adapters import typed

LETTERS = "abcdefghijklmnopqrstuvwxyz' "
"""What a place may hold, after "nothing"."""


def letters_of(text: str) -> list[int]:
    """Places in :data:`LETTERS` of a text in lower case; of what is no letter, only that words end there."""
    plain = "".join(letter if letter in LETTERS else " " for letter in text.lower())
    return [LETTERS.index(letter) for letter in " ".join(plain.split())]


class LettersAdapter(FrameListener):
    """Frames to the text embeddings of the words that the letters heard in them make."""

    class Options(FrameOptions):
        """How frames become letters."""

    def __init__(self, options: LettersAdapter.Options, encoder_width: int, backbone: Backbone) -> None:
        super().__init__(options, encoder_width)
        self.out = nn.Linear(options.width, 1 + len(LETTERS))
        # A tuple, so that the backbone is no part of this one.
        self._backbone = (backbone,)

    @classmethod
    def build(cls, options: LettersAdapter.Options, context: BuildContext) -> LettersAdapter:
        return cls(options, context.need_encoder_width(), context.need_backbone()).to(context.device)

    @torch.no_grad()
    def forward(self, features: Tensor, lengths: Tensor) -> HeardBatch:
        """(B,F,E), (B,) -> (B,F',D), one column for each token of what was heard, at least one, and the tokens."""
        encode = self._backbone[0].tokenizer.encode
        texts = [likeliest_letters(chances) for chances in self.letter_chances(features, lengths)]
        lines = [tuple(encode(text) or encode("a")) for text in texts]
        return typed(lines, self._backbone[0], self, features, lengths)

    @torch.no_grad()
    def letter_chances(self, features: Tensor, lengths: Tensor) -> Sequence[Tensor]:
        """(B,F,E), (B,) frames -> of each clip (T,1+28) log probabilities: nothing, then each of the letters."""
        x, places = self._places(features, lengths)
        chances = self.out(x).float().log_softmax(dim=-1)
        return [row[:count] for row, count in zip(chances, places.tolist(), strict=True)]

    def align(self, features: Tensor, lengths: Tensor, transcripts: Sequence[Tensor]) -> Tensor:
        """(B,) negative log likelihood of each clip's letters under CTC, summed over them."""
        x, places = self._places(features, lengths)
        spelt = [letters_of(self._backbone[0].tokenizer.decode(ids.tolist())) for ids in transcripts]
        targets = torch.tensor([1 + letter for line in spelt for letter in line], device=places.device)
        sizes = torch.tensor([len(line) for line in spelt], device=places.device)
        chances = self.out(x).float().log_softmax(dim=-1).transpose(0, 1)
        found: Tensor = F.ctc_loss(chances, targets, places, sizes, reduction="none", zero_infinity=True)
        return found


def likeliest_letters(chances: Tensor) -> str:
    """(T,1+28) -> the text of each place's likeliest letter, repetitions joined; at least one letter, maybe a space."""
    best = torch.unique_consecutive(chances.argmax(dim=-1)).tolist()
    heard = [place - 1 for place in best if place] or [int(chances[:, 1:].amax(dim=0).argmax())]
    return " ".join("".join(LETTERS[letter] for letter in heard).split())
