"""Keeps a conversation's caches from turn to turn, with the columns that they hold.

A turn reads only what is new. After a truncated answer or a deleted item the columns no longer match, and the caches
are cropped to the last column that does, so rolling back needs no bookkeeping of its own.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from anytalk.grid.prompts import Prompt
from anytalk.model.talk_model import TalkCache
from anytalk.plugins.contracts import Cache, JoinableCache


class Memory:
    """Holds the caches of one conversation; used by the model's thread only.

    Attributes:
        columns: (S,T) int64, the keys of the columns in the caches; see :func:`column_keys`.
        cache: The caches, with one row; None if nothing is kept.
        is_closed: Whether the conversation is over, so that nothing is kept any more. May be set from any thread.
    """

    def __init__(self) -> None:
        self.is_closed = False
        self.columns = np.zeros((0, 0), dtype=np.int64)
        self.cache: TalkCache | None = None

    def forget(self) -> None:
        self.columns, self.cache = np.zeros((0, 0), dtype=np.int64), None

    def close(self) -> None:
        """Forget everything for good; unlike the other methods, this may be called from another thread."""
        self.is_closed = True
        self.forget()

    def keep(self, columns: np.ndarray, backbone: Cache | None, output_adapter: Cache | None) -> None:
        """Keep caches of one row that hold these columns."""
        if backbone is None or self.is_closed:
            self.forget()
            return
        self.columns, self.cache = columns, TalkCache(backbone, output_adapter)

    def take(self, columns: np.ndarray, needs_adapter: bool) -> tuple[TalkCache | None, int]:
        """Return the kept caches, cropped to what `columns` begins with, and that length; (None, 0) if nothing matches.

        At least the last column is left to read, because the answer starts from its state. The memory is empty
        afterwards: the caches are the caller's.
        """
        cache, length = self.cache, self._shared(columns)
        self.forget()
        if cache is None or length == 0 or (needs_adapter and cache.output_adapter is None):
            return None, 0
        return _cropped(cache.backbone, cache.output_adapter if needs_adapter else None, length), length

    def copy(self, columns: np.ndarray, needs_adapter: bool) -> tuple[TalkCache | None, int]:
        """Return what :meth:`take` would, as a copy; for a beginning that many conversations share."""
        length, cache = self._shared(columns), self.cache
        if cache is None or length == 0 or not isinstance(cache.backbone, JoinableCache):
            return None, 0
        adapter = cache.output_adapter if needs_adapter else None
        # A cache of another kind can't be copied, so the prompt is read as if nothing were known.
        if needs_adapter and not isinstance(adapter, JoinableCache):
            return None, 0
        copied = adapter.take(0) if isinstance(adapter, JoinableCache) else None
        return _cropped(cache.backbone.take(0), copied, length), length

    def _shared(self, columns: np.ndarray) -> int:
        """Return how many leading columns match, not counting the last of `columns`."""
        known = self.columns
        if self.cache is None or known.shape[0] != columns.shape[0]:
            return 0
        shared = min(known.shape[1], columns.shape[1] - 1)
        differs = (known[:, :shared] != columns[:, :shared]).any(axis=0)
        return int(differs.argmax()) if differs.any() else shared


def _cropped(backbone: Cache, output_adapter: Cache | None, length: int) -> TalkCache:
    backbone.crop(length)
    if output_adapter is not None:
        output_adapter.crop(length)
    return TalkCache(backbone, output_adapter)


def column_keys(prompt: Prompt, speech: Sequence[int], seen: slice) -> np.ndarray:
    """Return keys that tell the columns of a prompt apart.

    Args:
        speech: A number for each spoken turn, unique to its recording.
        seen: The rows of the grid that the backbone sees.

    Returns:
        (rows,T) int64: tokens, and negative numbers in columns of speech, whose embeddings have no token.
    """
    keys = prompt.tokens[seen].copy()
    for (start, count), number in zip(prompt.speech_spans, speech, strict=True):
        # Negative, so that no key of speech equals a token; 100,000 is far more than the columns of a clip.
        keys[:, start : start + count] = -1 - (number * 100_000 + np.arange(count))
    return keys
