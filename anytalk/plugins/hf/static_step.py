"""Runs decoding steps of fixed shapes on GPUs, so that a CUDA graph can record one and replay it without the CPU.

A step of a small model is hundreds of short kernels, and the GPU waits for the CPU to start each one. Recorded as a
graph, they are started at once. For that, nothing may depend on the length of the conversation: the step attends to the
whole cache, a mask hides what isn't held, and slot and position are numbers on the device. On a CPU the same step runs
without a graph, which is how ``tests/test_static_step.py`` compares it with the lean decoder.

Letters: B batch, D width, H key and value heads, G query heads for each of them, w head width, M steps of the cache.
"""

from __future__ import annotations

import weakref
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional as F

from anytalk.plugins.caches import KeyValueCache
from anytalk.plugins.contracts import BackboneStates
from anytalk.plugins.hf.lean import LeanDecoder

_WARM_UPS = 3
"""How often a step runs before it is recorded, so that libraries choose their kernels first."""


class StaticDecoder(LeanDecoder):
    """A lean decoder whose single steps have fixed shapes; prompts run as usual."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._steps: weakref.WeakKeyDictionary[KeyValueCache, StaticStep] = weakref.WeakKeyDictionary()

    def forward(self, hidden: Tensor, cache: KeyValueCache | None = None) -> BackboneStates:
        """Run like :class:`LeanDecoder`; a single step's states are overwritten by the next one."""
        # One slot and one position are recorded, so rows must be alike.
        if cache is None or hidden.shape[1] != 1 or not cache.length or not cache.rows.are_alike:
            return super().forward(hidden, cache)
        cache.make_room(1)
        step = self._steps.get(cache)
        if step is None or not step.fits(cache):
            step = self._steps[cache] = StaticStep(self, cache)
        states = step(hidden, cache.length, cache.length + cache.rows.forgotten[0])
        cache.advance(1)
        return states


class StaticStep:
    """Runs one step through all layers, on tensors that never move.

    Args:
        decoder: The decoder whose matrices are used.
        cache: The cache whose memory is used. Its unused slots are cleared, because hidden values are multiplied by
            zero, and zero times NaN is NaN.
    """

    def __init__(self, decoder: LeanDecoder, cache: KeyValueCache) -> None:
        # The decoder keeps its steps, so a plain reference back would be a cycle.
        self._decoder, self._store = weakref.proxy(decoder), _memories(cache)
        for memory in self._store:
            memory[:, :, :, cache.length :].zero_()
        slots, device = self._store[0].shape[3], self._store[0].device
        # Positions exceed the slots once steps were dropped from the cache's middle.
        # Twice as many as now, so that it isn't recorded again soon after steps were dropped.
        self._num_positions = max(slots, 2 * (cache.length + cache.rows.forgotten[0]))
        self._cos, self._sin = decoder.angles(self._num_positions, decoder.norm)
        self._slots = torch.arange(slots, device=device)
        self._slot = torch.zeros(1, dtype=torch.int64, device=device)
        self._position = torch.zeros(1, dtype=torch.int64, device=device)
        self._input = decoder.norm.new_zeros(self._store[0].shape[1], 1, decoder.width)
        self._output: BackboneStates | None = None
        self._graph: Any = None

    def fits(self, cache: KeyValueCache) -> bool:
        """Return whether the cache still has the memory that this step was made for, and knows its next position."""
        if cache.length + cache.rows.forgotten[0] >= self._num_positions:
            return False
        pairs = zip(self._store, _memories(cache), strict=True)
        return all(old.data_ptr() == new.data_ptr() and old.shape == new.shape for old, new in pairs)

    @torch.no_grad()
    def __call__(self, hidden: Tensor, slot: int, position: int) -> BackboneStates:
        """Compute the states of one step, (B,1,D) each; on a GPU, the next call overwrites them."""
        # A graph reads and writes fixed addresses, so the inputs are copied there.
        self._input.copy_(hidden)
        self._slot.fill_(slot)
        self._position.fill_(position)
        # The CPU has no graphs; it runs the same tensors directly, which tests rely on.
        if not hidden.is_cuda:
            return self._compute()
        if self._graph is None:
            self._record()
        self._graph.replay()
        return cast("BackboneStates", self._output)

    def _record(self) -> None:
        # PyTorch asks for warm-up runs on a side stream before a graph is captured.
        side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(_WARM_UPS):
                self._compute()
        torch.cuda.current_stream().wait_stream(side)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self._output = self._compute()

    def _compute(self) -> BackboneStates:
        cos, sin = (table.index_select(0, self._position) for table in (self._cos, self._sin))  # (1,1,w)
        # (M,), 0 for slots that the step attends to, minus infinity for others.
        hides = torch.zeros_like(self._slots, dtype=self._input.dtype)
        hides.masked_fill_(self._slots > self._slot, -torch.inf)

        def look(number: int, query: Tensor, new: Tensor) -> Tensor:
            memory = self._store[number].index_copy_(3, self._slot, new)
            mask = hides.expand(query.shape[2], -1)
            return F.scaled_dot_product_attention(query, memory[0], memory[1], attn_mask=mask)

        return cast("BackboneStates", self._decoder.run_layers(self._input, (cos, sin), look))


def _memories(cache: KeyValueCache) -> list[Tensor]:
    """Return each layer's memory, (2,B,H,M,w)."""
    return [memory[:, : len(cache.rows.lengths)] for memory in cache.layers.values()]
