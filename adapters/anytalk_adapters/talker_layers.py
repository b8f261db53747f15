"""The layers of the ``talker`` adapter: attention with rotary positions that are times, and its memory.

Two kinds of things have a place in time: steps of speech (one per codec frame) and letters of the text, each at the
time at which it is expected to be spoken. Rotary positions (arXiv 2104.09864) see differences only, so "what is spoken
about now" is the same direction everywhere, and attention between speech and text begins close to where it must end.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional as F

HEAD_WIDTH = 64
_ROTARY_BASE = 10_000.0
NEVER = 1 << 30
"""Arrival of a slot that holds no letter."""


def rotate(x: Tensor, times: Tensor) -> Tensor:
    """(B,H,L,HEAD_WIDTH) rotated by times (B,L) float32, in steps."""
    half = x.shape[-1] // 2
    rates = _ROTARY_BASE ** (-torch.arange(half, device=x.device, dtype=torch.float32) / half)
    angles = times[:, None, :, None] * rates
    cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    left, right = x[..., :half], x[..., half:]
    return torch.cat([left * cos - right * sin, left * sin + right * cos], dim=-1)


def split_heads(x: Tensor) -> Tensor:
    """(B,L,H*HEAD_WIDTH) -> (B,H,L,HEAD_WIDTH)."""
    return x.view(*x.shape[:2], -1, HEAD_WIDTH).transpose(1, 2)


def attend(query: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, causal: bool = False) -> Tensor:
    """(B,H,L,w) x (B,H,M,w) with a mask (B,L,M) bool -> (B,L,H*w)."""
    seen = None if mask is None else mask[:, None]
    found = F.scaled_dot_product_attention(query, keys, values, attn_mask=seen, is_causal=causal)
    return found.transpose(1, 2).flatten(2)


@dataclass
class TalkerMemory:
    """What the adapter remembers of an answer: steps, and the letters that have come so far.

    Attributes:
        length: Steps held.
        arrival: (B,C) int64, the step in which each letter came; NEVER for an empty slot.
        end: (B,C) float32, the time at which each letter is expected to be over.
        keys: By name of an attention layer: (B,H,n,w) keys and values of steps or letters.
    """

    length: int = 0
    arrival: Tensor | None = None
    end: Tensor | None = None
    keys: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)

    def keep_rows(self, rows: Sequence[int]) -> None:
        """Keep only these rows, in this order."""
        if self.arrival is None or self.end is None:
            return
        index = torch.tensor(list(rows), device=self.arrival.device)
        self.arrival, self.end = self.arrival[index], self.end[index]
        self.keys = {name: (k[index], v[index]) for name, (k, v) in self.keys.items()}

    def crop(self, length: int) -> None:
        """Forget the steps after the first `length`, and the letters that came with them."""
        self.length = min(self.length, length)
        if self.arrival is None:
            return
        self.arrival = torch.where(self.arrival >= self.length, NEVER, self.arrival)
        self.keys = {
            name: (k[:, :, : self.length], v[:, :, : self.length]) if name.startswith("step") else (k, v)
            for name, (k, v) in self.keys.items()
        }

    def extend(self, name: str, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Add keys and values (B,H,n,w) behind those of a layer; all of them come back."""
        if name in self.keys:
            before = self.keys[name]
            keys, values = torch.cat([before[0], keys], dim=2), torch.cat([before[1], values], dim=2)
        self.keys[name] = keys, values
        return keys, values


class Mlp(nn.Sequential):
    """Two layers with a GELU between them."""

    def __init__(self, width: int, hidden_width: int) -> None:
        super().__init__(nn.Linear(width, hidden_width), nn.GELU(), nn.Linear(hidden_width, width))


class LetterBlock(nn.Module):
    """A letter looks at the letters that came with it or before it, so that no later token changes what is known."""

    def __init__(self, width: int, hidden_width: int) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.attention_out = nn.Linear(width, width)
        self.mlp_norm = nn.LayerNorm(width)
        self.mlp = Mlp(width, hidden_width)

    def forward(self, x: Tensor, times: Tensor, mask: Tensor, memory: TalkerMemory, name: str) -> Tensor:
        """(B,n,W) new letters at times (B,n); mask (B,n,C) over all letters -> (B,n,W)."""
        query, key, value = (split_heads(part) for part in self.qkv(self.attention_norm(x)).chunk(3, dim=-1))
        keys, values = memory.extend(name, rotate(key, times), value)
        x = x + self.attention_out(attend(rotate(query, times), keys, values, mask))
        out: Tensor = x + self.mlp(self.mlp_norm(x))
        return out


class SpeechBlock(nn.Module):
    """A step of speech looks at the steps before it, then at the letters that have come."""

    def __init__(self, width: int, letter_width: int, hidden_width: int) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.attention_out = nn.Linear(width, width)
        self.letter_norm = nn.LayerNorm(width)
        self.letter_query = nn.Linear(width, width)
        self.letter_keys = nn.Linear(letter_width, 2 * width)
        self.letter_out = nn.Linear(width, width)
        self.mlp_norm = nn.LayerNorm(width)
        self.mlp = Mlp(width, hidden_width)

    def forward(
        self,
        x: Tensor,
        times: Tensor,
        letters: Tensor,
        letter_times: Tensor,
        mask: Tensor,
        memory: TalkerMemory,
        name: str,
    ) -> Tensor:
        """One layer.

        Args:
            x: (B,T,W) steps.
            times: (B,T) of the steps.
            letters: (B,n,W') letters that came with these steps.
            letter_times: (B,n).
            mask: (B,T,C) which of all letters each step may see.
            memory: What came before; it grows.
            name: Of this layer in the memory.
        """
        query, key, value = (split_heads(part) for part in self.qkv(self.attention_norm(x)).chunk(3, dim=-1))
        begins = f"step.{name}" not in memory.keys
        keys, values = memory.extend(f"step.{name}", rotate(key, times), value)
        steps = x.shape[1]
        causal = None
        if steps > 1 and not begins:
            causal = torch.ones(steps, keys.shape[2], dtype=torch.bool, device=x.device)
            causal = causal.tril(keys.shape[2] - steps)[None]
        x = x + self.attention_out(attend(rotate(query, times), keys, values, causal, causal=begins and steps > 1))
        query = rotate(split_heads(self.letter_query(self.letter_norm(x))), times)
        key, value = (split_heads(part) for part in self.letter_keys(letters).chunk(2, dim=-1))
        keys, values = memory.extend(f"letter.{name}", rotate(key, letter_times), value)
        x = x + self.letter_out(attend(query, keys, values, mask))
        out: Tensor = x + self.mlp(self.mlp_norm(x))
        return out
