"""Feeds: where a run takes its examples from, by index, in a stated order."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np

from anytalk.data.examples import Example, without_sound


class Feed(ABC):
    """The examples of one source.

    Attributes:
        name: Its source's name.
        weight: How often it is drawn, beside the other feeds of a task.
    """

    name: str
    weight: float

    @abstractmethod
    def indices(self, task: str) -> np.ndarray:
        """(n,) int64: the examples that serve a task, ascending; may be empty."""

    @abstractmethod
    def example(self, index: int) -> Example:
        """An example with its sound."""

    @abstractmethod
    def outline(self, index: int) -> Example:
        """The same without features and waves: cheap, enough to lay out its grid."""

    def order(self, task: str, epoch: int, seed: int) -> np.ndarray:
        """(n,) int64: the examples of a task in the order of an epoch, a function of (seed, epoch) alone.

        A feed that reads from afar may keep neighbours together.
        """
        indices = self.indices(task)
        return indices[np.random.default_rng((seed, epoch)).permutation(len(indices))]


class ListFeed(Feed):
    """Examples in memory."""

    def __init__(self, name: str, examples: Sequence[Example], weight: float = 1.0) -> None:
        self.name, self.weight = name, weight
        self._examples = list(examples)

    def indices(self, task: str) -> np.ndarray:
        """See the contract."""
        return np.array([i for i, e in enumerate(self._examples) if task in e.tasks], dtype=np.int64)

    def example(self, index: int) -> Example:
        """See the contract."""
        return self._examples[index]

    def outline(self, index: int) -> Example:
        """See the contract."""
        return without_sound(self._examples[index])
