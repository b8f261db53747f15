"""Reads the prompts of several answers in one call of the backbone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from anytalk.plugins.contracts import Backbone, BackboneStates, Cache, JoinableCache


@dataclass
class Reading:
    """Holds the prompt of one answer, as rows to read."""

    cache: Cache  # before: one row with the remembered columns; after: all rows with all columns
    embeds: Tensor  # (R,n,D), the columns to read
    shared: int  # how many leading columns are the same in all rows; all of them if there is one row
    room: int  # the most columns that the cache may come to hold


@dataclass
class _Piece:
    """Holds columns (R,n,D) to read in one call, and a cache of R rows."""

    cache: Cache
    embeds: Tensor
    room: int


def read_prompts(backbone: Backbone, readings: Sequence[Reading]) -> list[BackboneStates]:
    """Read all prompts and return the states (R,n,D) of each.

    Columns that the rows of an answer share are read once. Answers whose caches don't join are read one by one.
    """
    # First the shared columns in one row, then a copy of that row's cache for each row, then the rest.
    fronts = [_Piece(r.cache, r.embeds[:1, : r.shared], r.room) for r in readings]
    before = _read(backbone, fronts)
    for reading, front in zip(readings, fronts, strict=True):
        if len(reading.embeds) > 1:
            # Naming row 0 several times copies it.
            front.cache.keep_rows([0] * len(reading.embeds))
        reading.cache = front.cache
    rests = [_Piece(r.cache, r.embeds[:, r.shared :], r.room) for r in readings]
    after = _read(backbone, rests)
    found = []
    for reading, rest, first, last in zip(readings, rests, before, after, strict=True):
        reading.cache = rest.cache
        rows = len(reading.embeds)
        # Each row's states are those of the shared columns followed by its own.
        pairs = [(a.expand(rows, -1, -1), b) for a, b in zip(first or (), last or (), strict=False)]
        found.append(BackboneStates(*map(torch.cat, pairs, [1] * 2)) if pairs else first or last)
    return [states for states in found if states is not None]


def _read(backbone: Backbone, pieces: Sequence[_Piece]) -> list[BackboneStates | None]:
    """Return the states of each piece; None for an empty one."""
    found: dict[int, BackboneStates] = {}
    full = [number for number, piece in enumerate(pieces) if piece.embeds.shape[1]]
    joinable = [number for number in full if isinstance(pieces[number].cache, JoinableCache)]
    # Empty caches have no shape yet, so they can't be joined with filled ones.
    begun, fresh = ([n for n in joinable if bool(pieces[n].cache.length) is held] for held in (True, False))
    for numbers in (begun, fresh):
        if len(numbers) > 1:
            found |= dict(zip(numbers, _read_joined(backbone, [pieces[n] for n in numbers]), strict=True))
    for number in full:
        if number not in found:
            found[number] = backbone(pieces[number].embeds, pieces[number].cache)
    return [found.get(number) for number in range(len(pieces))]


def _read_joined(backbone: Backbone, pieces: Sequence[_Piece]) -> list[BackboneStates]:
    counts = [len(piece.embeds) for piece in pieces]
    joint = pieces[0].cache
    if joint.length:
        assert isinstance(joint, JoinableCache)
        for piece in pieces[1:]:
            joint.join(piece.cache)  # type: ignore[arg-type]
    else:
        joint = backbone.new_cache(sum(counts), max(piece.room for piece in pieces))
    assert isinstance(joint, JoinableCache)
    longest = max(piece.embeds.shape[1] for piece in pieces)
    # Padding goes at the end: no real column attends to it, and the caches are cropped to the real columns.
    embeds = torch.cat([F.pad(piece.embeds, (0, 0, 0, longest - piece.embeds.shape[1])) for piece in pieces])
    states: BackboneStates = backbone(embeds, joint)
    found, first = [], 0
    for piece, rows in zip(pieces, counts, strict=True):
        steps = piece.embeds.shape[1]
        own = [joint.take(row) for row in range(first, first + rows)]
        for cache in own:
            # Crop the padding, which was read as if it were columns.
            cache.crop(cache.length - (longest - steps))
        for cache in own[1:]:
            own[0].join(cache)
        piece.cache = own[0]
        found.append(BackboneStates(*(part[first : first + rows, :steps] for part in states)))
        first += rows
    return found
