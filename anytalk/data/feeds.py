"""Feed examples to a run, by index and in a reproducible order."""

from __future__ import annotations

import hashlib
import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence

import numpy as np

from anytalk.data.examples import Example, without_sound
from anytalk.plugins.contracts import Audio, BadRow, Row, Sound

_ENDS = 1 << 16  # bytes at each end of a sound file that count for its digest


class Feed(ABC):
    """Gives the examples of one source."""

    name: str  # name of the source
    weight: float  # how often it is drawn, relative to the other feeds of a task

    def digest(self) -> str:
        """Return a digest of the rows, which a resumed run compares; "" if there is none."""
        return ""

    @abstractmethod
    def indices(self, task: str) -> np.ndarray:
        """Return the indices of examples that serve a task, (n,) int64, ascending; may be empty."""

    @abstractmethod
    def example(self, index: int) -> Example:
        """Return an example with its features and sound."""

    @abstractmethod
    def outline(self, index: int) -> Example:
        """Return an example without features and sound; this is cheap, and its grid needs no more."""

    def order(self, task: str, epoch: int, seed: int) -> np.ndarray:
        """Return the indices of a task in the order of an epoch, (n,) int64; the order depends on (seed, epoch) alone.

        A feed that reads over a network may keep neighbours together.
        """
        indices = self.indices(task)
        return indices[np.random.default_rng((seed, epoch)).permutation(len(indices))]


class ListFeed(Feed):
    """Gives examples that are held in memory."""

    def __init__(self, name: str, examples: Sequence[Example], weight: float = 1.0, digest: str = "") -> None:
        self.name, self.weight = name, weight
        self._examples, self._digest = list(examples), digest

    def digest(self) -> str:
        return self._digest

    def indices(self, task: str) -> np.ndarray:
        return np.array([i for i, e in enumerate(self._examples) if task in e.tasks], dtype=np.int64)

    def example(self, index: int) -> Example:
        return self._examples[index]

    def outline(self, index: int) -> Example:
        return without_sound(self._examples[index])


def remembered(feeds: Sequence[Feed], tasks: Iterable[str]) -> dict[str, int | str]:
    """Return what a checkpoint stores about the data: numbers of rows by source and task, and digests of the rows."""
    counts: dict[str, int | str] = {f"{feed.name}/{task}": len(feed.indices(task)) for feed in feeds for task in tasks}
    return counts | {f"rows of {feed.name}": digest for feed in feeds if (digest := feed.digest())}


def rows_digest(rows: Iterable[Row | BadRow]) -> str:
    """Return a digest of rows as their source gives them: their texts, and the size, start and end of each sound.

    Encoder features don't count, because their last digits differ between machines.
    """
    found = hashlib.sha256()
    for row in rows:
        if isinstance(row, BadRow):
            found.update(b"bad row")
            continue
        texts = [row.question_text, row.answer_text, row.speaker, row.tasks, [(m.role, m.text) for m in row.history]]
        found.update(repr(texts).encode())
        for audio in (row.question_audio, row.answer_audio, *(message.audio for message in row.history)):
            found.update(_sound_digest(audio))
        if row.answer_codes is not None:
            found.update(np.ascontiguousarray(row.answer_codes.codes).tobytes())
    return found.hexdigest()[:16]


def _sound_digest(audio: Audio | None) -> bytes:
    if audio is None:
        return b"none"
    if isinstance(audio, Sound):
        if audio.samples is not None:
            return np.ascontiguousarray(audio.samples).tobytes()
        return audio.data or str(audio.url).encode()
    try:
        with audio.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - _ENDS))
            end = file.read()
            file.seek(0)
            return f"{size}|".encode() + file.read(_ENDS) + end
    except (OSError, ValueError):  # such a row is left out with a reason
        return b"unreadable"
