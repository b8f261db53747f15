"""Convolutions that see a little of the future, alone or in a stream.

A layer that sees `future` columns ahead gives that many fewer at first and the rest when told that the last has come.

Letters: B batch, W channels, T columns.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["Block", "ChannelNorm", "FutureConv", "Past"]

KERNEL = 7
Past = dict[nn.Module, Tensor]
"""What a stream remembers: the last inputs of each convolution, (B, W, 6) or fewer at the start."""


class ChannelNorm(nn.LayerNorm):
    """Layer norm over the channels of (B,W,T)."""

    def forward(self, hidden: Tensor) -> Tensor:
        """(B,W,T) -> (B,W,T)."""
        return super().forward(hidden.transpose(1, 2)).transpose(1, 2)


class FutureConv(nn.Module):
    """A convolution over 7 columns, `future` of them later than its output.

    Args:
        width_in: Channels that come in.
        width: Channels that go out.
        future: 0 (causal) to 6.
        groups: 1, or `width` for a convolution of each channel by itself.
    """

    def __init__(self, width_in: int, width: int, future: int, groups: int = 1) -> None:
        super().__init__()
        self.future, self.width_in = future, width_in
        self.conv = nn.Conv1d(width_in, width, KERNEL, groups=groups)

    def windows(self, hidden: Tensor, past: Past, last: bool) -> Tensor:
        """(B,W,T) next columns -> what the convolution reads, its past before it; advances the past."""
        before = past.get(self)
        if before is None:
            before = hidden.new_zeros((len(hidden), self.width_in, KERNEL - 1 - self.future))
        joined = torch.cat([before, hidden], -1)
        if last:
            joined = F.pad(joined, (0, self.future))
        past[self] = joined[..., -(KERNEL - 1) :]
        return joined

    def forward(self, hidden: Tensor, past: Past, last: bool) -> Tensor:
        """(B,W,T) -> (B,W,T'), T' less than T only at the start, more only at the end."""
        return self.over(self.windows(hidden, past, last))

    def over(self, joined: Tensor) -> Tensor:
        """(B, W, n) of :meth:`windows` -> (B, W, n - 6)."""
        if joined.shape[-1] < KERNEL:
            return joined.new_zeros((len(joined), self.conv.out_channels, 0))
        mixed: Tensor = self.conv(joined)
        return mixed


class Block(nn.Module):
    """Depthwise convolution, norm, two linear layers, residual: ConvNeXt in one dimension, as hibari's decoder has it.

    Args:
        width: Channels.
        hidden: Width between the two linear layers.
        future: Columns that it sees ahead.
    """

    def __init__(self, width: int, hidden: int, future: int) -> None:
        super().__init__()
        self.mix = FutureConv(width, width, future, groups=width)
        self.norm = nn.LayerNorm(width)
        self.widen = nn.Linear(width, hidden)
        self.narrow = nn.Linear(hidden, width)
        self.scale = nn.Parameter(torch.full((width,), 0.1))

    def forward(self, hidden: Tensor, past: Past, last: bool) -> Tensor:
        """(B,W,T) -> (B,W,T')."""
        joined = self.mix.windows(hidden, past, last)
        mixed = self.mix.over(joined)
        if not mixed.shape[-1]:
            return mixed
        mixed = self.narrow(F.gelu(self.widen(self.norm(mixed.transpose(1, 2))))) * self.scale
        start = KERNEL - 1 - self.mix.future
        changed: Tensor = joined[..., start : start + mixed.shape[1]] + mixed.transpose(1, 2)
        return changed
