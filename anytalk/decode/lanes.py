"""Rows of one stateful part of the model, run together.

A lane holds the caches of all answers that a part is working on. Joinable caches
(:class:`~anytalk.plugins.contracts.JoinableCache`) become one cache and one call of the part; of others each is run on
its own. Which it is, nobody outside has to know.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from anytalk.plugins.contracts import Cache, JoinableCache


@dataclass
class _Group:
    owners: list[Hashable]
    cache: Cache | None


class Lane:
    """Rows and their caches. All rows take a step in each :meth:`run`: who has nothing to say leaves.

    Args:
        joins: False keeps the caches of each answer apart, so that one that is alone is computed as ever.
    """

    def __init__(self, joins: bool = True) -> None:
        self._joins = joins
        self._groups: list[_Group] = []

    @property
    def owners(self) -> list[Hashable]:
        """Whose rows these are, in the order in which :meth:`run` expects and returns them."""
        return [owner for group in self._groups for owner in group.owners]

    def cache_of(self, owner: Hashable) -> Cache | None:
        """Return the cache in which a row lies, with all rows that it holds; None for a row that isn't here."""
        return next((group.cache for group in self._groups if owner in group.owners), None)

    def join(self, owners: Sequence[Hashable], cache: Cache | None) -> None:
        """Add the rows that a cache holds; the cache is used up. None: a part without memory."""
        first = self._groups[0] if self._groups and self._joins else None
        if first is not None and first.cache is None and cache is None:
            first.owners += owners
        elif first is not None and isinstance(first.cache, JoinableCache) and isinstance(cache, JoinableCache):
            first.cache.join(cache)
            first.owners += owners
        else:
            self._groups.append(_Group(list(owners), cache))

    def leave(self, owner: Hashable, kept: bool = False) -> Cache | None:
        """Take a row out, and return its cache if `kept` is set and it can be had alone. No error if it isn't here."""
        group = next((g for g in self._groups if owner in g.owners), None)
        if group is None:
            return None
        row = group.owners.index(owner)
        group.owners.remove(owner)
        taken = None
        if kept:
            # Taken also where it was alone: what is kept between turns needs no room for an answer.
            taken = group.cache.take(row) if isinstance(group.cache, JoinableCache) else group.cache
        if not group.owners:
            self._groups.remove(group)
            return taken
        if group.cache is not None:
            group.cache.keep_rows([i for i in range(len(group.owners) + 1) if i != row])
        return taken if isinstance(group.cache, JoinableCache) else None

    @property
    def lengths(self) -> list[int]:
        """How many steps the longest row of each cache holds, for :meth:`undo`."""
        return [0 if group.cache is None else group.cache.length for group in self._groups]

    def undo(self, lengths: Sequence[int]) -> None:
        """Take back what was added since the caches had these lengths, steps that failed halfway included."""
        for group, length in zip(self._groups, lengths, strict=True):
            cache = group.cache
            if isinstance(cache, JoinableCache):
                steps = cache.length - length
                rows = [cache.take(row) for row in range(len(group.owners))]
                for row in rows:
                    row.crop(row.length - steps)
                for row in rows[1:]:
                    rows[0].join(row)
                group.cache = rows[0]
            elif cache is not None:
                cache.crop(length)

    def part(self, owners: Sequence[Hashable]) -> Lane:
        """Move the rows of one answer to a lane of their own; :meth:`merge` brings them back."""
        own = Lane(self._joins)
        for group in list(self._groups):
            if set(group.owners) <= set(owners):
                self._groups.remove(group)
                own._groups.append(group)
            else:
                for owner in [owner for owner in group.owners if owner in owners]:
                    own.join([owner], self.leave(owner, kept=True))
        return own

    def merge(self, other: Lane) -> None:
        """Add the rows of another lane, which is used up."""
        for group in other._groups:
            self.join(group.owners, group.cache)

    def at(self, places: Mapping[Hashable, int], device: torch.device) -> LaneOfStep:
        """This lane as a route sees it, for a step whose row numbers are given by owner."""
        return LaneOfStep(self, [places[owner] for owner in self.owners], device)

    def run(self, part: Callable[..., Sequence[Tensor]], *inputs: Tensor) -> list[Tensor]:
        """Return one step of every row.

        Args:
            part: Called with the cache and the rows' inputs; returns tensors (rows,...).
            inputs: (B,...) each, B rows in the order of `owners`.

        Returns:
            What `part` returned, (B,...) each.
        """
        found, first = [], 0
        for group in self._groups:
            stop = first + len(group.owners)
            found.append(part(group.cache, *(given[first:stop] for given in inputs)))
            first = stop
        return [torch.cat(parts) if len(parts) > 1 else parts[0] for parts in zip(*found, strict=True)]


class LaneOfStep:
    """A lane whose rows are some of a step's; see :class:`anytalk.plugins.contracts.Lane`."""

    def __init__(self, lane: Lane, rows: list[int], device: torch.device) -> None:
        self._lane, self._rows = lane, rows
        self._at = torch.tensor(rows, device=device)

    def __len__(self) -> int:
        return len(self._rows)

    def run(self, part: Callable[..., Sequence[Tensor]], *inputs: Tensor) -> list[Tensor]:
        """Run a part on these rows; zero in the others."""
        count = len(inputs[0])
        if self._rows == list(range(count)):
            return self._lane.run(part, *inputs)
        found = self._lane.run(part, *(given[self._at] for given in inputs))
        return [one.new_zeros(count, *one.shape[1:]).index_copy(0, self._at, one) for one in found]
