"""Attention over keys and values that may be kept in bfloat16, and how a single step reads many of them fast.

torch's attention for CPUs (``scaled_dot_product_attention``) is made for many queries. With the few of a step that
share a key head its float32 products reach a fifth of the processor's peak, and in bfloat16 it lays out keys and values
anew in each call. oneDNN's batched products in bfloat16 do better, on processors that have them:
``examples/bench_attention.py``, docs/performance.md.

Letters: B batch, T steps, H key and value heads, R queries of each (G*T), L steps held, w head width.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

_BLOCK = 64
"""oneDNN makes a kernel for each shape, which takes longer than to run it: lengths are rounded up to multiples."""
_FEW = 1024
"""Steps, of all rows together, below which torch's one call is faster than our ten."""


def half_is_fast() -> bool:
    """Whether this processor multiplies in bfloat16, and torch knows how."""
    return bool(torch._C._has_mkldnn and torch.cpu._is_avx512_bf16_supported())


class Attention:
    """Lets queries look at what is held, in one of three ways that differ in speed and rounding only."""

    def __init__(self) -> None:
        self._near: Tensor | None = None

    def __call__(self, query: Tensor, held: Tensor, mask: Tensor | None, steps: int) -> Tensor:
        """(B,H,R,w), in the dtype of the queries.

        Args:
            query: (B,H,R,w).
            held: (2,B,H,L,w), keys and values.
            mask: As torch takes it: bool, or numbers to add to the scores; None where all is seen.
            steps: T. A prompt, of many, sees everything in its own dtype; a single step, in that of what is held.
        """
        if held.dtype == query.dtype or steps > 1:
            keys, values = held.to(query.dtype)
            return F.scaled_dot_product_attention(query, keys, values, attn_mask=mask)
        mask = None if mask is None else mask.to(held.dtype)
        if held.shape[1] * held.shape[3] >= _FEW:
            return self._single(query, held, mask)
        keys, values = held
        return F.scaled_dot_product_attention(query.to(held.dtype), keys, values, attn_mask=mask).to(query.dtype)

    def _single(self, query: Tensor, held: Tensor, mask: Tensor | None) -> Tensor:
        length = held.shape[3]
        keys, values = self._side_by_side(held)
        queries = (query * query.shape[-1] ** -0.5).to(held.dtype).flatten(0, 1)
        scores = torch.bmm(queries, keys.transpose(1, 2))
        scores[..., length:] = -torch.inf
        if mask is not None:
            scores.view(*query.shape[:3], -1)[..., :length] += mask
        return torch.bmm(scores.softmax(-1), values).to(query.dtype).view_as(query)

    def _side_by_side(self, held: Tensor) -> Tensor:
        """(2,B*H,L',w): without the room behind each head. What lies behind L is old, but numbers.

        Else torch does it in each product: keys slowly, because it sees them transposed, and into new memory, which the
        system may have to hand out page by page each time.
        """
        room = -(-held.shape[3] // _BLOCK) * _BLOCK
        shape = (2, held.shape[1] * held.shape[2], room, held.shape[4])
        if self._near is None or self._near.shape != shape:
            self._near = held.new_zeros(shape)
        self._near[:, :, : held.shape[3]] = held.flatten(1, 2)
        return self._near
