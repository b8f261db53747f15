"""Computes the decoder of Llama (arXiv 2302.13971) and Qwen2 (arXiv 2407.10671) with little overhead per step.

It computes what transformers does in fewer and larger operations, for steps of one or two rows: queries, keys and
values are one matrix, gate and up another; the cache is fixed memory; heads that share keys are rows of one attention
instead of copies of the keys. ``tests/test_lean.py`` compares it with transformers.

Letters: B batch, T steps, D width, H key and value heads, G query heads for each of them, w head width, L steps held.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, TypeAlias, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from anytalk.kernels import balance, make_matrix
from anytalk.plugins.caches import KeyValueCache, Rows
from anytalk.plugins.contracts import Arithmetic, BackboneStates, Peaks
from anytalk.plugins.hf import attention
from anytalk.plugins.hf.attention import Attention, Near, half_is_fast

_FAMILIES = ("llama", "qwen2")
_ROPE_TYPES = ("default", "linear", "llama3", "yarn")
"""Kinds of rotary embedding that depend on the position alone, not on how long the text is."""
_TURNS = 2048
"""For how many positions angles are computed at once, at least."""

Look: TypeAlias = Callable[[int, Tensor, Tensor], Tensor]
"""Maps a layer's number, queries (B,H,G*T,w) and new keys and values (2,B,H,T,w) to attended values (B,H,G*T,w)."""


def can_be_lean(decoder: nn.Module) -> bool:
    """Return whether :class:`LeanDecoder` computes what this transformers decoder computes."""
    config: Any = getattr(decoder, "config", None)
    if config is None or config.model_type not in _FAMILIES or config.hidden_act != "silu":
        return False
    rope = getattr(config, "rope_parameters", None) or {}
    if rope.get("rope_type", "default") not in _ROPE_TYPES or getattr(config, "pretraining_tp", 1) != 1:
        return False
    # Sliding windows need a mask that isn't computed here.
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    linears = [m for m in cast("Any", decoder).layers.modules() if isinstance(m, nn.Linear)]
    # PEFT and similar libraries replace nn.Linear by their own classes, whose arithmetic this decoder doesn't know.
    return kinds == {"full_attention"} and len(linears) == 7 * len(cast("Any", decoder).layers)


