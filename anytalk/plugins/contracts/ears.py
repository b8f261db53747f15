"""Defines what was heard, the parts that transcribe, and the part that chooses between what may have been heard."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, runtime_checkable

from torch import Tensor, nn

from anytalk.plugins.contracts.part import Part


@dataclass(frozen=True)
class Heard:
    """Holds what was heard in one clip: columns for the prompt, the words, or both."""

    # (L,D) embeddings for the prompt; None: the words are typed into it instead.
    columns: Tensor | None = None
    # The backbone's text tokens that were heard; None if the columns don't stand for tokens.
    line: tuple[int, ...] | None = None
    text: str | None = None  # the words as text, if they were transcribed; set whenever `columns` is None
    confidence: float | None = None  # how sure the words are, from 0 to 1; None if unknown

    def __post_init__(self) -> None:
        if self.columns is None and self.text is None:
            raise ValueError("ears must give columns, text, or both")

    @classmethod
    def joined(cls, pieces: Sequence[Heard]) -> Heard:
        """Join transcribed pieces of one clip; the confidence is that of the least sure piece."""
        spoken = [piece for piece in pieces if piece.text] or pieces
        sure = [piece.confidence for piece in spoken if piece.confidence is not None]
        words = " ".join(piece.text.strip() for piece in spoken if piece.text)
        return cls(text=words, confidence=min(sure, default=None))

    @property
    def num_columns(self) -> int:
        """Return L, or 0 if the words are typed."""
        return 0 if self.columns is None else self.columns.shape[0]


class HeardBatch(NamedTuple):
    """Holds what an input adapter makes of clips; a tuple, because engines that shard parameters look into those."""

    columns: Tensor  # (B,F',D), padded
    lengths: Tensor  # (B,) int64, columns of each clip
    # Text tokens of each clip, one for each of its columns; None for an adapter that recognises no tokens.
    lines: Sequence[tuple[int, ...]] | None = None

    def clips(self) -> list[Heard]:
        """Split into clips; the columns are copied, because a slice would keep the whole batch in memory."""
        lines: Sequence[tuple[int, ...] | None] = self.lines or [None] * len(self.columns)
        rows = zip(self.columns, self.lengths.tolist(), lines, strict=True)
        return [Heard(columns[:length].clone(), line) for columns, length, line in rows]


class HeardWord(NamedTuple):
    """Holds one word with its punctuation, and when it was said."""

    text: str  # the word
    start_s: float  # in seconds from the clip's beginning
    end_s: float  # as `start_s`


@runtime_checkable
class TimesWords(Protocol):
    """Marks ears that can also tell when each word was said; optional."""

    def word_times(self, wave: Tensor, text: str) -> Sequence[HeardWord]:
        """Return when each word of `text` was said in `wave` (N,) float32, which `listen` heard in one piece."""


@dataclass(frozen=True)
class Hints:
    """What is known of clips before they are heard."""

    language: str | None = None  # spoken in them: a code such as "de"; None: what the ears were built for
    prompt: str = ""  # text in front of them, or words as they are to be spelt


@runtime_checkable
class TakesHints(Protocol):
    """Ears that can be told something of clips. Optional."""

    def hinted(self, hints: Hints) -> Ears:
        """Return ears with the same weights for clips of which this is known (ConfigError: no such language)."""


@runtime_checkable
class HearsTokens(Protocol):
    """Marks an input adapter that can tell how likely each token is at each place of the sound; optional."""

    def token_chances(self, features: Tensor, lengths: Tensor) -> Sequence[Tensor]:
        """Map (B,F,E), (B,) frames to log probabilities of each clip, (T,1+V): no token, then the vocabulary."""


class Hearing(Part, nn.Module):
    """Chooses between what an input adapter may have heard; used at inference only, never in training.

    It is built after the input adapter, which it finds in the context, and holds no parameters. What it remembers of
    the backbone or the adapter is dropped in :meth:`train`, which is called when weights may have changed.
    """

    @abstractmethod
    def forward(self, features: Tensor, lengths: Tensor) -> HeardBatch:
        """Return what was heard in (B,F,E), (B,) frames, in place of the input adapter's own result."""


class Ears(Part, nn.Module):
    """Transcribes speech without any training; its words are typed into the prompt of any backbone.

    It replaces a speech encoder and an input adapter.
    """

    @classmethod
    def usual_options(cls) -> Sequence[dict[str, Any]]:
        """List the options to try if none were chosen; the first ones that can be built are used."""
        return [{}]

    @property
    @abstractmethod
    def sample_rate_hz(self) -> int:
        """Return the sample rate that waves must have."""

    @property
    def max_duration_s(self) -> float | None:
        """Return the longest sound that can be heard, in seconds; None: any. Longer ones are refused, never cut."""
        return None

    @abstractmethod
    def listen(self, waves: Sequence[Tensor]) -> list[Heard]:
        """Return the text of each clip (N,) float32, ``""`` where no words were heard, and how sure it is."""

    def first_cut(self, wave: Tensor) -> int:
        """Return how many samples at the start of a wave (N,) are always heard on their own; by default 0, none.

        Once it isn't 0, more samples must not change the result. :meth:`listen` hears such a piece, then the rest, and
        joins them by :meth:`Heard.joined`, so a turn that is heard while it is spoken gives the same words.
        """
        return 0
