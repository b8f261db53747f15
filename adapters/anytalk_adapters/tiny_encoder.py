"""Implements the speech encoder ``tiny`` for tests: a seeded, untrained log-mel projection in plain torch."""

from __future__ import annotations

from typing import Any, Self

import torch
from pydantic import Field
from torch import Tensor, nn

from anytalk import plugins
from anytalk.errors import AudioError
from anytalk.plugins.components import BuildContext
from anytalk.plugins.contracts import SpeechEncoder

SAMPLE_RATE_HZ = 16000
SAMPLES_PER_FRAME = 320
WINDOW = 400
NUM_MELS = 32


def mel_filters(num_mels: int, window: int, sample_rate_hz: int) -> Tensor:
    """Return triangular filters (num_mels, window // 2 + 1), evenly spaced on the mel scale 2595 log10(1 + f / 700)."""
    top = 2595.0 * torch.log10(torch.tensor(1.0 + sample_rate_hz / 2 / 700.0))
    corners = 700.0 * (10.0 ** (torch.linspace(0.0, float(top), num_mels + 2) / 2595.0) - 1.0)
    bins = torch.linspace(0.0, sample_rate_hz / 2, window // 2 + 1)
    left, middle, right = (corners[i : i + num_mels, None] for i in range(3))
    return torch.minimum((bins - left) / (middle - left), (right - bins) / (right - middle)).clamp(min=0.0)


class TinyEncoder(SpeechEncoder):
    """Passes log-mel frames through two linear layers, 50 per second; frame f sees samples 320 f .. 320 f + 399.

    Args:
        width: E.
        seed: Seed of the weights; the global random state is neither read nor changed.
        max_duration_s: Longest question; None for any.
    """

    licence = "MIT"
    window: Tensor
    filters: Tensor

    class Options(plugins.Options):
        width: int = Field(default=16, gt=0, description="Numbers per feature frame (E).")
        seed: int = Field(default=0, description="Seed of the weights.")
        max_duration_s: float | None = Field(default=30.0, gt=0, description="Longest question; null: any.")

    def __init__(self, width: int = 16, seed: int = 0, max_duration_s: float | None = 30.0) -> None:
        super().__init__()
        self._max_duration_s = max_duration_s
        generator = torch.Generator().manual_seed(seed)
        self.register_buffer("window", torch.hann_window(WINDOW), persistent=False)
        self.register_buffer("filters", mel_filters(NUM_MELS, WINDOW, SAMPLE_RATE_HZ), persistent=False)
        self.enter = _seeded_linear(NUM_MELS, 2 * width, generator)
        self.leave = _seeded_linear(2 * width, width, generator)

    @classmethod
    def build(cls, options: Any, context: BuildContext) -> Self:
        """Build the encoder from its options, always in float32."""
        return cls(options.width, options.seed, options.max_duration_s).to(context.device)

    @property
    def sample_rate_hz(self) -> int:
        return SAMPLE_RATE_HZ

    @property
    def frame_rate_hz(self) -> float:
        return SAMPLE_RATE_HZ / SAMPLES_PER_FRAME

    @property
    def width(self) -> int:
        """Return E."""
        return self.leave.out_features

    @property
    def max_duration_s(self) -> float | None:
        """Return the option's value; the encoder itself has no limit."""
        return self._max_duration_s

    def forward(self, wave: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Encode (B,N) float32 at 16 kHz, right-padded, with (B,) lengths: (B,F,E), and (B,) ceil(samples / 320).

        Raises:
            AudioError: A row has no samples.
        """
        if int(lengths.min()) < 1:
            raise AudioError("a clip without samples can't be encoded", "record it again")
        counted = (lengths + SAMPLES_PER_FRAME - 1) // SAMPLES_PER_FRAME
        num_frames = int(counted.max())
        num_samples = (num_frames - 1) * SAMPLES_PER_FRAME + WINDOW
        # Padding is cleared: the last frame of a row reaches up to 399 samples past its end.
        inside = torch.arange(wave.shape[1], device=wave.device) < lengths[:, None]
        padded = nn.functional.pad(wave * inside, (0, max(0, num_samples - wave.shape[1])))
        windows = padded[:, :num_samples].unfold(1, WINDOW, SAMPLES_PER_FRAME) * self.window  # (B,F,400)
        power = torch.fft.rfft(windows).abs().square() @ self.filters.T  # (B,F,mels)
        # The scale of Whisper's log mel; silence becomes -1.
        mel = (power.clamp(min=1e-8).log10() + 4.0) / 4.0
        return self.leave(nn.functional.gelu(self.enter(mel))), counted


def _seeded_linear(inputs: int, outputs: int, generator: torch.Generator) -> nn.Linear:
    # On the meta device no weights are drawn, so the global random state stays as it is.
    layer = nn.Linear(inputs, outputs, device="meta").to_empty(device="cpu")
    with torch.no_grad():
        layer.weight.normal_(std=inputs**-0.5, generator=generator)
        layer.bias.zero_()
    return layer