class LeanDecoder(nn.Module):
    """Runs the layers and the final norm of a transformers decoder, for inference only.

    Args:
        decoder: ``LlamaModel`` or ``Qwen2Model`` for which :func:`can_be_lean` is true; it isn't changed.
        arithmetic: How its matrices are multiplied.
        peaks: See :func:`anytalk.kernels.make_ready`.
    """

    def __init__(self, decoder: nn.Module, arithmetic: Arithmetic, peaks: Peaks | None = None) -> None:
        super().__init__()
        source: Any = decoder
        config = source.config
        self.num_heads = int(config.num_key_value_heads)
        self.group = int(config.num_attention_heads) // self.num_heads
        # (heads * w, D): some configs give a head width that is no share of D, so it is read from the weights.
        first = source.layers[0].self_attn.q_proj.weight
        self.head_width = int(first.shape[0]) // int(config.num_attention_heads)
        self.width = int(first.shape[1])
        self.rotary = source.rotary_emb
        join = _Joiner(keeps=arithmetic not in ("packed", "int8"))
        self.layers = nn.ModuleList(
            _LeanLayer(layer, self.num_heads, arithmetic, peaks or {}, join) for layer in source.layers
        )
        self.norm = nn.Parameter(source.norm.weight.detach().clone(), requires_grad=False)
        self.eps = _epsilon(source.norm)
        self.memory_dtype = torch.bfloat16 if arithmetic == "int8" and half_is_fast() else self.norm.dtype
        self._lays_out = arithmetic == "int8"
        self._attend = Attention()
        self._turns: tuple[Tensor, Tensor] | None = None

    def new_cache(self, batch_size: int, max_steps: int) -> KeyValueCache:
        return KeyValueCache(batch_size, max_steps, self.memory_dtype)

    def forward(self, hidden: Tensor, cache: KeyValueCache | None = None) -> BackboneStates:
        """Return the states around the final norm, (B,T,D) each; with a cache, the T steps follow those it holds."""
        steps, rows = hidden.shape[1], Rows(1) if cache is None else cache.rows
        with torch.inference_mode():  # a step is a thousand small operations, each faster without autograd
            turn, mask = self._turn(rows, steps, hidden), self._mask(rows, steps, hidden)
            # The layout has rows of equal length only, so it isn't used where a mask is needed.
            near = None if cache is None or steps > 1 or mask is not None else self._near(cache)

            def look(number: int, query: Tensor, new: Tensor) -> Tensor:
                # Without a cache, all that there is to see are the new steps themselves.
                held = new if cache is None else cache.write(number, new)
                return self._attend(query, held, mask, steps) if near is None else near.attend(number, query, held)

            states = self.run_layers(hidden, turn, look)
        if cache is not None:
            cache.advance(steps)
        return states

    def run_layers(self, hidden: Tensor, turn: tuple[Tensor, Tensor], look: Look) -> BackboneStates:
        """Return the states before and after the final norm, (B,T,D) each.

        Args:
            hidden: (B,T,D).
            turn: Cosines and sines of the steps' positions, (T,1,w) or (B,T,1,w); see :meth:`angles`.
            look: Caches keys and values, and attends to all that is held.
        """
        for number, layer in enumerate(self.layers):
            hidden = layer(hidden, turn, partial(look, number))
        return BackboneStates(hidden, _normed(hidden, self.norm, self.eps))

    def angles(self, count: int, like: Tensor) -> tuple[Tensor, Tensor]:
        """Return cosines and sines of at least the first `count` positions, (P,1,w) each.

        The sines of the first half are negative, as ``_rotate`` needs them.
        """
        if self._turns is None or self._turns[0].shape[0] < count:
            # Twice as many as asked for, so that they aren't computed anew in every step.
            positions = torch.arange(max(2 * count, _TURNS), device=like.device)[None]
            cos, sin = self.rotary(like, positions)  # (1,P,w) each
            half = self.head_width // 2
            sin = torch.cat([-sin[..., :half], sin[..., half:]], dim=-1)
            self._turns = cos[0, :, None].contiguous(), sin[0, :, None].contiguous()
        return self._turns

    def _turn(self, rows: Rows, steps: int, like: Tensor) -> tuple[Tensor, Tensor]:
        """Return cosines and sines of the next positions: (T,1,w) each, or (B,T,1,w) if they differ by row."""
        first = [length + gone for length, gone in zip(rows.lengths, rows.forgotten, strict=True)]
        cos, sin = self.angles(max(first) + steps, like)
        if rows.are_alike:
            return cos[first[0] : first[0] + steps], sin[first[0] : first[0] + steps]
        places = rows.positions(steps, like.device)
        return cos[places], sin[places]

    def _mask(self, rows: Rows, steps: int, like: Tensor) -> Tensor | None:
        """Return what each step sees: (G*T,L) bool, (B,1,G*T,L) to add to scores, or None if a single step sees all."""
        if not rows.are_level:
            seen = rows.seen(steps, like.device)
            hides = torch.zeros(seen.shape, dtype=like.dtype, device=like.device).masked_fill_(~seen, -torch.inf)
            return hides.repeat(1, self.group, 1)[:, None]
        return None if steps == 1 else rows.seen(steps, like.device)[0].repeat(self.group, 1)

    def _near(self, cache: KeyValueCache) -> Near | None:
        """Return the layout for single steps if many keys and values are held.

        In half precision it is always faster; otherwise only if a long prompt needn't be read again for each row.
        """
        rows, length = len(cache.rows.lengths), cache.length
        if not length or rows * length < attention.FEW:
            return None
        if cache.dtype == self.norm.dtype:
            spared = (rows - 1) * cache.shared
            if not self._lays_out or spared < attention.FEW or 2 * spared < length:
                return None
        near = cache.near
        if not isinstance(near, Near) or near.length != length:
            held = [cache.held(number) for number in range(len(self.layers))]
            near = cache.near = Near(held, min(length, cache.shared))
        near.reserve()
        return near


