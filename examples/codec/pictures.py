"""Pictures of a codec's training: losses, how much of the codebooks is in use, and two spectrograms to compare."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from anytalk.evaluate.spectrogram import draw_spectrogram
from anytalk.files import written_whole

LOSSES = ("mel", "convergence", "vq", "adversarial", "judge")


def draw_training(path: Path, title: str, log: Sequence[dict[str, float]]) -> None:
    """Write a PNG: losses over steps above, perplexity of each stream's codes below.

    Args:
        path: Where to write; beside it first.
        title: Above the picture.
        log: Lines with a ``step`` each.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 7), layout="constrained")
    losses, codes = figure.subplots(2, 1, sharex=True)
    for name in LOSSES:
        _plot(losses, log, name, name)
    streams = sorted({n for line in log for n in line if n.startswith("perplexity.")}, key=lambda n: int(n[11:]))
    for name in streams:
        _plot(codes, log, name, f"stream {name[11:]}")
    losses.set(title=title, ylabel="loss", yscale="log")
    codes.set(xlabel="optimizer step", ylabel="perplexity of codes", ylim=(0, None))
    for axes in (losses, codes):
        axes.grid(alpha=0.3)
        if axes.lines:
            axes.legend(ncols=4, fontsize=8)
    with written_whole(path) as partial:
        figure.savefig(partial, dpi=120, metadata={"Software": None})


def _plot(axes: Any, log: Sequence[dict[str, float]], name: str, label: str) -> None:
    points = [(line["step"], line[name]) for line in log if name in line]
    if points:
        marker = "o" if len(points) == 1 else None
        axes.plot(*zip(*points, strict=True), label=label, linewidth=1.2, marker=marker)


def draw_pair(path: Path, original: np.ndarray, decoded: np.ndarray, sample_rate_hz: int, title: str) -> None:
    """Write a PNG of two spectrograms: the original above what came back.

    Args:
        path: Where to write; beside it first.
        original: (N,) float32.
        decoded: (N,) float32.
        sample_rate_hz: Of both.
        title: What is said.
    """
    from matplotlib import image

    with tempfile.TemporaryDirectory() as folder:
        halves = []
        for name, wave in (("original", original), ("after encoding and decoding", decoded)):
            half = Path(folder) / f"{len(halves)}.png"
            draw_spectrogram(half, wave, sample_rate_hz, f"{name}: {title}")
            halves.append(image.imread(half))
    with written_whole(path) as partial:
        image.imsave(partial, np.concatenate(halves))
