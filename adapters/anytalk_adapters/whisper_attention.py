"""Runs attention and blocks of openai-whisper's layers, over keys that may count several times or not at all."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor
from torch.nn import functional as F
from whisper.model import MultiHeadAttention, ResidualAttentionBlock

__all__ = ["attend", "heads_of", "projected", "run_blocks"]


def heads_of(attention: MultiHeadAttention, x: Tensor) -> Tensor:
    """Split (B,T,W) into heads (B,H,T,W/H)."""
    return x.view(*x.shape[:2], attention.n_head, -1).transpose(1, 2)


def projected(attention: MultiHeadAttention, x: Tensor) -> tuple[Tensor, Tensor]:
    """Return keys and values of (B,T,W), split into heads (B,H,T,W/H)."""
    return heads_of(attention, attention.key(x)), heads_of(attention, attention.value(x))


def attend(
    attention: MultiHeadAttention,
    x: Tensor,
    keys: Tensor,
    values: Tensor,
    log_counts: Tensor | None = None,
    is_causal: bool = False,
) -> Tensor:
    """Attend from (B,Q,W) to keys and values in heads, (B,H,T,W/H) each; return (B,Q,W).

    Args:
        attention: The layer.
        x: Hidden states that the queries are made of.
        keys: Keys.
        values: Their values.
        log_counts: (T,), (Q,T) or (B,1,1,T) logarithm of how often each key counts, -inf for padding; None: once.
        is_causal: Whether each of Q = T attends only to what isn't after it; needs `log_counts` to be None.
    """
    query = heads_of(attention, attention.query(x))
    bias = log_counts[None] if log_counts is not None and log_counts.ndim == 1 else log_counts
    found = F.scaled_dot_product_attention(query, keys, values, attn_mask=bias, is_causal=is_causal)
    out: Tensor = attention.out(found.transpose(1, 2).flatten(start_dim=2))
    return out


def run_blocks(blocks: Iterable[ResidualAttentionBlock], hidden: Tensor, log_counts: Tensor | None = None) -> Tensor:
    """Run blocks of Whisper's encoder on (B,F,E), with `log_counts` of the F frames as in :func:`attend`."""
    for block in blocks:
        y = block.attn_ln(hidden)
        hidden = hidden + attend(block.attn, y, *projected(block.attn, y), log_counts)
        hidden = hidden + block.mlp(block.mlp_ln(hidden))
    return hidden
