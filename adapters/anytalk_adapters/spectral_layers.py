"""The layers of the spectral codec: log-mel, ConvNeXt block, overlap-add. No codes, no weights' files.

Letters: B batch, N samples, W channels, T latents (one per STFT hop).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

KERNEL = 7
"""Kernel of all convolutions."""


def htk_mel_filters(sample_rate_hz: int, n_fft: int, num_mels: int) -> Tensor:
    """(n_fft // 2 + 1, num_mels) float32: triangles of height 1 up to the Nyquist rate, evenly spaced in HTK mel."""
    nyquist_hz = sample_rate_hz / 2
    bins_hz = torch.linspace(0, nyquist_hz, n_fft // 2 + 1, dtype=torch.float64)
    highest_mel = 2595.0 * torch.log10(torch.tensor(1.0 + nyquist_hz / 700.0, dtype=torch.float64))
    mels = torch.linspace(0, 1, num_mels + 2, dtype=torch.float64) * highest_mel
    corners_hz = 700.0 * (10.0 ** (mels / 2595.0) - 1.0)
    left, centre, right = corners_hz[:-2], corners_hz[1:-1], corners_hz[2:]
    rising = (bins_hz[:, None] - left) / (centre - left)
    falling = (right - bins_hz[:, None]) / (right - centre)
    return torch.minimum(rising, falling).clamp(min=0).float()


class LogMel(nn.Module):
    """Log-mel spectrogram, one column per hop."""

    window: Tensor
    filters: Tensor

    def __init__(self, sample_rate_hz: int, n_fft: int, hop: int, num_mels: int) -> None:
        super().__init__()
        self.n_fft, self.hop = n_fft, hop
        # Both are computed, so they are no part of the weights.
        self.register_buffer("window", torch.hann_window(n_fft), persistent=False)
        self.register_buffer("filters", htk_mel_filters(sample_rate_hz, n_fft, num_mels), persistent=False)

    def forward(self, wave: Tensor) -> Tensor:
        """(B,N), N a multiple of the hop and longer than half a window -> (B, num_mels, N / hop)."""
        edge = (self.n_fft - self.hop) // 2
        padded = F.pad(wave, (edge, edge), mode="reflect")
        spectrum = torch.stft(padded, self.n_fft, self.hop, window=self.window, center=False, return_complex=True).abs()
        mel = torch.einsum("bft,fm->bmt", spectrum, self.filters)
        return mel.clamp(min=1e-5).log() * 0.3 + 1.0


class ChannelNorm(nn.LayerNorm):
    """Layer norm over the channels of (B,W,T)."""

    def forward(self, hidden: Tensor) -> Tensor:
        """(B,W,T) -> (B,W,T)."""
        return super().forward(hidden.transpose(1, 2)).transpose(1, 2)


class ConvNeXtBlock(nn.Module):
    """Depthwise convolution, norm, two linear layers, residual (Liu et al. 2022; one-dimensional as in Vocos).

    The caller pads: (B, W, T + 6) -> (B,W,T). So one block serves a look-ahead on both sides and a stream that keeps
    its own past.

    Args:
        hidden: Width between the two linear layers.
        look_ahead: How many of the 6 extra columns stand behind the output; 0 is causal.
    """

    def __init__(self, width: int, hidden: int, look_ahead: int) -> None:
        super().__init__()
        self.before = KERNEL - 1 - look_ahead
        self.depthwise = nn.Conv1d(width, width, KERNEL, groups=width)
        self.norm = nn.LayerNorm(width)
        self.widen = nn.Linear(width, hidden)
        self.narrow = nn.Linear(hidden, width)
        self.scale = nn.Parameter(torch.ones(width))

    def forward(self, padded: Tensor) -> Tensor:
        """(B, W, T + 6) -> (B,W,T)."""
        mixed: Tensor = self.depthwise(padded)
        mixed = self.narrow(F.gelu(self.widen(self.norm(mixed.transpose(1, 2))))) * self.scale
        residual = padded[..., self.before : self.before + mixed.shape[1]]
        return residual + mixed.transpose(1, 2)


def overlap_add(frames: Tensor, hop: int, head: Tensor) -> tuple[Tensor, Tensor]:
    """Lay windows over one another, continuing an earlier sum.

    Args:
        frames: (B,T,n) windows, each `hop` later than the one before; T >= 1.
        hop: Samples between windows; at most n.
        head: (B, n - hop) sum left by the windows before (zeros at the start).

    Returns:
        (B, T * hop) finished samples, and (B, n - hop) to be the next `head`.
    """
    num_frames, size = frames.shape[1:]
    total = num_frames * hop + size - hop
    laid = F.fold(frames.transpose(1, 2), (1, total), (1, size), stride=(1, hop))[:, 0, 0]
    laid = laid + F.pad(head, (0, total - head.shape[1]))
    return laid[:, : num_frames * hop], laid[:, num_frames * hop :]
