"""The decoder of Llama (arXiv 2302.13971) and Qwen2 (arXiv 2407.10671) with nothing around the arithmetic.

What transformers computes, in fewer and larger operations, for steps of one or two rows: queries, keys and values are
one matrix, gate and up another; the cache is fixed memory; heads that share keys are rows of one attention instead of
copies of the keys. ``tests/test_lean.py`` compares it with transformers.

Letters: B batch, T steps, D width, H key and value heads, G query heads for each of them, w head width, L steps held.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from anytalk.plugins.contracts import BackboneStates
from anytalk.plugins.matrices import Arithmetic, Peaks, make_matrix
from anytalk_backbones.fixed_cache import FixedCache

_FAMILIES = ("llama", "qwen2")
_ROPE_TYPES = ("default", "linear", "llama3", "yarn")
"""Rotations that depend on the position alone, not on how long the text is."""


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
        peaks: See :func:`anytalk.plugins.matrices.make_ready`.
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
        self.register_buffer("norm", source.norm.weight.detach().clone(), persistent=False)
        self.eps = float(source.norm.variance_epsilon)
        self._turns: tuple[Tensor, Tensor] | None = None

    def new_cache(self, batch_size: int, max_steps: int) -> FixedCache:
        """An empty cache with room for `max_steps`."""
        like = cast("Tensor", self.norm)
        return FixedCache(len(self.layers), batch_size, self.num_heads, max_steps, self.head_width, like)

    def forward(self, hidden: Tensor, cache: FixedCache | None = None) -> BackboneStates:
        """(B,T,D) -> states before and after the final norm; with a cache the T steps follow those it holds.

        Raises:
            ConfigError: a cache without room for T more steps.
        """
        steps = hidden.shape[1]
        start = 0 if cache is None else cache.length
        if cache is not None:
            cache.reserve(steps)
        turn = self._turn(start, steps, hidden)
        mask = self._mask(start, steps, hidden.device)
        for number, layer in enumerate(self.layers):
            memory = None if cache is None else cache.store[number]
            hidden = layer(hidden, turn, mask, memory, start, self.num_heads, self.group)
        return BackboneStates(hidden, F.rms_norm(hidden, (self.width,), cast("Tensor", self.norm), self.eps))

    def _turn(self, start: int, steps: int, like: Tensor) -> tuple[Tensor, Tensor]:
        """Cosines and sines of these positions, (T,1,w/2) each."""
        if self._turns is None or self._turns[0].shape[0] < start + steps:
            positions = torch.arange(max(start + steps, 2048), device=like.device)[None]
            cos, sin = self.rotary(like, positions)
            half = self.head_width // 2
            self._turns = cos[0, :, None, :half].contiguous(), sin[0, :, None, :half].contiguous()
        return self._turns[0][start : start + steps], self._turns[1][start : start + steps]

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
        self.qkv = _joined(arithmetic, peaks, attention.q_proj, attention.k_proj, attention.v_proj)
        self.out = _joined(arithmetic, peaks, attention.o_proj)
        self.gate_up = _joined(arithmetic, peaks, mlp.gate_proj, mlp.up_proj)
        self.down = _joined(arithmetic, peaks, mlp.down_proj)
        self.register_buffer("norm_1", layer.input_layernorm.weight.detach().clone(), persistent=False)
        self.register_buffer("norm_2", layer.post_attention_layernorm.weight.detach().clone(), persistent=False)
        self.eps = float(layer.input_layernorm.variance_epsilon)

    def forward(
        self,
        hidden: Tensor,
        turn: tuple[Tensor, Tensor],
        mask: Tensor | None,
        memory: Tensor | None,
        start: int,
        num_heads: int,
        group: int,
    ) -> Tensor:
        """(B,T,D) -> (B,T,D); `memory` (2,B,H,max,w) gets this layer's keys and values."""
        batch, steps, width = hidden.shape
        norm_1, norm_2 = cast("Tensor", self.norm_1), cast("Tensor", self.norm_2)
        mixed = self.qkv(F.rms_norm(hidden, (width,), norm_1, self.eps)).view(batch, steps, (group + 2) * num_heads, -1)
        turned = _rotate(mixed[:, :, : (group + 1) * num_heads], *turn)  # queries and keys
        query = turned[:, :, : group * num_heads].view(batch, steps, num_heads, group, -1)
        # (B,H,G*T,w): the queries that share a key head are rows of one attention.
        query = query.permute(0, 2, 3, 1, 4).reshape(batch, num_heads, group * steps, -1)
        key = turned[:, :, group * num_heads :].transpose(1, 2)
        value = mixed[:, :, (group + 1) * num_heads :].transpose(1, 2)
        if memory is not None:
            memory[0, :, :, start : start + steps] = key
            memory[1, :, :, start : start + steps] = value
            key, value = memory[0, :, :, : start + steps], memory[1, :, :, : start + steps]
        heard = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        heard = heard.view(batch, num_heads, group, steps, -1).permute(0, 3, 1, 2, 4).reshape(batch, steps, -1)
        hidden = hidden + self.out(heard)
        gate, up = self.gate_up(F.rms_norm(hidden, (width,), norm_2, self.eps)).chunk(2, dim=-1)
        return hidden + cast("Tensor", self.down(F.silu(gate) * up))


def _rotate(heads: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn the halves of (B,T,n,w) against each other by the angles of each step."""
    first, second = heads.chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)


def _joined(arithmetic: Arithmetic, peaks: Peaks, *linears: nn.Linear) -> nn.Module:
    """One matrix whose outputs are those of all linears, in their order; all of them have the same input."""
    weight = torch.cat([linear.weight.detach() for linear in linears])
    if all(linear.bias is None for linear in linears):
        return make_matrix(arithmetic, weight, None, peaks.get(linears[0]))
    biases = [weight.new_zeros(m.out_features) if m.bias is None else m.bias.detach() for m in linears]
    return make_matrix(arithmetic, weight, torch.cat(biases), peaks.get(linears[0]))
