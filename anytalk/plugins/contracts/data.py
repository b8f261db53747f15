"""Defines rows of text and sound, and the contracts of the parts that make, change or read them. Imports no torch."""

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
"""The fields of :class:`Row` that a manifest or a column map can give."""


@dataclass(frozen=True, kw_only=True)
class Sound:
    """Refers to sound that isn't a local file; exactly one of `data`, `samples` and `url` is given."""

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
    """Holds an answer that was encoded earlier."""

    codes: np.ndarray = field(repr=False)  # (K,F) int64, rectangular, without delay
    token_format: str  # `Codec.token_format` of their codec: only a codec of the same format may use them


@dataclass(frozen=True, kw_only=True)
class Message:
    """Holds one turn before the question."""

    role: str  # `"system"` (only the first), `"user"` or `"assistant"`
    text: str | None = None  # what was said; None for a user's turn that is only there as sound
    audio: Audio | None = None  # the turn as sound


@dataclass(frozen=True, kw_only=True)
class Row:
    """Holds one training example before it becomes a grid. Local paths are absolute; what is absent is None."""

    id: str  # name for error messages (source and line)
    question_text: str | None = None  # the question as text
    question_audio: Audio | None = None  # the question as sound
    answer_text: str | None = None  # the answer as text
    answer_audio: Audio | None = None  # the answer as sound
    # The answer as codes; a codec of their format uses them instead of `answer_audio`.
    answer_codes: CodecCodes | None = None
    speaker: str | None = None  # name of the answering voice
    history: tuple[Message, ...] = ()  # turns before the question, oldest first
    tasks: tuple[str, ...] | None = None  # tasks that may use it; None: all whose fields it has


@dataclass(frozen=True, kw_only=True)
class BadRow:
    """Reports a row that can't be used; the source continues after it."""

    id: str  # as in `Row`
    reason: str  # what was found and what was expected, a sentence that begins with the id
    hint: str = ""  # what to change


def strict_rows(rows: Iterable[Row | BadRow]) -> Iterator[Row]:
    """Yield the rows, and raise at the first bad one.

    Raises:
        DataError: a bad row, with its reason and hint.
    """
    for row in rows:
        if isinstance(row, BadRow):
            raise DataError(row.reason, row.hint)
        yield row


class Synthesizer(Part):
    """Makes training speech from text."""

    needs = ("sample_rate_hz",)
    sample_rate_hz: int

    @property
    @abstractmethod
    def voices(self) -> list[str]:
        """Return the names that :meth:`speak` accepts; the first is the default."""

    @abstractmethod
    def speak(self, text: str, voice: str | None = None, speed: float = 1.0) -> np.ndarray:
        """Return the text as speech, (N,) float32 at `sample_rate_hz`, always the same; `speed` 1.25 is 25% faster."""


class Transcriber(Part):
    """Recognises speech, to judge answers."""

    @property
    def title(self) -> str:
        """Return what tables call it, such as ``"Whisper base"``, or "" for the name of its plugin."""
        return ""

    @abstractmethod
    def transcribe(self, wave: np.ndarray, sample_rate_hz: int) -> str:
        """Return the words of a wave, (N,) float32, as they were heard."""


class DataSource(Part):
    """Reads training rows. Its ``Options`` have a field ``path`` (a path or hub id) and whatever else it needs."""

    @abstractmethod
    def rows(self) -> Iterator[Row | BadRow]:
        """Yield all rows, each read only when it is asked for, always in the same order and with a unique id.

        A row that can't be used is yielded as a :class:`BadRow`; ``strict_rows`` stops there instead of going on.

        Raises:
            DataError: the whole source can't be used, for example a missing file or a wrong column.
        """


class Augmentation(Part):
    """Changes how a spoken question sounds, never what it says."""

    @abstractmethod
    def apply(self, wave: np.ndarray, sample_rate_hz: int, generator: np.random.Generator) -> np.ndarray:
        """Return the changed wave, (N,) float32 -> (N',) float32; leave `wave` alone, draw only from `generator`."""
