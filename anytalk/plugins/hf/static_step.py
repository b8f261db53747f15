"""Steps of fixed shapes, for GPUs: what a CUDA graph can record once and replay without asking the CPU anything.

A step of a small model is hundreds of short kernels; a GPU waits for the CPU to start each. Recorded as a graph they
are one start. For that nothing may depend on the length of the conversation: the step looks at the whole cache, a mask
hides what isn't held, and slot and position are numbers on the device. On a CPU the same step runs without a graph,
which is how ``tests/test_static_step.py`` compares it with the lean decoder.

Letters: B batch, D width, H key and value heads, G query heads for each of them, w head width, M steps of the cache.
"""

from __future__ import annotations

import weakref
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional as F

from anytalk.plugins.contracts import BackboneStates
from anytalk.plugins.hf.fixed_cache import FixedCache
from anytalk.plugins.hf.lean import LeanDecoder, _normed, _rotate

_WARM_UPS = 3
"""Runs before a graph is recorded, in which libraries choose their kernels."""


class StaticDecoder(LeanDecoder):
    """A lean decoder whose steps of one column have fixed shapes; prompts run as ever."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._steps: weakref.WeakKeyDictionary[FixedCache, StaticStep] = weakref.WeakKeyDictionary()

    def forward(self, hidden: Tensor, cache: FixedCache | None = None) -> BackboneStates:
        """As :class:`LeanDecoder`; the states of a single step are overwritten by the next one."""
        if cache is None or hidden.shape[1] != 1 or getattr(cache, "empty", None) is not None:
            return super().forward(hidden, cache)
        step = self._steps.get(cache)
        if step is None or not step.fits(cache):
            step = self._steps[cache] = StaticStep(self, cache)
        cache.reserve(1)
        return step(hidden, cache.length - 1, cache.length - 1 + cache.forgotten)


class StaticStep:
    """One column through all layers, on tensors that stay where they are.

    Args:
        decoder: Whose matrices.
        cache: Whose memory; what it doesn't hold yet is cleared, since hidden values are multiplied by zero, and zero
            times what is no number is no number.
    """

    def __init__(self, decoder: LeanDecoder, cache: FixedCache) -> None:
        self._decoder, self._store = weakref.proxy(decoder), cache.store
        device = cache.store.device
        cache.store[..., cache.length :, :].zero_()
        # Positions run past the memory where steps were left out of it.
        self._num_positions = max(cache.max_steps, 2 * (cache.length + cache.forgotten))
        self._cos, self._sin = decoder._turn(0, self._num_positions, decoder.norm)
        self._slots = torch.arange(cache.max_steps, device=device)
        self._slot = torch.zeros(1, dtype=torch.int64, device=device)
        self._position = torch.zeros(1, dtype=torch.int64, device=device)
        self._input = decoder.norm.new_zeros(cache.store.shape[2], 1, decoder.width)
        self._output: BackboneStates | None = None
        self._graph: Any = None

    def fits(self, cache: FixedCache) -> bool:
        """Whether the cache still is the memory that this step was made for, and its next position is known."""
        if cache.length + cache.forgotten >= self._num_positions:
            return False
        return self._store.data_ptr() == cache.store.data_ptr() and self._store.shape == cache.store.shape

    @torch.no_grad()
    def __call__(self, hidden: Tensor, slot: int, position: int) -> BackboneStates:
        """(B,1,D) -> its states; the returned tensors are overwritten by the next call on a GPU."""
        self._input.copy_(hidden)
        self._slot.fill_(slot)
        self._position.fill_(position)
        if not hidden.is_cuda:
            return self._compute()
        if self._graph is None:
            self._record()
        self._graph.replay()
        return cast("BackboneStates", self._output)

    def _record(self) -> None:
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
        decoder, hidden = self._decoder, self._input
        cos, sin = (table.index_select(0, self._position) for table in (self._cos, self._sin))  # (1,1,w)
        # (M,): 0 where the step may look, minus infinity elsewhere.
        hides = torch.zeros_like(self._slots, dtype=hidden.dtype).masked_fill_(self._slots > self._slot, -torch.inf)
        for number, layer in enumerate(decoder.layers):
            hidden = self._layer(layer, self._store[number], hidden, (cos, sin), hides)
        return BackboneStates(hidden, _normed(hidden, decoder.norm, decoder.eps))

    def _layer(self, layer: Any, memory: Tensor, hidden: Tensor, turn: tuple[Tensor, Tensor], hides: Tensor) -> Tensor:
        """(B,1,D) -> (B,1,D), as ``_LeanLayer``, with slot and position on the device."""
        heads, group, batch = self._decoder.num_heads, self._decoder.group, hidden.shape[0]
        mixed = layer.qkv(_normed(hidden, layer.norm_1, layer.eps)).view(batch, 1, (group + 2) * heads, -1)
        _rotate(mixed[:, :, : (group + 1) * heads], *turn)
        query = mixed[:, 0, : group * heads].view(batch, heads, group, -1)
        held = mixed[:, :, group * heads :].view(batch, 1, 2, heads, -1).permute(2, 0, 3, 1, 4)
        memory.index_copy_(3, self._slot, held)
        heard = F.scaled_dot_product_attention(query, memory[0], memory[1], attn_mask=hides.expand(group, -1))
        hidden = hidden + layer.out(heard.reshape(batch, 1, -1))
        gate, up = layer.gate_up(_normed(hidden, layer.norm_2, layer.eps)).chunk(2, dim=-1)
        return hidden + cast("Tensor", layer.down(F.silu(gate).mul_(up)))
