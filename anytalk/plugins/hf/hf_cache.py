"""Caches for decoders that transformers runs: its ``DynamicCache``, with rows that come and go, and steps left out."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import DynamicCache


class HFCache:
    """Fulfils :class:`anytalk.plugins.contracts.Cache` with a transformers ``DynamicCache``.

    Made without the model's config on purpose: full-length layers can always be cropped, and sliding windows are
    still applied by the model's mask.
    """

    def __init__(self) -> None:
        self.kv = DynamicCache()

    @property
    def length(self) -> int:
        """Steps held."""
        return int(self.kv.get_seq_length())

    def keep_rows(self, rows: Sequence[int]) -> None:
        """Keep these batch rows, in this order."""
        self.kv.batch_select_indices(torch.as_tensor(list(rows), dtype=torch.int64))

    def crop(self, length: int) -> None:
        """Forget all steps after the first `length`."""
        if length < self.length:
            self.kv.crop(length - self.length)


class RaggedCache(HFCache):
    """Fulfils :class:`anytalk.plugins.contracts.JoinableCache`: shorter rows are padded in front.

    Attributes:
        empty: For each row, slots in front that hold nothing; None while no row was joined.
    """

    def __init__(self) -> None:
        super().__init__()
        self.empty: list[int] | None = None

    @property
    def _layers(self) -> list[Any]:
        """With their tensors `keys` and `values`, (B,H,T,w); transformers types them for other kinds of layers, too."""
        return cast("list[Any]", self.kv.layers)

    def join(self, other: RaggedCache) -> None:
        """Add the rows of another cache behind these; the other one is used up."""
        longest = max(self.length, other.length)
        self.empty = [n + longest - c.length for c in (self, other) for n in c._empty_slots()]
        for mine, theirs in zip(self._layers, other._layers, strict=True):
            mine.keys = torch.cat([_padded(mine.keys, longest), _padded(theirs.keys, longest)])
            mine.values = torch.cat([_padded(mine.values, longest), _padded(theirs.values, longest)])

    def take(self, row: int) -> RaggedCache:
        """A cache of this row alone."""
        taken, first = type(self)(), self._empty_slots()[row]
        for number, layer in enumerate(self._layers):
            keys, values = (part[row : row + 1, :, first:].clone() for part in (layer.keys, layer.values))
            taken.kv.update(keys, values, number)
        return taken

    def keep_rows(self, rows: Sequence[int]) -> None:
        """Keep these batch rows, in this order; slots that are empty in all of them are given up."""
        super().keep_rows(rows)
        if self.empty is None:
            return
        kept = [self.empty[row] for row in rows]
        spare = min(kept, default=0)
        self.empty = [n - spare for n in kept] if any(n > spare for n in kept) else None
        if spare:
            for layer in self._layers:
                layer.keys, layer.values = layer.keys[:, :, spare:], layer.values[:, :, spare:]

    def places(self, steps: int) -> dict[str, Tensor]:
        """What a decoder must be told about the next steps: nothing while all rows are equally long."""
        if self.empty is None:
            return {}
        device = self._layers[0].keys.device
        empty = torch.tensor(self.empty, device=device)[:, None]
        slots = torch.arange(self.length + steps, device=device)[None]
        return {"attention_mask": (slots >= empty).long(), "position_ids": slots[:, self.length :] - empty}

    def _empty_slots(self) -> list[int]:
        return self.empty or [0] * int(self._layers[0].keys.shape[0])


class FullCache(RaggedCache):
    """Also fulfils :class:`anytalk.plugins.contracts.ForgetfulCache`: for layers that look at all that is held.

    Windows and chunks would be counted in steps held, not in positions.
    """

    def __init__(self) -> None:
        super().__init__()
        self._forgotten = self._first_forgotten = 0

    def forget(self, first: int, stop: int) -> None:
        """Leave out the steps from `first` to before `stop`; all others keep their positions.

        Raises:
            ValueError: rows of unequal length, or others were left out elsewhere before.
        """
        if first == stop:
            return
        if self.empty is not None or (self._forgotten and first != self._first_forgotten):
            raise ValueError("steps can't be left out of rows of unequal length, or at more than one place")
        for layer in self._layers:
            layer.keys, layer.values = (
                torch.cat([part[:, :, :first], part[:, :, stop:]], dim=2) for part in (layer.keys, layer.values)
            )
        self._forgotten, self._first_forgotten = self._forgotten + stop - first, first

    def crop(self, length: int) -> None:
        """Forget all steps after the first `length`."""
        super().crop(length)
        if self.length <= self._first_forgotten:
            self._forgotten = 0

    def join(self, other: RaggedCache) -> None:
        """As of every ragged cache.

        Raises:
            ValueError: steps were left out of the middle of one of them.
        """
        if self._forgotten or (isinstance(other, FullCache) and other._forgotten):
            raise ValueError("caches that steps were left out of can't be joined")
        super().join(other)

    def places(self, steps: int) -> dict[str, Tensor]:
        """What a decoder must be told about the next steps."""
        if not self._forgotten:
            return super().places(steps)
        held, keys = self.length, self._layers[0].keys
        mask = torch.ones(keys.shape[0], held + steps, dtype=torch.int64, device=keys.device)
        first = held + self._forgotten
        return {
            "attention_mask": mask,
            "position_ids": torch.arange(first, first + steps, device=keys.device)[None].expand(keys.shape[0], -1),
        }


def _padded(part: Tensor, length: int) -> Tensor:
    """(B,H,n,w) -> (B,H,length,w), zeros in front."""
    return nn.functional.pad(part, (0, 0, length - part.shape[2], 0))


def new_hf_cache(decoder: nn.Module) -> HFCache:
    """The most able cache that this transformers decoder can be trusted with.

    Rows of unequal length need positions of their own, and attention that only looks at distances in the cache.
    """
    config: Any = decoder.config
    slides = getattr(config, "sliding_window", None) is not None
    kinds = set(getattr(config, "layer_types", None) or {"sliding_attention" if slides else "full_attention"})
    takes = inspect.signature(decoder.forward).parameters
    if "chunked_attention" in kinds or "position_ids" not in takes or "attention_mask" not in takes:
        return HFCache()
    # ALiBi counts distances in steps held.
    return FullCache() if kinds == {"full_attention"} and not getattr(config, "alibi", False) else RaggedCache()