class _LeanLayer(nn.Module):
    def __init__(self, layer: Any, num_heads: int, arithmetic: Arithmetic, peaks: Peaks, join: _Joiner) -> None:
        super().__init__()
        self.num_heads = num_heads
        attention, mlp = layer.self_attn, layer.mlp
        norm_1 = layer.input_layernorm.weight.detach().clone()
        norm_2 = layer.post_attention_layernorm.weight.detach().clone()
        qkv = join("qkv", attention.q_proj, attention.k_proj, attention.v_proj)
        gate_up = join("gate_up", mlp.gate_proj, mlp.up_proj)
        out, down = join("out", attention.o_proj), join("down", mlp.down_proj)
        if arithmetic == "int8" and mlp.down_proj in peaks:
            # `Int8Matrix` would scale its inputs in each step; here the weights that produce them are scaled once.
            gate_up.shrink_outputs(down.grow_inputs(peaks[mlp.down_proj]))
            # The norm's weights produce the inputs, so dividing them divides the inputs.
            norm_1 /= qkv.grow_inputs(peaks[attention.q_proj])
            norm_2 /= gate_up.grow_inputs(peaks[mlp.gate_proj])
        self.qkv, self.out, self.gate_up, self.down = (
            make_matrix(arithmetic, joined.weight, joined.bias) for joined in (qkv, out, gate_up, down)
        )
        self.norm_1 = nn.Parameter(norm_1, requires_grad=False)
        self.norm_2 = nn.Parameter(norm_2, requires_grad=False)
        self.eps = _epsilon(layer.input_layernorm)
        # What a step uses: looked up in a module, and called through it, each costs as much as a small operation.
        self._norms = self.norm_1, self.norm_2, self.eps
        self._products = self.qkv.forward, self.out.forward, self.gate_up.forward, self.down.forward

    def forward(self, hidden: Tensor, turn: tuple[Tensor, Tensor], look: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        """Run the layer, (B,T,D) -> (B,T,D).

        Args:
            hidden: (B,T,D).
            turn: See :meth:`LeanDecoder.run_layers`.
            look: Maps queries (B,H,G*T,w) and new keys and values (2,B,H,T,w) to attended values (B,H,G*T,w).
        """
        batch, steps, _ = hidden.shape
        heads, width = self.num_heads, turn[0].shape[-1]
        norm_1, norm_2, eps = self._norms
        qkv, out, gate_up, down = self._products
        # The outputs are the heads of queries, then of keys, then of values.
        mixed = qkv(_normed(hidden, norm_1, eps)).view(batch, steps, -1, width)
        _rotate(mixed[:, :, :-heads], *turn)  # queries and keys
        queries, new = mixed.tensor_split((-2 * heads,), dim=2)
        # (B,H,G*T,w): the queries that share a key head are rows of one attention.
        if steps == 1:  # the same in fewer operations
            query, new = queries.view(batch, heads, -1, width), new.view(batch, 2, heads, 1, width).transpose(0, 1)
            heard = look(query, new).reshape(batch, 1, -1)
        else:
            query = queries.view(batch, steps, heads, -1, width).permute(0, 2, 3, 1, 4).flatten(2, 3)
            new = new.view(batch, steps, 2, heads, width).permute(2, 0, 3, 1, 4)
            heard = look(query, new).view(batch, heads, -1, steps, width).permute(0, 3, 1, 2, 4).flatten(2)
        hidden = hidden + out(heard)
        gate, up = gate_up(_normed(hidden, norm_2, eps)).chunk(2, dim=-1)
        return hidden + cast("Tensor", down(F.silu(gate).mul_(up)))


def _epsilon(norm: Any) -> nn.Parameter:
    """Return what a norm adds to the mean square as a tensor, (1,) float32: a number would take an extra operation."""
    like = norm.weight
    return nn.Parameter(like.new_full((1,), norm.variance_epsilon, dtype=torch.float32), requires_grad=False)


def _normed(hidden: Tensor, weight: Tensor, eps: Tensor) -> Tensor:
    """Apply an RMS norm over the last axis, in fewer operations than torch's own on a CPU; `eps` is (1,)."""
    # The square of the length over D is the mean square.
    length = torch.linalg.vector_norm(hidden, dim=-1, keepdim=True, dtype=torch.float32)
    scale = torch.addcmul(eps, length, length, value=1 / hidden.shape[-1]).rsqrt_()
    scaled = hidden * scale
    return (scaled if scaled.dtype == hidden.dtype else scaled.to(hidden.dtype)).mul_(weight)


def _rotate(heads: Tensor, cos: Tensor, sin: Tensor) -> None:
    """Rotate the halves of (B,T,n,w) against each other by the angles of each step, in place."""
    # [-b, a] is [a, b] rolled by half with a sign, and the sines have that sign already.
    swapped = heads.roll(heads.shape[-1] // 2, dims=-1)
    heads.mul_(cos).addcmul_(swapped, sin)


def joined_bias(*linears: nn.Linear) -> Tensor | None:
    """Return the biases of linear layers as one, (out,), with zeros where only others have one."""
    if all(linear.bias is None for linear in linears):
        return None
    return torch.cat([m.weight.new_zeros(m.out_features) if m.bias is None else m.bias.detach() for m in linears])


class _Joined:
    """Holds linear layers of the same input as one matrix, with their outputs in order."""

    def __init__(self, weight: Tensor, bias: Tensor | None, last: int) -> None:
        self.weight, self.bias, self.last = weight, bias, last

    def grow_inputs(self, peaks: Tensor) -> Tensor:
        """Multiply the weights by the factor that balances them with these inputs; divide the inputs by the result."""
        factor = balance(self.weight, peaks)
        self.weight *= factor
        return factor

    def shrink_outputs(self, factor: Tensor) -> None:
        """Divide the outputs of the last linear layer by `factor`."""
        self.weight[-self.last :] /= factor[:, None]
        if self.bias is not None:
            self.bias[-self.last :] /= factor


class _Joiner:
    """Joins linears to matrices, layer by layer.

    Args:
        keeps: Whether matrices are made that keep the joined weights. If not, those of the next layer are written over
            them: new memory for each layer would cost more time than what is done in it.
    """

    def __init__(self, keeps: bool) -> None:
        self._rooms: dict[str, Tensor] | None = None if keeps else {}

    def __call__(self, kind: str, *linears: nn.Linear) -> _Joined:
        """Join the linears of a kind, of which a layer has one, with the same input."""
        weight = self._cat(kind, [linear.weight.detach() for linear in linears])
        return _Joined(weight, joined_bias(*linears), linears[-1].out_features)

    def _cat(self, kind: str, weights: list[Tensor]) -> Tensor:
        if self._rooms is None:
            return torch.cat(weights)
        like, rows = weights[0], sum(len(weight) for weight in weights)
        room = self._rooms.get(kind)
        if room is None or room.shape != (rows, like.shape[1]):
            room = self._rooms[kind] = like.new_empty(rows, like.shape[1])
        return torch.cat(weights, out=room)
