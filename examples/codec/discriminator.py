"""A small judge of spectrograms for adversarial training, at three resolutions."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

RESOLUTIONS = (1024, 512, 256)
FEATURE_WEIGHT = 2.0
"""Of feature matching beside the hinge (as in EnCodec and DAC, roughly: both weigh it more)."""

Judgement = list[list[Tensor]]
"""Per resolution: the features of each layer, the verdict last."""


class Discriminator(nn.Module):
    """Convolutions over real and imaginary parts of the STFT (in the manner of EnCodec, Défossez et al. 2022).

    Args:
        channels: Of the inner layers.
    """

    def __init__(self, channels: int = 16) -> None:
        super().__init__()
        for n_fft in RESOLUTIONS:
            self.register_buffer(f"window_{n_fft}", torch.hann_window(n_fft), persistent=False)
        self.judges = nn.ModuleList(
            nn.ModuleList(
                [
                    nn.Conv2d(2, channels, (9, 3), stride=(2, 1), padding=(4, 1)),
                    nn.Conv2d(channels, channels, (9, 3), stride=(2, 1), padding=(4, 1)),
                    nn.Conv2d(channels, channels, (9, 3), stride=(2, 1), dilation=(1, 2), padding=(4, 2)),
                    nn.Conv2d(channels, channels, 3, padding=1),
                    nn.Conv2d(channels, 1, 3, padding=1),
                ]
            )
            for _ in RESOLUTIONS
        )

    def forward(self, wave: Tensor) -> Judgement:
        """(B,N) float32, N above 512 -> what each resolution finds."""
        found: Judgement = []
        for n_fft, layers in zip(RESOLUTIONS, self.judges, strict=True):
            window = getattr(self, f"window_{n_fft}")
            spectrum = torch.stft(wave, n_fft, n_fft // 4, window=window, normalized=True, return_complex=True)
            parts = torch.stack([spectrum.real, spectrum.imag], 1)
            # Loudness compressed to its 0.3rd power: what is heard as soft would else be too small to be judged.
            hidden, features = parts * (parts.square().sum(1, keepdim=True) + 1e-6) ** -0.35, []
            for layer in layers:
                hidden = layer(hidden)
                features.append(hidden)
                hidden = F.leaky_relu(hidden, 0.2)
            found.append(features)
        return found


def judge_loss(true: Judgement, made: Judgement) -> Tensor:
    """What the judge learns from, hinge (Lim and Ye 2017): verdicts above 1 on true sound, below -1 on made sound."""
    pairs = zip(true, made, strict=True)
    losses = [F.relu(1 - t[-1]).mean() + F.relu(1 + m[-1]).mean() for t, m in pairs]
    return torch.stack(losses).mean()


def codec_loss(true: Judgement, made: Judgement) -> Tensor:
    """What the codec learns from: please the judge, and look alike on the way there (feature matching)."""
    please = torch.stack([-m[-1].mean() for m in made]).mean()
    alike = torch.stack([_distance(t, m) for t, m in zip(true, made, strict=True)]).mean()
    return please + FEATURE_WEIGHT * alike


def _distance(true: Sequence[Tensor], made: Sequence[Tensor]) -> Tensor:
    layers = zip(true[:-1], made[:-1], strict=True)
    return torch.stack(
        [(t.detach() - m).abs().mean() / t.detach().abs().mean().clamp(min=1e-3) for t, m in layers]
    ).mean()
