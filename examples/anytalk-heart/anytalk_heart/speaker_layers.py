"""Layers of the speech decoder: phonemes with their neighbours, and steps of speech that look back.

Letters: B rows, T steps, n units, L latents, W width, U width of units.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from anytalk.plugins.caches import KeyValueCache
from anytalk_heart.script import CONTEXT, LATENTS_PER_STEP, WINDOW

__all__ = ["HEAD_WIDTH", "LATENT_WIDTH", "LatentView", "SpeechBlock", "UnitEncoder"]

HEAD_WIDTH = 64
REACH = 48
"""Steps that attention looks back at."""
LATENT_WIDTH = 64
"""Channels in which a step is shown each latent."""
_ROTARY_BASE = 1_000.0
_KERNEL = 5
_NUM_BLOCKS = 2 * CONTEXT // (_KERNEL - 1)
LONGEST = 24
"""Latents of the longest unit."""
_PLACES = LONGEST + 1
"""Places in a unit that are told apart, and one for silence without a unit."""


class _UnitBlock(nn.Module):
    """(B,n,U) -> (B, n - 4, U)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mix = nn.Conv1d(width, width, _KERNEL, groups=width)
        self.norm = nn.LayerNorm(width)
        self.widen, self.narrow = nn.Linear(width, 3 * width), nn.Linear(3 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        side = _KERNEL // 2
        mixed = self.norm(self.mix(x.transpose(1, 2)).transpose(1, 2))
        return cast("Tensor", x[:, side:-side] + self.narrow(F.gelu(self.widen(mixed))))


class UnitEncoder(nn.Module):
    """Units with 8 neighbours on each side to encodings, and how long each lasts.

    Args:
        num_units: Ids.
        width: U.
    """

    def __init__(self, num_units: int, width: int) -> None:
        super().__init__()
        self.units = nn.Embedding(num_units, width)
        self.blocks = nn.ModuleList(_UnitBlock(width) for _ in range(_NUM_BLOCKS))
        self.norm = nn.LayerNorm(width)
        self.duration = nn.Linear(width, LONGEST + 1)

    def forward(self, units: Tensor) -> tuple[Tensor, Tensor]:
        """(B, n + 16) -> (B,n,U) encodings, (B,n,LONGEST + 1) logits of latents."""
        x = self.units(units)
        for block in self.blocks:
            x = block(x)
        x = self.norm(x)
        return x, self.duration(x)


class LatentView(nn.Module):
    """What a step is shown of the text: 9 frames of latents, each with its unit and its place in that unit.

    Args:
        unit_width: U.
        width: W.
    """

    def __init__(self, unit_width: int, width: int) -> None:
        super().__init__()
        self.unit = nn.Linear(unit_width, LATENT_WIDTH)
        self.nothing = nn.Embedding(2, LATENT_WIDTH)  # before the answer, while waiting for text
        self.since, self.until = nn.Embedding(_PLACES, LATENT_WIDTH), nn.Embedding(_PLACES, LATENT_WIDTH)
        self.out = nn.Linear(WINDOW * LATENT_WIDTH, width)

    def forward(self, encoded: Tensor, starts: Tensor, durations: Tensor, latents: Tensor) -> Tensor:
        """Show each step its window.

        Args:
            encoded: (B,n,U).
            starts: (B,n) int64, rising; larger than any latent where a row has no unit.
            durations: (B,n) int64.
            latents: (B, WINDOW + 4 * (T - 1)) int64, which latents the steps are shown.

        Returns:
            (B,T,W).
        """
        shown = self.unit(encoded)
        unit = torch.searchsorted(starts, latents, right=True) - 1
        index = unit.clamp(min=0)
        since = latents - starts.gather(1, index)
        until = durations.gather(1, index) - 1 - since
        is_unit = (unit >= 0) & (until >= 0)
        table = shown.gather(1, index[..., None].expand(-1, -1, LATENT_WIDTH))
        table = torch.where(is_unit[..., None], table, self.nothing((latents >= 0).long()))
        last = _PLACES - 1
        seen = table + self.since(since.clamp(0, last - 1).where(is_unit, last))
        seen = seen + self.until(until.clamp(0, last - 1).where(is_unit, last))
        windows = seen.unfold(1, WINDOW, LATENTS_PER_STEP)  # (B,T,LATENT_WIDTH,WINDOW)
        return cast("Tensor", self.out(windows.transpose(2, 3).flatten(2)))


class SpeechBlock(nn.Module):
    """A step of speech looks at the steps before it.

    Args:
        width: W.
        hidden_width: Of the MLP.
    """

    def __init__(self, width: int, hidden_width: int) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(width)
        self.qkv, self.attention_out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp_norm = nn.LayerNorm(width)
        self.widen, self.narrow = nn.Linear(width, hidden_width), nn.Linear(hidden_width, width)

    def forward(self, x: Tensor, times: Tensor, seen: Tensor, cache: KeyValueCache, name: str) -> Tensor:
        """(B,T,W) at times (B,T), each looking at (B,T,L) bool steps -> (B,T,W)."""
        query, key, value = (_heads(part) for part in self.qkv(self.attention_norm(x)).chunk(3, dim=-1))
        keys, values = cache.append(name, _rotated(key, times), value)
        # Written out: torch's fused attention takes longer for so few steps.
        scores = _rotated(query, times) @ keys.transpose(2, 3) * HEAD_WIDTH**-0.5
        shares = scores.masked_fill(~seen[:, None], -torch.inf).softmax(-1)
        x = x + self.attention_out((shares.to(values.dtype) @ values).transpose(1, 2).flatten(2))
        return cast("Tensor", x + self.narrow(F.gelu(self.widen(self.mlp_norm(x)))))


def near(cache: KeyValueCache, steps: int, device: torch.device) -> Tensor:
    """(B,T,L) bool: the latest steps that each of the next ones looks at."""
    places = cache.rows.positions(steps, device)
    held = torch.arange(cache.length + steps, device=device)
    return cache.rows.seen(steps, device) & (held > places[:, :, None] - REACH)


def _heads(x: Tensor) -> Tensor:
    """(B,T,W) -> (B,H,T,HEAD_WIDTH)."""
    return x.view(*x.shape[:2], -1, HEAD_WIDTH).transpose(1, 2)


def _rotated(x: Tensor, times: Tensor) -> Tensor:
    """(B,H,T,HEAD_WIDTH) turned by their times (B,T) (arXiv 2104.09864)."""
    half = HEAD_WIDTH // 2
    rates = _ROTARY_BASE ** (-torch.arange(half, device=x.device, dtype=torch.float32) / half)
    angles = times[:, None, :, None].float() * rates
    cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    left, right = x.chunk(2, dim=-1)
    return torch.cat([left * cos - right * sin, left * sin + right * cos], dim=-1)
