"""What the decoder is taught by: the spectra of the uncut decoder, and the sound that comes of them."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

FFT_SIZES = (2048, 1024, 512, 256)


def spectra_loss(made: Tensor, wanted: Tensor) -> tuple[Tensor, dict[str, float]]:
    """Outputs of two decoders, (B, 5 * 601, T) each -> loss, and its parts."""
    harmonic, theta, breath, rest, phi = made.unflatten(1, (5, -1)).unbind(1)
    harmonic_, theta_, breath_, rest_, phi_ = wanted.unflatten(1, (5, -1)).unbind(1)
    logs = sum((one - other).abs().mean() for one, other in ((harmonic, harmonic_), (breath, breath_), (rest, rest_)))
    assert isinstance(logs, Tensor)
    # A phase counts as much as what it turns is heard: by magnitude, compressed.
    turned = _turned(math.pi * theta.tanh(), math.pi * theta_.tanh(), harmonic_) + _turned(phi, phi_, rest_)
    return logs + turned, {"logs": logs.item(), "phases": turned.item()}


def _turned(angle: Tensor, wanted: Tensor, log_magnitude: Tensor) -> Tensor:
    loud = log_magnitude.clamp(-8, 7).mul(0.3).exp()
    return ((1 - (angle - wanted).cos()) * loud).mean() / loud.mean()


def sound_loss(made: Tensor, wanted: Tensor) -> Tensor:
    """(B,N) each -> spectral convergence and distance of logs, summed over four sizes."""
    loss = made.new_zeros(())
    for size in FFT_SIZES:
        window = torch.hann_window(size, device=made.device)
        one, other = (
            torch.stft(wave, size, size // 4, window=window, return_complex=True).abs().clamp(min=1e-4)
            for wave in (made, wanted)
        )
        loss = loss + (one - other).norm() / other.norm() + 0.5 * F.l1_loss(one.log(), other.log())
    return loss / len(FFT_SIZES)
