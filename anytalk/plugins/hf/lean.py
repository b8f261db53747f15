"""The decoder of Llama (arXiv 2302.13971) and Qwen2 (arXiv 2407.10671) with nothing around the arithmetic.

What transformers computes, in fewer and larger operations, for steps of one or two rows: queries, keys and values are
one matrix, gate and up another; the cache is fixed memory; heads that share keys are rows of one attention instead of
copies of the keys. ``tests/test_lean.py`` compares it with transformers.

Letters: B batch, T steps, D width, H key and value heads, G query heads for each of them, w head width, L steps held.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from anytalk.kernels import balance, make_matrix
from anytalk.plugins.contracts import Arithmetic, BackboneStates, Peaks
from anytalk.plugins.hf import attention
from anytalk.plugins.hf.attention import Attention, Near, half_is_fast
from anytalk.plugins.hf.fixed_cache import FixedCache
from anytalk.plugins.hf.slot_cache import SlotCache, ragged_places

_FAMILIES = ("llama", "qwen2")
_ROPE_TYPES = ("default", "linear", "llama3", "yarn")
"""Rotations that depend on the position alone, not on how long the text is."""
_TURNS = 2048
"""Positions whose angles are computed at once, at least."""


def can_be_lean(decoder: nn.Module) -> bool:
    """Whether :class:`LeanDecoder` computes what this transformers decoder computes."""
    config: Any = getattr(decoder, "config", None)
    if config is None or config.model_type not in _FAMILIES or config.hidden_act != "silu":
        return False
    rope = getattr(config, "rope_parameters", None) or {}
    if rope.get("rope_type", "default") not in _ROPE_TYPES or getattr(config, "pretraining_tp", 1) != 1:
        return False
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    linears = [m for m in cast("Any", decoder).layers.modules() if isinstance(m, nn.Linear)]
    # Adapters of peft and the like put other classes in the place of nn.Linear.
    return kinds == {"full_attention"} and len(linears) == 7 * len(cast("Any", decoder).layers)


class LeanDecoder(nn.Module):
    """Layers and final norm of a transformers decoder, for inference only.

    Args:
        decoder: ``LlamaModel`` or ``Qwen2Model`` for which :func:`can_be_lean` holds; not changed.
        arithmetic: Of its matrices.
        peaks: See :func:`anytalk.kernels.make_ready`.
    """

    def __init__(self, decoder: nn.Module, arithmetic: Arithmetic, peaks: Peaks | None = None) -> None:
        super().__init__()
        source: Any = decoder
        config = source.config
        self.num_heads = int(config.num_key_value_heads)
        self.group = int(config.num_attention_heads) // self.num_heads
        first = source.layers[0].self_attn.q_proj.weight
        self.head_width = int(first.shape[0]) // int(config.num_attention_heads)
        self.width = int(first.shape[1])
        self.rotary = source.rotary_emb
        self.layers = nn.ModuleList(_LeanLayer(layer, arithmetic, peaks or {}) for layer in source.layers)
        self.norm = nn.Parameter(source.norm.weight.detach().clone(), requires_grad=False)
        self.eps = float(source.norm.variance_epsilon)
        self.memory_dtype = torch.bfloat16 if arithmetic == "int8" and half_is_fast() else self.norm.dtype
        self._attend = Attention()
        self._turns: tuple[Tensor, Tensor] | None = None

    def new_cache(self, batch_size: int, max_steps: int) -> SlotCache:
        """An empty cache with room for `max_steps`."""
        like = self.norm.to(self.memory_dtype)
        return SlotCache(len(self.layers), batch_size, self.num_heads, max_steps, self.head_width, like)

    def forward(self, hidden: Tensor, cache: FixedCache | None = None) -> BackboneStates:
        """(B,T,D) -> states before and after the final norm; with a cache the T steps follow those it holds.

        Raises:
            ConfigError: a cache without room for T more steps.
        """
        steps = hidden.shape[1]
        start = 0 if cache is None else cache.length
        if cache is not None:
            cache.reserve(steps)
        with torch.inference_mode():  # a step is a thousand small operations, which cost less without autograd's books
            return self._run(hidden, cache, start)

    def _run(self, hidden: Tensor, cache: FixedCache | None, start: int) -> BackboneStates:
        steps = hidden.shape[1]
        empty = cache.empty if isinstance(cache, SlotCache) else None
        if empty is None:
            position = start if cache is None else start + cache.forgotten
            turn, mask = self._turn(position, steps, hidden), self._mask(start, steps, hidden.device)
        else:
            turn, mask = self._ragged(empty, start, steps, hidden)
        near = self._near(cache, start) if steps == 1 and empty is None else None
        for number, layer in enumerate(self.layers):
            memory = None if cache is None else cache.store[number]
            attend = partial(self._attend, mask=mask, steps=steps) if near is None else partial(near.attend, number)
            hidden = layer(hidden, turn, memory, start, self.num_heads, self.group, attend)
        return BackboneStates(hidden, _normed(hidden, self.norm, self.eps))

    def _near(self, cache: FixedCache | None, start: int) -> Near | None:
        """The layout for single steps, where many keys and values are held, in half precision."""
        if cache is None or cache.store.dtype == self.norm.dtype or cache.store.shape[2] * start < attention.FEW:
            return None
        if cache.near is None or cache.near.length != start:
            cache.near = Near(cache.store, start, min(start, cache.shared))
        cache.near.reserve()
        return cache.near

    def _turn(self, start: int, steps: int, like: Tensor) -> tuple[Tensor, Tensor]:
        """Cosines and sines of these positions, (T,1,w) each; the sines of the first half are negative."""
        if self._turns is None or self._turns[0].shape[0] < start + steps:
            positions = torch.arange(max(2 * (start + steps), _TURNS), device=like.device)[None]
            cos, sin = self.rotary(like, positions)
            half = self.head_width // 2
            sin = torch.cat([-sin[..., :half], sin[..., half:]], dim=-1)
            self._turns = cos[0, :, None].contiguous(), sin[0, :, None].contiguous()
        return self._turns[0][start : start + steps], self._turns[1][start : start + steps]

    def _ragged(self, empty: list[int], start: int, steps: int, like: Tensor) -> tuple[tuple[Tensor, Tensor], Tensor]:
        """The same for rows of unequal length: (B,T,1,w) twice, and numbers to add to scores (B,1,G*T,L)."""
        cos, sin = self._turn(0, start + steps, like)
        places, seen = ragged_places(empty, start, steps, like.device)
        hides = torch.zeros(seen.shape, dtype=like.dtype, device=like.device).masked_fill_(~seen, -torch.inf)
        return (cos[places], sin[places]), hides.repeat(1, self.group, 1)[:, None]

    def _mask(self, start: int, steps: int, device: torch.device) -> Tensor | None:
        """(G*T, L) bool, which steps each step sees; None where a single one sees all."""
        if steps == 1:
            return None
        seen = torch.ones(steps, start + steps, dtype=torch.bool, device=device).tril(start)
        return seen.repeat(self.group, 1)


class _LeanLayer(nn.Module):
    def __init__(self, layer: Any, arithmetic: Arithmetic, peaks: Peaks) -> None:
        super().__init__()
        attention, mlp = layer.self_attn, layer.mlp
        norm_1 = layer.input_layernorm.weight.detach().clone()
        norm_2 = layer.post_attention_layernorm.weight.detach().clone()
        qkv, gate_up = _join(attention.q_proj, attention.k_proj, attention.v_proj), _join(mlp.gate_proj, mlp.up_proj)
        out, down = _join(attention.o_proj), _join(mlp.down_proj)
        if arithmetic == "int8" and mlp.down_proj in peaks:
            # What `Int8Matrix` would do to its inputs in each step is done here, once, to what makes them.
            gate_up.shrink_outputs(down.grow_inputs(peaks[mlp.down_proj]))
            norm_1 /= qkv.grow_inputs(peaks[attention.q_proj])
            norm_2 /= gate_up.grow_inputs(peaks[mlp.gate_proj])
        self.qkv, self.out, self.gate_up, self.down = (
            make_matrix(arithmetic, joined.weight, joined.bias) for joined in (qkv, out, gate_up, down)
        )
        self.norm_1 = nn.Parameter(norm_1, requires_grad=False)
        self.norm_2 = nn.Parameter(norm_2, requires_grad=False)
        self.eps = float(layer.input_layernorm.variance_epsilon)

    def forward(
        self,
        hidden: Tensor,
        turn: tuple[Tensor, Tensor],
        memory: Tensor | None,
        start: int,
        num_heads: int,
        group: int,
        attend: Callable[[Tensor, Tensor], Tensor],
    ) -> Tensor:
        """(B,T,D) -> (B,T,D); `memory` (2,B,H,max,w) gets this layer's keys and values."""
        batch, steps, _ = hidden.shape
        mixed = self.qkv(_normed(hidden, self.norm_1, self.eps)).view(batch, steps, (group + 2) * num_heads, -1)
        _rotate(mixed[:, :, : (group + 1) * num_heads], *turn)  # queries and keys
        # (B,H,G*T,w): the queries that share a key head are rows of one attention.
        query = mixed[:, :, : group * num_heads].view(batch, steps, num_heads, group, -1).permute(0, 2, 3, 1, 4)
        query = query.reshape(batch, num_heads, group * steps, -1)
        # (2,B,H,T,w): keys and values.
        held = mixed[:, :, group * num_heads :].view(batch, steps, 2, num_heads, -1).permute(2, 0, 3, 1, 4)
        if memory is not None:
            memory[:, :, :, start : start + steps] = held
            held = memory[:, :, :, : start + steps]
        heard = attend(query, held)
        heard = heard.view(batch, num_heads, group, steps, -1).permute(0, 3, 1, 2, 4).reshape(batch, steps, -1)
        hidden = hidden + self.out(heard)
        gate, up = self.gate_up(_normed(hidden, self.norm_2, self.eps)).chunk(2, dim=-1)
        return hidden + cast("Tensor", self.down(F.silu(gate).mul_(up)))


