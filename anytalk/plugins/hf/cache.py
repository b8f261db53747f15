"""Adapts transformers' ``DynamicCache``, so that rows can join and leave it and steps can be dropped."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from anytalk.plugins.caches import Rows


class HFCache:
    """Implements :class:`anytalk.plugins.contracts.Cache`, and the optional contracts if its decoder allows.

    It is made without the model's config on purpose: full-length layers can always be cropped, and the model's mask
    still applies sliding windows.

    Args:
        joins: Whether to implement ``JoinableCache`` too.
        forgets: Whether to implement ``ForgetfulCache`` too.
    """

    def __init__(self, batch_size: int, joins: bool = False, forgets: bool = False) -> None:
        self.kv = DynamicCache()
        self.rows = Rows(batch_size)
        self._abilities = (joins, forgets)
        # As with `__hash__`, None says that there is no such method; `isinstance(cache, JoinableCache)` is then false.
        for name in (*(() if joins else ("join", "take")), *(() if forgets else ("forget",))):
            setattr(self, name, None)

    @property
    def length(self) -> int:
        return self.rows.longest

    @property
    def _layers(self) -> list[Any]:
        """Return the layers with their `keys` and `values`, (B,H,T,w); transformers' types allow other kinds too."""
        return cast("list[Any]", self.kv.layers)

    def keep_rows(self, rows: Sequence[int]) -> None:
        """Keep these batch rows, in this order, and drop the slots that are empty in all of them."""
        before = self.length
        self.kv.batch_select_indices(torch.as_tensor(list(rows), dtype=torch.int64))
        self.rows.keep(rows)
        # The longest row may be gone; then all rows have empty slots in front.
        spare = before - self.length
        for layer in self._layers if spare else []:
            layer.keys, layer.values = layer.keys[:, :, spare:], layer.values[:, :, spare:]

    def crop(self, length: int) -> None:
        """Drop all steps after the first `length` of each row, and what a failed call left in some layers."""
        before = self.rows.lengths
        self.rows.crop(length)
        self._lay_out([[(0, n)] for n in self.rows.lengths], before)

    def forget(self, first: int, stop: int) -> None:
        """Drop the steps from `first` up to `stop` (exclusive); all others keep their positions.

        Raises:
            ValueError: a row is too short, or already has a gap elsewhere.
        """
        if first != stop:
            before = self.rows.lengths
            self.rows.forget(first, stop)
            self._lay_out([[(0, first), (stop, n)] for n in before], before)

    def join(self, other: HFCache) -> None:
        self.rows.join(other.rows)
        for mine, theirs in zip(self._layers, other._layers, strict=True):
            for name in ("keys", "values"):
                parts = getattr(mine, name), getattr(theirs, name)
                setattr(mine, name, torch.cat([_padded(part, self.rows.longest) for part in parts]))

    def take(self, row: int) -> HFCache:
        taken = HFCache(1, *self._abilities)
        taken.rows = self.rows.take(row)
        first = self.length - taken.length
        for number, layer in enumerate(self._layers):
            keys, values = (part[row : row + 1, :, first : self.length].clone() for part in (layer.keys, layer.values))
            # A DynamicCache makes its layers when they are first updated.
            taken.kv.update(keys, values, number)
        return taken

    def places(self, steps: int) -> dict[str, Tensor]:
        """Return a decoder's arguments for the next steps; none while all rows are equally long and without gaps."""
        rows = self.rows
        if rows.are_level and not any(rows.forgotten):
            return {}
        device = self._layers[0].keys.device
        # Shorter rows are padded in front, not after their ends as elsewhere: the masks of sliding windows count slots
        # back from the newest one, which must therefore be the same slot in all rows.
        empty = self.length - torch.tensor(rows.lengths, device=device)[:, None]
        slots = torch.arange(self.length + steps, device=device)[None]
        positions = rows.positions(steps, device).expand(len(rows.lengths), -1)
        return {"attention_mask": (slots >= empty).long(), "position_ids": positions}

    def _lay_out(self, kept: list[list[tuple[int, int]]], lengths: list[int]) -> None:
        """Keep these spans of steps of each row, whose lengths were `lengths`."""
        longest = max(lengths)
        for layer in self._layers:
            for name in ("keys", "values"):
                held = getattr(layer, name)
                rows = []
                for row, (spans, count) in enumerate(zip(kept, lengths, strict=True)):
                    # Rows are padded in front. Slots after `longest` come from a failed call, and are dropped.
                    own = held[row : row + 1, :, longest - count : longest]
                    pieces = torch.cat([own[:, :, first:stop] for first, stop in spans], dim=2)
                    rows.append(_padded(pieces, self.length))
                setattr(layer, name, torch.cat(rows))


def _padded(part: Tensor, length: int) -> Tensor:
    """Pad (B,H,n,w) with zeros in front to (B,H,length,w)."""
    return nn.functional.pad(part, (0, 0, length - part.shape[2], 0))


def new_hf_cache(decoder: nn.Module, batch_size: int) -> HFCache:
    """Return a cache with every optional contract that this transformers decoder supports.

    Rows of unequal length need their own positions, and a gap needs attention that depends on positions alone.
    """
    # The decoder's config and signature tell whether its masks and positions can be given from outside.
    config: Any = decoder.config
    slides = getattr(config, "sliding_window", None) is not None
    kinds = set(getattr(config, "layer_types", None) or {"sliding_attention" if slides else "full_attention"})
    takes = inspect.signature(decoder.forward).parameters
    if "chunked_attention" in kinds or "position_ids" not in takes or "attention_mask" not in takes:
        return HFCache(batch_size)
    # ALiBi measures distances in cached steps, so a gap would change them.
    forgets = kinds == {"full_attention"} and not getattr(config, "alibi", False)
    return HFCache(batch_size, joins=True, forgets=forgets)
