"""What ears give to the prompt, ears that write, and the part that chooses between what may have been heard."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, runtime_checkable

from torch import Tensor, nn

from anytalk.plugins.contracts.part import Part


@dataclass(frozen=True)
class Heard:
    """What ears made of one clip: columns for the prompt, its words, or both."""

    # (L,D) embeddings for the prompt; None: the words are typed into it instead.
    columns: Tensor | None = None
    # The backbone's text tokens that were heard; None for ears whose columns only the backbone understands.
    line: tuple[int, ...] | None = None
    text: str | None = None  # the words as text, from ears that write; always there where `columns` is None
    confidence: float | None = None  # how sure ears that write are, from 0 to 1; None where they can't tell

    def __post_init__(self) -> None:
        if self.columns is None and self.text is None:
            raise ValueError("ears must give columns, text, or both")

    @classmethod
    def joined(cls, pieces: Sequence[Heard]) -> Heard:
        """The words of pieces of one clip, and how sure the ears are of the least sure one; those that write only."""
        spoken = [piece for piece in pieces if piece.text] or pieces
        sure = [piece.confidence for piece in spoken if piece.confidence is not None]
        words = " ".join(piece.text.strip() for piece in spoken if piece.text)
        return cls(text=words, confidence=min(sure, default=None))

    @property
    def num_columns(self) -> int:
        """L, or 0 where the words are typed."""
        return 0 if self.columns is None else self.columns.shape[0]


class HeardBatch(NamedTuple):
    """What an input adapter makes of clips. A tuple, because engines that shard parameters look into those."""

    columns: Tensor  # (B,F',D), padded
    lengths: Tensor  # (B,) int64, columns of each clip
    # Text tokens of each clip, one for each of its columns; None for an adapter that hears no tokens.
    lines: Sequence[tuple[int, ...]] | None = None

    def clips(self) -> list[Heard]:
        """Split into clips; columns are copied, because a slice would keep the whole batch in memory."""
        lines: Sequence[tuple[int, ...] | None] = self.lines or [None] * len(self.columns)
        rows = zip(self.columns, self.lengths.tolist(), lines, strict=True)
        return [Heard(columns[:length].clone(), line) for columns, length, line in rows]


class HeardWord(NamedTuple):
    """One word with its punctuation, and when it was said."""

    text: str  # the word
    start_s: float  # in seconds from the clip's beginning
    end_s: float  # as `start_s`


@runtime_checkable
class TimesWords(Protocol):
    """Ears that also tell when each word was said. Optional."""

    def word_times(self, wave: Tensor, text: str) -> Sequence[HeardWord]:
        """(N,) float32 of a clip that `listen` heard in one piece, and the words that it heard -> their times."""


@runtime_checkable
class HearsTokens(Protocol):
    """An input adapter that tells how likely each token is in each place of the sound. Optional."""

    def token_chances(self, features: Tensor, lengths: Tensor) -> Sequence[Tensor]:
        """(B,F,E), (B,) frames -> of each clip (T,1+V) log probabilities: no token, then each of the vocabulary."""


class Hearing(Part, nn.Module):
    """Chooses between what an input adapter may have heard; used at inference only, never in training.

    Built after the input adapter, which it finds in the context. It holds no parameters. What it remembers of the
    backbone or the adapter is dropped in :meth:`train`, which is called when weights may have changed.
    """

    @abstractmethod
    def forward(self, features: Tensor, lengths: Tensor) -> HeardBatch:
        """(B,F,E), (B,) frames -> what was heard, in place of the input adapter's own result."""


class Ears(Part, nn.Module):
    """Ears that write: they need no training, and their words are typed into the prompt of any backbone.

    They replace a speech encoder and an input adapter.
    """

    @classmethod
    def usual_options(cls) -> Sequence[dict[str, Any]]:
        """List options to try where none were chosen: the first that can be built are used."""
        return [{}]

    @property
    @abstractmethod
    def sample_rate_hz(self) -> int:
        """Rate the waves must have."""

    @property
    def max_duration_s(self) -> float | None:
        """Longest sound that can be heard, in seconds; None: any. Longer questions are refused, never cut."""
        return None

    @abstractmethod
    def listen(self, waves: Sequence[Tensor]) -> list[Heard]:
        """(N,) float32 of each clip -> its text, ``""`` where no words were heard, and how sure they are."""

    def first_cut(self, wave: Tensor) -> int:
        """Return how many samples at the beginning of (N,) are heard by themselves; 0, the default, where none are.

        What comes later must not change an answer that isn't 0. :meth:`listen` hears such a piece by itself, then the
        rest, and joins them by :meth:`Heard.joined`; so a turn can be heard while it is spoken, and nothing changes.
        """
        return 0
