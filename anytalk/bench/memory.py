"""What the benches ask of caches: how much memory they reserve, and to hold steps that nobody has read."""

from __future__ import annotations

import torch

from anytalk.plugins.caches import KeyValueCache
from anytalk.plugins.contracts import Cache


def num_bytes(cache: Cache | None) -> int:
    """Return memory that a :class:`KeyValueCache` reserves; 0 for others, which don't reserve any."""
    if not isinstance(cache, KeyValueCache):
        return 0
    return sum(memory.numel() * memory.element_size() for memory in cache.layers.values())


def pretend(cache: KeyValueCache, length: int) -> None:
    """Hold noise up to `length` steps, as if they had been read: how a late step is timed without reading so much.

    The rows of the cache are equally long, and hold at least one step.
    """
    steps = length - cache.length
    for layer in list(cache.layers):
        held = cache.held(layer)
        noise = torch.randn((*held.shape[:3], steps, held.shape[4]), device=held.device)
        cache.write(layer, noise.to(held.dtype))
    cache.advance(steps)
