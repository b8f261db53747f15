"""Computes attention with the weights of openai-whisper's layers, over keys that may count several times."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F
from whisper.model import MultiHeadAttention

__all__ = ["attend", "heads_of", "projected"]


def heads_of(attention: MultiHeadAttention, x: Tensor) -> Tensor:
    """Split (1,T,W) into heads (1,H,T,W/H)."""
    return x.view(*x.shape[:2], attention.n_head, -1).transpose(1, 2)


def projected(attention: MultiHeadAttention, x: Tensor) -> tuple[Tensor, Tensor]:
    """Return keys and values of (1,T,W), split into heads (1,H,T,W/H)."""
    return heads_of(attention, attention.key(x)), heads_of(attention, attention.value(x))


def attend(
    attention: MultiHeadAttention,
    x: Tensor,
    keys: Tensor,
    values: Tensor,
    log_counts: Tensor | None = None,
    is_causal: bool = False,
) -> Tensor:
    """Return what (1,Q,W) attends to, (1,Q,W), in keys and values in heads, (1,H,T,W/H) each.

    Args:
        attention: The layer.
        x: Hidden states that the queries are made of.
        keys: Keys.
        values: Their values.
        log_counts: (T,) logarithm of how often each key counts; None: once.
        is_causal: Whether each of Q = T attends only to what isn't after it; needs `log_counts` to be None.
    """
    query = heads_of(attention, attention.query(x))
    bias = None if log_counts is None else log_counts[None]
    found = F.scaled_dot_product_attention(query, keys, values, attn_mask=bias, is_causal=is_causal)
    out: Tensor = attention.out(found.transpose(1, 2).flatten(start_dim=2))
    return out
