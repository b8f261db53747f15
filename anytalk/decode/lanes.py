"""Runs one stateful part of the model (the backbone, or the output adapter) on the rows of all answers.

A lane holds the part's caches. Joinable ones (:class:`~anytalk.plugins.contracts.JoinableCache`) become one cache and
one call of the part; with others the part runs once per cache. Callers see no difference.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from anytalk.plugins.contracts import Cache, JoinableCache


@dataclass
class _Group:
    owners: list[Hashable]
    cache: Cache | None


class Lane:
    """Holds rows and their caches. Each :meth:`run` takes a step in all rows, so a row with nothing to do must leave.

    Args:
        joins: Whether caches are joined. If not, an answer's arithmetic doesn't depend on which others there are.
    """

    def __init__(self, joins: bool = True) -> None:
        self._joins = joins
        self._groups: list[_Group] = []
        self._parked: dict[Hashable, Cache | None] = {}

    @property
    def owners(self) -> list[Hashable]:
        """Return the owner of each row, in the order in which :meth:`run` takes and returns rows."""
        return [owner for group in self._groups for owner in group.owners]

    def cache_of(self, owner: Hashable) -> Cache | None:
        """Return the cache that holds a row, perhaps with other rows; None for a row that isn't here."""
        return next((group.cache for group in self._groups if owner in group.owners), None)

    def join(self, owners: Sequence[Hashable], cache: Cache | None) -> None:
        """Add rows with their cache, which is used up; None is the cache of a part without memory."""
        # Only the first group grows; a cache that doesn't fit it gets a group, and a call of the part, of its own.
        first = self._groups[0] if self._groups and self._joins else None
        if first is not None and first.cache is None and cache is None:
            first.owners += owners
        elif first is not None and isinstance(first.cache, JoinableCache) and isinstance(cache, JoinableCache):
            first.cache.join(cache)
            first.owners += owners
        else:
            self._groups.append(_Group(list(owners), cache))

    def leave(self, owner: Hashable, kept: bool = False) -> Cache | None:
        """Remove a row; with `kept`, return its cache if the row can be separated. An unknown row is no error."""
        self._parked.pop(owner, None)
        group = next((g for g in self._groups if owner in g.owners), None)
        if group is None:
            return None
        row = group.owners.index(owner)
        group.owners.remove(owner)
        taken = None
        if kept:
            # A lone row is copied out too: the copy doesn't keep the memory that was reserved for the answer.
            taken = group.cache.take(row) if isinstance(group.cache, JoinableCache) else group.cache
        if not group.owners:
            self._groups.remove(group)
            return taken
        if group.cache is not None:
            # `owners` has lost the row already, the cache hasn't.
            group.cache.keep_rows([i for i in range(len(group.owners) + 1) if i != row])
        # A cache that can't be joined still serves its other rows, so it isn't returned.
        return taken if isinstance(group.cache, JoinableCache) else None

    def park_all_but(self, active: Collection[Hashable]) -> None:
        """Set the rows aside that don't take the next step, and bring the active ones back."""
        for owner in [owner for owner in self._parked if owner in active]:
            self.join([owner], self._parked.pop(owner))
        for waiting in [owner for owner in self.owners if owner not in active]:
            self._parked[waiting] = self.leave(waiting, kept=True)

    @property
    def lengths(self) -> list[int]:
        """Return the number of steps in the longest row of each cache, for :meth:`undo`."""
        return [0 if group.cache is None else group.cache.length for group in self._groups]

    def undo(self, lengths: Sequence[int]) -> None:
        """Remove the steps added since the caches had these lengths, also those of a step that failed halfway."""
        for group, length in zip(self._groups, lengths, strict=True):
            cache = group.cache
            if isinstance(cache, JoinableCache):
                # Rows are shorter than the longest one by different numbers, so each is cropped by itself.
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
        """Move the rows of one answer to a new lane; :meth:`merge` brings them back."""
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
        """Return this lane as a route sees it, for a step in which `places` gives each owner's row number."""
        return LaneOfStep(self, [places[owner] for owner in self.owners], device)

    def run(self, part: Callable[..., Sequence[Tensor]], *inputs: Tensor) -> list[Tensor]:
        """Run one step of every row.

        Args:
            part: Called with a cache and the inputs of its rows; returns tensors (rows,...).
            inputs: (B,...) each; B rows in the order of `owners`.

        Returns:
            What `part` returned for all rows, (B,...) each.
        """
        found, first = [], 0
        for group in self._groups:
            stop = first + len(group.owners)
            found.append(part(group.cache, *(given[first:stop] for given in inputs)))
            first = stop
        return [torch.cat(parts) if len(parts) > 1 else parts[0] for parts in zip(*found, strict=True)]


class LaneOfStep:
    """Runs a lane that holds some of the rows of a step; see :class:`anytalk.plugins.contracts.Lane`."""

    def __init__(self, lane: Lane, rows: list[int], device: torch.device) -> None:
        self._lane, self._rows = lane, rows
        self._at = torch.tensor(rows, device=device)

    def __len__(self) -> int:
        return len(self._rows)

    def run(self, part: Callable[..., Sequence[Tensor]], *inputs: Tensor) -> list[Tensor]:
        """Run a part on this lane's rows; the results of other rows are zero."""
        count = len(inputs[0])
        if self._rows == list(range(count)):
            return self._lane.run(part, *inputs)
        # Routes work on all rows of a step, while this lane holds only some of them.
        found = self._lane.run(part, *(given[self._at] for given in inputs))
        return [one.new_zeros(count, *one.shape[1:]).index_copy(0, self._at, one) for one in found]
