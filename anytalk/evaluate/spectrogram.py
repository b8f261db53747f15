"""Draw the spectrogram of a wave: sharp vertical edges are consonants, parallel bands are voiced sounds."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from anytalk.plugins.optional import require

_WINDOW_S = 0.025
_HOP_S = 0.005
_RANGE_DB = 80.0


def draw_spectrogram(path: Path, wave: np.ndarray, sample_rate_hz: int, title: str) -> None:
    """Write a PNG of the samples (N,) float32; sound shorter than one window is padded with silence."""
    require("a spectrogram", "report", "matplotlib")
    from matplotlib.figure import Figure
    from matplotlib.mlab import window_hanning

    window = int(_WINDOW_S * sample_rate_hz)
    wave = np.pad(wave, (0, max(0, window - len(wave))))
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    axes = figure.subplots()
    power, _, _, image = axes.specgram(
        # Noise far below hearing keeps digital silence from being log(0).
        wave + 1e-7 * np.random.default_rng(0).standard_normal(len(wave)),
        NFFT=window,
        noverlap=window - int(_HOP_S * sample_rate_hz),
        Fs=sample_rate_hz,
        window=window_hanning,
        pad_to=1024,
        cmap="magma",
    )
    top = 10 * float(np.log10(power.max()))
    image.set_clim(top - _RANGE_DB, top)
    axes.set(title=title, xlabel="seconds", ylabel="Hz")
    figure.colorbar(image, ax=axes, label="dB")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
