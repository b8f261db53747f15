"""Inspects and fills caches for the benches: how much memory they reserve, and late steps without a long prompt."""

from __future__ import annotations

import torch

from anytalk.plugins.caches import KeyValueCache
from anytalk.plugins.contracts import Cache


def num_bytes(cache: Cache | None) -> int:
    """Return how many bytes a :class:`KeyValueCache` reserves; 0 for other caches, which reserve none."""
    if not isinstance(cache, KeyValueCache):
        return 0
    return sum(memory.numel() * memory.element_size() for memory in cache.layers.values())


def pretend(cache: KeyValueCache, length: int) -> None:
    """Extend a cache with noise to `length` steps, so that a late step can be timed without reading so much.

    The cache's rows must be equally long and hold at least one step.
    """
    # The first step has given each layer its shape.
    steps = length - cache.length
    for layer in list(cache.layers):
        held = cache.held(layer)
        noise = torch.randn((*held.shape[:3], steps, held.shape[4]), device=held.device)
        cache.write(layer, noise.to(held.dtype))
    cache.advance(steps)
