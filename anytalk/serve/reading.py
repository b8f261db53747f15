"""Rows of several prompts read in one call of the backbone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from anytalk.plugins.contracts import Backbone, BackboneStates, Cache, JoinableCache


@dataclass
class Row:
    """One row of a prompt.

    Attributes:
        cache: Of this row alone, with the columns that were remembered; afterwards with all of them.
        embeds: (1,n,D), the columns to be read.
        room: Columns that the cache may come to hold.
    """

    cache: Cache
    embeds: Tensor
    room: int


def read_rows(backbone: Backbone, rows: Sequence[Row]) -> list[BackboneStates]:
    """Read all rows; returns the states (1,n,D) of each. Rows whose caches don't join are read one by one."""
    found: dict[int, BackboneStates] = {}
    joinable = [number for number, row in enumerate(rows) if isinstance(row.cache, JoinableCache)]
    # A cache that holds nothing has no shape yet that another one could be joined to.
    for numbers in ([n for n in joinable if rows[n].cache.length], [n for n in joinable if not rows[n].cache.length]):
        if len(numbers) > 1:
            found |= dict(zip(numbers, _read_joined(backbone, [rows[n] for n in numbers]), strict=True))
    for number, row in enumerate(rows):
        if number not in found:
            found[number] = backbone(row.embeds, row.cache)
    return [found[number] for number in range(len(rows))]


def _read_joined(backbone: Backbone, rows: Sequence[Row]) -> list[BackboneStates]:
    joint = rows[0].cache if rows[0].cache.length else backbone.new_cache(len(rows), max(row.room for row in rows))
    assert isinstance(joint, JoinableCache)
    if rows[0].cache.length:
        for row in rows[1:]:
            joint.join(row.cache)  # type: ignore[arg-type]
    longest = max(row.embeds.shape[1] for row in rows)
    # Padded behind: nothing in front of padding sees it, and the cache is cropped to what was there.
    embeds = torch.cat([F.pad(row.embeds, (0, 0, 0, longest - row.embeds.shape[1])) for row in rows])
    states: BackboneStates = backbone(embeds, joint)
    found = []
    for number, row in enumerate(rows):
        count = row.embeds.shape[1]
        row.cache = joint.take(number)
        row.cache.crop(row.cache.length - (longest - count))
        found.append(BackboneStates(*(part[number : number + 1, :count] for part in states)))
    return found
