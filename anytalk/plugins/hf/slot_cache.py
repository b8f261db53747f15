"""A fixed cache whose rows come and go: one slot for each answer in a batch, whatever its length and age."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Self

import torch
from torch import Tensor

from anytalk.plugins.hf.fixed_cache import FixedCache

_SPARE_STEPS = 64
"""Room that is added at least when there is none left."""


class SlotCache(FixedCache):
    """Fulfils :class:`anytalk.plugins.contracts.JoinableCache`.

    As long as it is alone it has room for what was asked for, as any fixed cache. In a batch all rows end at the same
    step, so that each layer writes what is new in one place; shorter rows have empty steps in front, which nobody looks
    at. Rows that join are copied once into a slot; there is room for twice as many each time that slots run out, and
    for more steps each time that those do.

    Attributes:
        empty: For each row, steps in front that hold nothing; None while all rows are equally long.
    """

    empty: list[int] | None = None
    _grows = False
    _room: Tensor | None = None  # all slots: `store` shows the ones that are taken

    @property
    def num_rows(self) -> int:
        """B."""
        return int(self.store.shape[2])

    def reserve(self, steps: int) -> None:
        """Count more steps as held; in a cache that was joined or taken there is always room.

        Raises:
            ConfigError: no room for them in a cache that was always alone.
        """
        wanted = self.length + steps
        if self._grows and wanted > self.max_steps:
            self._move(self._num_slots, wanted + max(_SPARE_STEPS, wanted // 2), 0)
        super().reserve(steps)

    def join(self, other: Self) -> None:
        """Add the rows of another cache behind these; the other one is used up.

        Raises:
            ValueError: steps were left out of the middle of one of them.
        """
        if self.forgotten or other.forgotten:
            raise ValueError("caches that steps were left out of can't be joined")
        self.near, self.shared = None, 0
        longest, rows = max(self.length, other.length), self.num_rows + other.num_rows
        steps = max(self.max_steps, other.max_steps, longest)
        self.empty = [n + longest - cache.length for cache in (self, other) for n in cache._empty_steps()]
        if rows > self._num_slots or steps > self.max_steps or longest > self.length:
            slots = self._num_slots if rows <= self._num_slots else max(rows, 2 * self._num_slots)
            self._move(slots, steps, longest - self.length)
        assert self._room is not None
        self._room[:, :, self.num_rows : rows, :, longest - other.length : longest] = other._held()
        self.store, self.length, self._grows = self._room[:, :, :rows], longest, True
        self._note_empty(self.empty)

    def take(self, row: int) -> Self:
        """A cache of this row alone, with no more room than it needs."""
        taken = type(self).__new__(type(self))
        first = self._empty_steps()[row]
        taken.store = self.store[:, :, row : row + 1, :, first : self.length].clone()
        taken.length, taken._grows = self.length - first, True
        taken.forgotten, taken._first_forgotten = self.forgotten, self._first_forgotten
        taken.near, taken.shared = None, taken.length
        return taken

    def forget(self, first: int, stop: int) -> None:
        """As of a fixed cache.

        Raises:
            ValueError: rows of unequal length, which have no middle in common.
        """
        if self.empty is not None:
            raise ValueError("steps can't be left out of rows of unequal length")
        super().forget(first, stop)

    def keep_rows(self, rows: Sequence[int]) -> None:
        """Keep these batch rows, in this order; steps that are empty in all of them are given up."""
        rows = list(rows)
        self.near = None
        empty = [self._empty_steps()[row] for row in rows]
        if self._room is not None and all(a < b for a, b in pairwise(rows)):
            # Slots behind one that is left move up by themselves: nothing is laid out anew.
            for place, row in enumerate(rows):
                if place != row:
                    self._room[:, :, place, :, : self.length] = self._room[:, :, row, :, : self.length]
            self.store = self._room[:, :, : len(rows)]
        else:
            super().keep_rows(rows)
            self._room = None
        self._note_empty(empty)

    @property
    def _num_slots(self) -> int:
        return int(self.store.shape[2] if self._room is None else self._room.shape[2])

    def _held(self) -> Tensor:
        return self.store[..., : self.length, :]

    def _empty_steps(self) -> list[int]:
        return self.empty or [0] * self.num_rows

    def _note_empty(self, empty: list[int]) -> None:
        spare = min(empty, default=0)
        if spare:
            self.store, self.length = self.store[..., spare:, :], self.length - spare
            self._room = None if self._room is None else self._room[..., spare:, :]
        self.empty = [n - spare for n in empty] if any(n > spare for n in empty) else None

    def _move(self, slots: int, steps: int, behind: int) -> None:
        """Lay the memory out anew, with `behind` empty steps in front."""
        rows, shape = self.num_rows, self.store.shape
        # Zeros: what is not looked at must be a number, because nothing times no number is none.
        room = self.store.new_zeros((*shape[:2], slots, shape[3], steps, shape[5]))
        room[:, :, :rows, :, behind : behind + self.length] = self._held()
        self._room, self.store = room, room[:, :, :rows]


def ragged_places(empty: list[int], start: int, steps: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """For rows with so many empty steps in front: positions (B,T) of T next ones, and what each sees, (B,T,L) bool."""
    first = torch.tensor(empty, device=device)[:, None]
    slots = torch.arange(start + steps, device=device)
    places = slots[None, start:] - first
    seen = (slots >= first[:, :, None]) & (slots <= slots[start:, None])
    return places, seen