def _normed(hidden: Tensor, weight: Tensor, eps: float) -> Tensor:
    """RMS norm over the last axis, in fewer operations than torch's own takes on a CPU."""
    length = torch.linalg.vector_norm(hidden, dim=-1, keepdim=True, dtype=torch.float32)
    scale: Tensor = length.square_().mul_(1 / hidden.shape[-1]).add_(eps).rsqrt_()
    return (hidden * scale).to(hidden.dtype).mul_(weight)


def _rotate(heads: Tensor, cos: Tensor, sin: Tensor) -> None:
    """Turn the halves of (B,T,n,w) against each other by the angles of each step, in place."""
    swapped = heads.roll(heads.shape[-1] // 2, dims=-1)
    heads.mul_(cos).addcmul_(swapped, sin)


class _Joined:
    """Linears with the same input as one matrix, whose outputs are theirs in their order."""

    def __init__(self, weight: Tensor, bias: Tensor | None, last: int) -> None:
        self.weight, self.bias, self.last = weight, bias, last

    def grow_inputs(self, peaks: Tensor) -> Tensor:
        """Multiply the weights by what balances them with these inputs, which must then be divided by it."""
        factor = balance(self.weight, peaks)
        self.weight *= factor
        return factor

    def shrink_outputs(self, factor: Tensor) -> None:
        """Divide the outputs of the last linear."""
        self.weight[-self.last :] /= factor[:, None]
        if self.bias is not None:
            self.bias[-self.last :] /= factor


def _join(*linears: nn.Linear) -> _Joined:
    weight = torch.cat([linear.weight.detach() for linear in linears])
    bias = None
    if any(linear.bias is not None for linear in linears):
        bias = torch.cat([weight.new_zeros(m.out_features) if m.bias is None else m.bias.detach() for m in linears])
    return _Joined(weight, bias, linears[-1].out_features)
