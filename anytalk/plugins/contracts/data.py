"""Rows of text and sound, and the contracts of the parts that make, change or read them. Torch-free."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from anytalk.errors import DataError
from anytalk.plugins.contracts.part import Part

MANIFEST_FIELDS = (
    "question_text",
    "question_audio",
    "answer_text",
    "answer_audio",
    "speaker",
    "history",
    "tasks",
)
"""Fields of :class:`Row` that a manifest or a column map can give."""


@dataclass(frozen=True, kw_only=True)
class Sound:
    """Sound that is not a local file; exactly one of `data`, `samples` and `url` is given."""

    name: str  # what error messages call it
    # A whole encoded file (wav, flac, ogg, mp3), as parquet columns hold it.
    data: bytes | None = field(default=None, repr=False)
    samples: np.ndarray | None = field(default=None, repr=False)  # (N,) float32 or (N, channels)
    sample_rate_hz: int | None = None  # rate of `samples`
    url: str | None = None  # any address that fsspec opens, such as `s3://bucket/a.flac`


Audio = Path | Sound
"""A local sound file, or sound from elsewhere; ``grid.audio.read_wave`` reads both."""


@dataclass(frozen=True)
class CodecCodes:
    """An answer that was encoded before."""

    codes: np.ndarray = field(repr=False)  # (K,F) int64, rectangular, without delay
    token_format: str  # whose codes these are (`Codec.token_format`): only a codec of the same format may use them


@dataclass(frozen=True, kw_only=True)
class Message:
    """One turn before the question."""

    role: str  # `"system"` (only the first), `"user"` or `"assistant"`
    text: str | None = None  # what was said; None for a user's turn that is only there as sound
    audio: Audio | None = None  # where it was spoken


@dataclass(frozen=True, kw_only=True)
class Row:
    """One training example before it becomes a grid. Local paths are absolute; what is absent is None."""

    id: str  # name for error messages (source and line)
    question_text: str | None = None  # what was asked, as text
    question_audio: Audio | None = None  # where it was spoken
    answer_text: str | None = None  # what is answered
    answer_audio: Audio | None = None  # where that is spoken
    # The answer as codes, for a codec of that format; used instead of `answer_audio` where it fits.
    answer_codes: CodecCodes | None = None
    speaker: str | None = None  # name of the answering voice
    history: tuple[Message, ...] = ()  # turns before the question, oldest first
    tasks: tuple[str, ...] | None = None  # tasks that it may serve; None: all for which it has what they need


@dataclass(frozen=True, kw_only=True)
class BadRow:
    """A row that can't be used; its source goes on after it."""

    id: str  # as in `Row`
    reason: str  # what was found and what was expected, a sentence that begins with the id
    hint: str = ""  # what to change


def strict_rows(rows: Iterable[Row | BadRow]) -> Iterator[Row]:
    """Yield the same rows, where a bad one ends it all.

    Raises:
        DataError: the first bad row's reason and hint.
    """
    for row in rows:
        if isinstance(row, BadRow):
            raise DataError(row.reason, row.hint)
        yield row


class Synthesizer(Part):
    """A text-to-speech engine that makes training speech."""

    needs = ("sample_rate_hz",)
    sample_rate_hz: int

    @property
    @abstractmethod
    def voices(self) -> list[str]:
        """Names that :meth:`speak` accepts; the first is the default."""

    @abstractmethod
    def speak(self, text: str, voice: str | None = None, speed: float = 1.0) -> np.ndarray:
        """Text -> (N,) float32 at `sample_rate_hz`; `speed` 1.25 is a quarter faster. Deterministic."""


class Transcriber(Part):
    """A speech recogniser that judges answers."""

    @abstractmethod
    def transcribe(self, wave: np.ndarray, sample_rate_hz: int) -> str:
        """(N,) float32 -> text, as it was heard."""


class DataSource(Part):
    """A reader of training rows. Its ``Options`` has a field ``path`` (a path or hub id) and whatever else it needs."""

    @abstractmethod
    def rows(self) -> Iterator[Row | BadRow]:
        """Yield all rows, read as they are asked for, always in the same order, each with an id of its own.

        A row that can't be used comes as a :class:`BadRow` and the next ones follow; ``strict_rows`` stops there.

        Raises:
            DataError: what concerns the whole source, such as a missing file or a wrong column.
        """


class Augmentation(Part):
    """Changes how a spoken question sounds, never what it says."""

    @abstractmethod
    def apply(self, wave: np.ndarray, sample_rate_hz: int, generator: np.random.Generator) -> np.ndarray:
        """(N,) float32 -> (N',) float32; all chance comes from `generator`, and the input is left as it is."""
