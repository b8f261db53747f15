"""How far a decoded wave is from the original: mel and spectral distances at four resolutions."""

from __future__ import annotations

import torch
from torch import Tensor, nn

RESOLUTIONS = ((2048, 80), (1024, 80), (512, 40), (256, 20))
"""STFT sizes in samples, and mel filters; the hop is a quarter."""
MEL_WEIGHT = 3.0


class SpectralLoss(nn.Module):
    """L1 between log10 mel spectrograms, and spectral convergence, summed over four STFT sizes.

    Spectral convergence (Arik et al. 2018) is the norm of the difference of magnitudes over the norm of the original's,
    over the whole batch, so that silent crops don't divide by nothing.

    Args:
        sample_rate_hz: Of both waves.
    """

    def __init__(self, sample_rate_hz: int) -> None:
        super().__init__()
        for n_fft, num_mels in RESOLUTIONS:
            self.register_buffer(f"window_{n_fft}", torch.hann_window(n_fft), persistent=False)
            filters = htk_mel_filters(sample_rate_hz, n_fft, num_mels)
            self.register_buffer(f"filters_{n_fft}", filters, persistent=False)

    def forward(self, decoded: Tensor, wave: Tensor) -> dict[str, Tensor]:
        """Two (B,N) float32, N above 1024 -> scalars ``mel`` and ``convergence``, not yet weighted."""
        mel = convergence = wave.new_zeros(())
        for n_fft, _ in RESOLUTIONS:
            ours, theirs = self._magnitudes(decoded, n_fft), self._magnitudes(wave, n_fft)
            filters = getattr(self, f"filters_{n_fft}")
            logs = [(filters.T @ m).clamp(min=1e-5).log10() for m in (ours, theirs)]
            mel = mel + (logs[0] - logs[1]).abs().mean()
            # The floors keep the gradient of the root finite, and silence from being a division by zero.
            difference = ((ours - theirs).square().sum() + 1e-12).sqrt()
            convergence = convergence + difference / theirs.square().sum().sqrt().clamp(min=1e-2)
        return {"mel": mel, "convergence": convergence}

    def _magnitudes(self, wave: Tensor, n_fft: int) -> Tensor:
        window = getattr(self, f"window_{n_fft}")
        return torch.stft(wave, n_fft, n_fft // 4, window=window, return_complex=True).abs()


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
