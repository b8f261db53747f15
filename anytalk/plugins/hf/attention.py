"""Attends to keys and values that may be kept in bfloat16; a single step reads many of them fast.

torch's attention for CPUs (``scaled_dot_product_attention``) is made for many queries. With the few queries of a step
that share a key head, its float32 products reach a fifth of the processor's peak, and in bfloat16 it lays out keys and
values anew in each call. oneDNN's batched products in bfloat16 are faster, on processors that have them and for memory
without gaps: ``examples/bench_attention.py``, docs/performance.md.

Shapes use these letters: B batch, T steps, H key and value heads, R queries of each (G*T), L steps held, w head width.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

_BLOCK = 64
"""oneDNN compiles a kernel for each shape, which takes longer than running it: lengths are rounded up to multiples."""
FEW = 1024
"""With fewer steps than this, of all rows together, torch's one call is faster than our ten."""


class Near:
    """Holds what some rows cache, laid out for single steps: one memory for all of them, without gaps.

    Steps that all rows share (the prompt of batch-parallel decoding, read once and copied) are stored once. After them
    come, step by step, those that each row has of its own. The queries of all rows are multiplied by all of it at once;
    a mask that is added to the scores hides the steps of other rows.

    Args:
        held: For each layer (2,B,H,L,w), keys and values.
        shared: How many steps in front are the same in all rows.
    """

    def __init__(self, held: Sequence[Tensor], shared: int) -> None:
        _, rows, heads, length, width = held[0].shape
        self.length, self.rows = length, rows
        # Shared steps once, then one step of each row after another.
        self._filled = shared + rows * (length - shared)
        self._store = self._hides = held[0].new_empty(0)
        self._make_room(held[0].new_empty(len(held), 2, heads, 0, width))
        for near, layer in zip(self._store, held, strict=True):
            near[:, :, :shared] = layer[:, 0, :, :shared]
            # (2,H,L-shared,B,w)
            own = near[:, :, shared : self._filled].view(2, heads, length - shared, rows, width)
            own[:] = layer[:, :, :, shared:].permute(0, 2, 3, 1, 4)  # from (2,B,H,L-shared,w)
        # All rows see the shared steps, and each sees every B-th of the others: its own.
        self._hides[:, :shared] = 0
        for row in range(rows):
            self._hides[row, shared + row : self._filled : rows] = 0

    def reserve(self) -> None:
        """Count one more step of all rows as held; :meth:`attend` then writes it, layer by layer."""
        first, self._filled = self._filled, self._filled + self.rows
        if self._filled > self._store.shape[3]:
            self._make_room(self._store[:, :, :, :first])
        for row in range(self.rows):
            self._hides[row, first + row] = 0
        self.length += 1

    def attend(self, layer: int, query: Tensor, held: Tensor) -> Tensor:
        """Attend to all that is held and the new step; return (B,H,R,w) in the dtype of the queries.

        Args:
            query: (B,H,R,w).
            held: (2,B,H,L,w), keys and values; all but the last step's are here already.
        """
        batch, heads, count, width = query.shape
        # Only the newest step of each row isn't in this layout yet.
        self._store[layer, :, :, self._filled - batch : self._filled] = held[:, :, :, -1].transpose(1, 2)
        keys, values = self._store[layer]
        queries = (query.transpose(0, 1) * width**-0.5).to(keys.dtype).reshape(heads, batch * count, width)
        scores = torch.bmm(queries, keys.transpose(1, 2))
        scores.view(heads, batch, count, -1).add_(self._hides[:, None])
        heard = torch.bmm(scores.softmax(-1), values)
        return heard.view(heads, batch, count, width).transpose(0, 1).to(query.dtype)

    def _make_room(self, held: Tensor) -> None:
        """Allocate memory for (layers,2,H,n,w) and at least one step more, which is hidden from all rows."""
        *shape, steps, width = held.shape
        room = -(-(max(steps, self._filled) + 1) // _BLOCK) * _BLOCK
        # Hidden values are multiplied by zero, so they must be finite.
        store, hides = held.new_zeros(*shape, room, width), held.new_full((self.rows, room), -torch.inf)
        store[:, :, :, :steps] = held
        hides[:, :steps] = self._hides[:, :steps] if steps else 0
        self._store, self._hides = store, hides


def half_is_fast() -> bool:
    """Return whether this processor multiplies in bfloat16, and oneDNN may use it (see ``ONEDNN_MAX_CPU_ISA``)."""
    may = torch._C._has_mkldnn and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return bool(may and torch.cpu._is_avx512_bf16_supported())


class Attention:
    """Attends in one of three ways, which differ only in speed and rounding."""

    def __init__(self) -> None:
        self._near: Tensor | None = None

    def __call__(self, query: Tensor, held: Tensor, mask: Tensor | None, steps: int) -> Tensor:
        """Attend to what is held; return (B,H,R,w) in the dtype of the queries.

        Args:
            query: (B,H,R,w).
            held: (2,B,H,L,w), keys and values.
            mask: As torch takes it: bool, or numbers to add to the scores; None if all is seen.
            steps: T. A single step over many keys is computed in their dtype, anything else in that of the queries.
        """
        if held.dtype != query.dtype and steps == 1 and held.shape[1] * held.shape[3] >= FEW:
            return self._single(query, held, None if mask is None else mask.to(held.dtype))
        keys, values = held.to(query.dtype)
        return F.scaled_dot_product_attention(query, keys, values, attn_mask=mask)

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
        """Copy what is held to (2,B*H,L',w), without the gaps after each head; values after L are stale but finite.

        Otherwise torch would copy in each product: keys slowly, because it sees them transposed, and into new memory,
        which the system may have to map page by page each time.
        """
        room = -(-held.shape[3] // _BLOCK) * _BLOCK
        shape = (2, held.shape[1] * held.shape[2], room, held.shape[4])
        if self._near is None or self._near.shape != shape:
            self._near = held.new_zeros(shape)
        self._near[:, :, : held.shape[3]] = held.flatten(1, 2)
        return self._near
