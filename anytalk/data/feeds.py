"""Feeds: where a run takes its examples from, by index, in a stated order."""

from __future__ import annotations

import hashlib
import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence

import numpy as np

from anytalk.data.examples import Example, without_sound
from anytalk.plugins.contracts import Audio, BadRow, Row, Sound

_ENDS = 1 << 16


class Feed(ABC):
    """The examples of one source."""

    name: str  # its source's name
    weight: float  # how often it is drawn, beside the other feeds of a task

    def digest(self) -> str:
        """Return what tells these rows from others, as many of them; a resumed run compares it. Empty: nothing does."""
        return ""

    @abstractmethod
    def indices(self, task: str) -> np.ndarray:
        """(n,) int64: the examples that serve a task, ascending; may be empty."""

    @abstractmethod
    def example(self, index: int) -> Example:
        """Return an example with its sound."""

    @abstractmethod
    def outline(self, index: int) -> Example:
        """Return the same without features and waves: cheap, enough to lay out its grid."""

    def order(self, task: str, epoch: int, seed: int) -> np.ndarray:
        """(n,) int64: the examples of a task in the order of an epoch, a function of (seed, epoch) alone.

        A feed that reads from afar may keep neighbours together.
        """
        indices = self.indices(task)
        return indices[np.random.default_rng((seed, epoch)).permutation(len(indices))]


class ListFeed(Feed):
    """Examples in memory."""

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
    """Return what a checkpoint remembers of the data: rows by source and task, and what tells the rows from others."""
    counts: dict[str, int | str] = {f"{feed.name}/{task}": len(feed.indices(task)) for feed in feeds for task in tasks}
    return counts | {f"rows of {feed.name}": digest for feed in feeds if (digest := feed.digest())}


def rows_digest(rows: Iterable[Row | BadRow]) -> str:
    """Return a digest of rows as their source gives them: texts, and of each sound its size, beginning and end.

    Made of what is given and not of what an encoder makes of it: that differs between machines in the last digit.
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
    except (OSError, ValueError):  # a row that can't be read is left out with its reason
        return b"unreadable"
