"""Caches the keys and values of attention, step by step, in a batch whose rows come and go.

A model that keeps its keys and values in a :class:`KeyValueCache` can be batched by the server, be cropped, and drop
old speech without further work::

    positions = cache.rows.positions(steps, device)  # (B,T)
    seen = cache.rows.seen(steps, device)            # (B,T,L), which slots each new step attends to
    for number, layer in enumerate(layers):
        keys, values = cache.append(number, new_keys, new_values)  # all that is held, (B,H,L,w)
        ...
    cache.advance(steps)

Shapes use these letters: B batch, T new steps, L steps of the longest row (new ones included), H heads, w head width.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from itertools import pairwise
from typing import Self

import torch
from torch import Tensor

_SPARE_STEPS = 64
"""How many steps a full cache grows by at least."""


class Rows:
    """Counts the steps that each row holds, and those dropped from its middle; it holds no tensors.

    A row's steps are in the slots from 0 on. Its next step has the position ``lengths[row] + forgotten[row]``.

    Args:
        count: B.
    """

    def __init__(self, count: int) -> None:
        self.lengths, self.forgotten = [0] * count, [0] * count
        self._gaps = [0] * count  # slot from which each row's steps were dropped

    @property
    def longest(self) -> int:
        return max(self.lengths, default=0)

    @property
    def are_level(self) -> bool:
        """Return whether all rows hold the same number of steps."""
        return min(self.lengths, default=0) == self.longest

    @property
    def are_alike(self) -> bool:
        """Return whether the next steps of all rows have the same slot and the same position."""
        return self.are_level and min(self.forgotten, default=0) == max(self.forgotten, default=0)

    def positions(self, steps: int, device: torch.device | str = "cpu") -> Tensor:
        """Return the positions of the next `steps`, (B,T); (1,T) while all rows are alike."""
        first = [length + gone for length, gone in zip(self.lengths, self.forgotten, strict=True)]
        first = first[:1] if self.are_alike else first
        return torch.tensor(first, device=device)[:, None] + torch.arange(steps, device=device)

    def seen(self, steps: int, device: torch.device | str = "cpu") -> Tensor:
        """Return which slots each of the next `steps` attends to, (B,T,L) bool; (1,T,L) while all rows are level."""
        lengths = self.lengths[:1] if self.are_level else self.lengths
        own = torch.tensor(lengths, device=device)[:, None] + torch.arange(steps, device=device)
        # Causal: step t of a row sees that row's steps, itself included.
        return torch.arange(self.longest + steps, device=device) <= own[:, :, None]

    def advance(self, steps: int | Sequence[int]) -> None:
        """Count `steps` more as held, in all rows or in each."""
        more = [steps] * len(self.lengths) if isinstance(steps, int) else steps
        self.lengths = [length + n for length, n in zip(self.lengths, more, strict=True)]

    def keep(self, rows: Sequence[int]) -> None:
        parts = (self.lengths, self.forgotten, self._gaps)
        self.lengths, self.forgotten, self._gaps = ([part[row] for row in rows] for part in parts)

    def join(self, other: Rows) -> None:
        self.lengths = self.lengths + other.lengths
        self.forgotten, self._gaps = self.forgotten + other.forgotten, self._gaps + other._gaps

    def take(self, row: int) -> Rows:
        """Return a copy of one row."""
        taken = Rows(1)
        taken.join(self)
        taken.keep([1 + row])
        return taken

    def crop(self, length: int | Sequence[int]) -> None:
        """Drop all steps after the first `length`, which may be given for each row."""
        most = [length] * len(self.lengths) if isinstance(length, int) else length
        self.lengths = [min(pair) for pair in zip(self.lengths, most, strict=True)]
        # A crop at or before the gap closes it, so positions go on without one.
        kept = zip(self.lengths, self._gaps, self.forgotten, strict=True)
        self.forgotten = [gone if held > gap else 0 for held, gap, gone in kept]

    def forget(self, first: int, stop: int) -> None:
        """Drop the steps from `first` up to `stop` (exclusive); later ones keep their positions.

        Raises:
            ValueError: a row is too short, or already has a gap elsewhere.
        """
        if min(self.lengths) < stop:
            raise ValueError(f"steps {first} to {stop} can't be left out of a row of {min(self.lengths)}")
        if any(gone and gap != first for gone, gap in zip(self.forgotten, self._gaps, strict=True)):
            raise ValueError(f"steps are left out already, and not from {first} on; there can be only one gap")
        self.lengths = [length - (stop - first) for length in self.lengths]
        self.forgotten = [gone + stop - first for gone in self.forgotten]
        self._gaps = [first] * len(self._gaps)


class KeyValueCache:
    """Holds the keys and values of a model's layers; implements ``JoinableCache`` and ``ForgetfulCache``.

    Memory for `max_steps` is reserved at once, and grows when more come. When joining rows find no room, it is copied
    once into memory for twice as many. A layer's memory is allocated when its first keys arrive, so its shape needn't
    be declared and may differ by layer.

    Attributes:
        rows: Counts what each row holds.
        layers: By layer, (2, room for rows, H, room for steps, w): keys, then values. Use :meth:`append` to fill them.
        shared: How many steps in front are the same in all rows, because one row was copied to make them.
        near: What a decoder lays out differently for its single steps; None after any other change.

    Args:
        batch_size: B.
        max_steps: How many steps are expected.
        dtype: The dtype in which keys and values are kept; None keeps the one they come in.
    """

    def __init__(self, batch_size: int, max_steps: int = 0, dtype: torch.dtype | None = None) -> None:
        self.rows = Rows(batch_size)
        self.layers: dict[Hashable, Tensor] = {}
        self.shared = 0
        self.near: object | None = None
        self._max_steps, self.dtype = max_steps, dtype
        self._places: dict[tuple[int, torch.Size], Tensor] = {}
        # Whether unused slots hold finite numbers: once rows differ in length, they are read with weight zero.
        self._is_clean = False

    @property
    def length(self) -> int:
        return self.rows.longest

    def append(self, layer: Hashable, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Add a layer's next steps, (B,H,T,w); return all of its steps, (B,H,L,w).

        Call :meth:`advance` once after all layers. Slots after a row's own end hold arbitrary finite numbers.
        """
        held = self.write(layer, torch.stack([keys, values]))
        return held[0], held[1]

    def write(self, layer: Hashable, new: Tensor) -> Tensor:
        """Do what :meth:`append` does with keys and values in one tensor, (2,B,H,T,w) -> (2,B,H,L,w).

        A layer that caches something else may pass any number of parts instead of two.
        """
        # Writing into the memory would overwrite what the backward pass needs.
        if new.requires_grad and torch.is_grad_enabled():
            return self._write_with_gradient(layer, new)
        lengths, steps = self.rows.lengths, new.shape[3]
        count, length = len(lengths), max(lengths, default=0)
        memory = self._memory(layer, new, length + steps)
        if min(lengths, default=0) < length:
            # (parts, rows * H * slots, w): rows differ in length, so each new step goes to its own slot.
            flat = memory.view(len(memory), -1, memory.shape[4])
            flat.index_copy_(1, self._slots(memory, steps), new.reshape(len(new), -1, new.shape[4]).to(memory.dtype))
            return memory[:, :count, :, : length + steps]
        held = memory if count == memory.shape[1] else memory[:, :count]
        held.narrow(3, length, steps).copy_(new)
        return held.narrow(3, 0, length + steps)

    def held(self, layer: Hashable) -> Tensor:
        """Return what is held of a layer, (2,B,H,L,w)."""
        return self.layers[layer][:, : len(self.rows.lengths), :, : self.length]

    def advance(self, steps: int | Sequence[int]) -> None:
        """Count the appended steps as held, once for all layers; if `steps` differs by row, the first ones count."""
        self.rows.advance(steps)
        self._places.clear()
        self._clean()

    def make_room(self, steps: int) -> None:
        """Grow the memory now if the next `steps` wouldn't fit, so that it doesn't move while they are appended."""
        for layer, memory in list(self.layers.items()):
            self._memory(layer, memory, self.length + steps)

    def keep_rows(self, rows: Sequence[int]) -> None:
        """Keep these batch rows, in this order; a row that is named twice is copied."""
        rows = list(rows)
        for layer, memory in self.layers.items():
            self.layers[layer] = self._kept(memory, rows)
        # Rows of equal length that are reordered are copied into uninitialised memory (see `_kept`).
        self._is_clean &= all(a < b for a, b in pairwise(rows)) or not self.rows.are_level
        # If all rows are copies of one, all that it holds is shared.
        self.shared = self.length if len(set(rows)) == 1 else self.shared
        self.rows.keep(rows)
        self._change()

    def crop(self, length: int | Sequence[int]) -> None:
        """Drop all steps after the first `length`, which may be given for each row."""
        self.rows.crop(length)
        self.shared = min(self.shared, self.length)
        self._change()

    def forget(self, first: int, stop: int) -> None:
        """Drop the steps from `first` up to `stop` (exclusive); all others keep their positions.

        Raises:
            ValueError: a row is too short, or already has a gap elsewhere.
        """
        if first == stop:
            return
        length = self.length
        self.rows.forget(first, stop)
        for memory in self.layers.values():  # one at a time: what moves may overlap, so it is copied
            memory[..., first : first + length - stop, :] = memory[..., stop:length, :].clone()
        self.shared = min(self.shared, first)
        self._change()

    def join(self, other: Self) -> None:
        mine, total = len(self.rows.lengths), len(self.rows.lengths) + len(other.rows.lengths)
        for layer in {**self.layers, **other.layers}:
            memory, theirs = (cache.layers.get(layer) for cache in (self, other))
            shapes = [part.shape for part in (memory, theirs) if part is not None]
            capacity, slots = 0 if memory is None else memory.shape[1], max(shape[3] for shape in shapes)
            # Copy once if there is no room, or if unused slots may hold NaN, which a joined row would read.
            if memory is None or not self._is_clean or capacity < total or memory.shape[3] < slots:
                capacity = capacity if capacity >= total else max(total, 2 * capacity)
                memory = self._laid_out(other.layers[layer][:, :0] if memory is None else memory, capacity, slots)
                self.layers[layer] = memory
            if theirs is not None:
                memory[:, mine:total, :, : other.length] = other.held(layer)
        # The copy or the check above left only finite numbers, and rows now begin differently.
        self._is_clean, self.shared = True, 0
        self.rows.join(other.rows)
        self._change()

    def take(self, row: int) -> Self:
        """Return a cache of this row alone, with no more room than it needs."""
        taken = type(self)(1, 0, self.dtype)
        taken.rows = self.rows.take(row)
        taken.shared = taken.length
        with torch.inference_mode(False):
            for layer in self.layers:
                taken.layers[layer] = self.held(layer)[:, row : row + 1, :, : taken.length].clone()
        return taken

    def _change(self) -> None:
        self.near = None
        self._places.clear()
        self._clean()

    def _clean(self) -> None:
        if self.rows.are_level or self._is_clean:
            return
        for memory in self.layers.values():
            # Memory that gradients flow through has no spare slots, and must not be overwritten.
            for row, length in enumerate([] if memory.requires_grad else self.rows.lengths):
                memory[:, row, :, length:].zero_()
        self._is_clean = True

    def _memory(self, layer: Hashable, like: Tensor, slots: int) -> Tensor:
        """Return a layer's memory with room for the rows of `like` and `slots` steps, growing it if needed."""
        memory = self.layers.get(layer)
        parts, count, heads, _, width = like.shape
        if memory is not None and slots <= memory.shape[3] and count <= memory.shape[1] and not memory.requires_grad:
            return memory
        if memory is None:
            with torch.inference_mode(False):  # inference tensors can't change outside of that mode
                # Empty memory isn't touched, so reserved steps take no time until they are used.
                make = torch.zeros if self._is_clean else torch.empty
                shape = (parts, count, heads, max(slots, self._max_steps), width)
                memory = make(shape, dtype=self.dtype or like.dtype, device=like.device)
        else:
            # Growing by half each time keeps the copying linear in the number of steps.
            memory = self._laid_out(memory, max(count, memory.shape[1]), slots + max(_SPARE_STEPS, slots // 2))
        self.layers[layer] = memory
        return memory

    def _laid_out(self, memory: Tensor, capacity: int, slots: int) -> Tensor:
        """Return a copy with more room, whose unused slots are zero."""
        count = min(len(self.rows.lengths), memory.shape[1])
        with torch.inference_mode(False), torch.no_grad():
            room = memory.new_zeros(len(memory), capacity, memory.shape[2], slots, memory.shape[4])
            room[:, :count, :, : self.length] = memory[:, :count, :, : self.length]
        return room

    def _kept(self, memory: Tensor, rows: list[int]) -> Tensor:
        if len(rows) == 1 or rows == list(range(len(rows))):
            return memory[:, rows[0] if rows else 0 :]  # nothing is copied
        length = self.length
        if all(a < b for a, b in pairwise(rows)):
            # Rows that only move up stay in this memory, which keeps room for rows that join.
            for place, row in enumerate(rows):
                if place != row:
                    memory[:, place, :, :length] = memory[:, row, :, :length]
            return memory
        with torch.inference_mode(False):
            make = memory.new_empty if self.rows.are_level else memory.new_zeros
            kept = make(len(memory), len(rows), *memory.shape[2:])
            kept[:, :, :, :length] = memory[:, torch.tensor(rows, device=memory.device), :, :length]
        return kept

    def _slots(self, memory: Tensor, steps: int) -> Tensor:
        """Return where the new steps of rows of unequal length go, (B*H*T,), as indices over rows, heads and slots."""
        key = (steps, memory.shape)
        if key not in self._places:
            heads, slots = memory.shape[2:4]
            first = torch.tensor(self.rows.lengths)
            lines = torch.arange(len(first))[:, None] * heads + torch.arange(heads)
            places = (lines * slots + first[:, None])[:, :, None] + torch.arange(steps)
            self._places[key] = places.flatten().to(memory.device)
        return self._places[key]

    def _write_with_gradient(self, layer: Hashable, new: Tensor) -> Tensor:
        """Do what :meth:`write` does on a copy, because tensors that gradients flow through mustn't be overwritten."""
        if not self.rows.are_level:
            raise ValueError("rows of unequal length can't be trained in one cache")
        held = torch.cat([self.held(layer), new], dim=3) if self.length else new
        self.layers[layer] = held
        return held
