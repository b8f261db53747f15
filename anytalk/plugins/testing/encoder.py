"""Checks the promises of :class:`~anytalk.plugins.contracts.SpeechEncoder` on short noise."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from anytalk.plugins.contracts import SpeechEncoder
from anytalk.plugins.registry import Registry
from anytalk.plugins.testing.options import built

DURATIONS_S = (0.3, 0.31, 0.7)  # two that differ by less than most frames, and a longer one
TOLERANCE = 1e-4


def check_speech_encoder(
    name_or_part: str | SpeechEncoder, registry: Registry | None = None, options: dict[str, Any] | None = None
) -> None:
    """Check shapes, lengths, independence of rows, determinism, gradients and documented options."""
    part, called = built("speech encoder", name_or_part, registry, options)
    was_training = part.training
    part.eval()
    wave, lengths = _noise(part.sample_rate_hz)
    with torch.no_grad():
        features, frames = part(wave, lengths)
        again, _ = part(wave, lengths)
    _check_shapes(part, called, lengths, features, frames)
    assert torch.equal(features, again), f"{called}: the same sound gave other features the second time"
    _check_rows(part, called, wave, lengths, features, frames)
    _check_gradient(part, called, wave, lengths)
    part.train(was_training)


def _noise(sample_rate_hz: int) -> tuple[Tensor, Tensor]:
    lengths = torch.tensor([round(duration_s * sample_rate_hz) for duration_s in DURATIONS_S])
    generator = torch.Generator().manual_seed(0)
    return 0.1 * torch.randn(len(lengths), int(lengths.max()), generator=generator), lengths


def _check_shapes(part: SpeechEncoder, called: str, lengths: Tensor, features: Tensor, frames: Tensor) -> None:
    assert features.ndim == 3, f"{called}: features must be (B,F,E), got {tuple(features.shape)}"
    assert features.shape[0] == len(lengths), f"{called}: {len(lengths)} clips gave {features.shape[0]} rows"
    assert features.shape[2] == part.width, f"{called}: width is {part.width}, features have {features.shape[2]}"
    assert features.is_floating_point(), f"{called}: features must be floating point, got {features.dtype}"
    assert torch.isfinite(features).all(), f"{called}: features are not all finite"
    assert frames.shape == lengths.shape, f"{called}: frames must be (B,), got {tuple(frames.shape)}"
    assert frames.dtype == torch.int64, f"{called}: frames must be int64, got {frames.dtype}"
    assert int(frames.min()) >= 1, f"{called}: a clip of {DURATIONS_S[0]} s gave no frame"
    assert int(frames.max()) <= features.shape[1], f"{called}: more frames count than there are: {frames.tolist()}"
    assert bool((frames.diff() >= 0).all()), f"{called}: a longer clip gave fewer frames: {frames.tolist()}"
    most = part.max_duration_s
    assert most is None or most >= max(DURATIONS_S), f"{called}: max_duration_s {most} is no length of speech"
    expected = lengths / part.sample_rate_hz * part.frame_rate_hz
    # Encoders may pad the ends and round the number of frames.
    assert bool(((frames - expected).abs() <= 2).all()), (
        f"{called}: frames {frames.tolist()} don't fit {part.frame_rate_hz} per second over {DURATIONS_S} s"
    )


def _check_rows(
    part: SpeechEncoder, called: str, wave: Tensor, lengths: Tensor, features: Tensor, frames: Tensor
) -> None:
    """Check that neither padding nor other rows change a row's frames."""
    for row, (num_samples, num_frames) in enumerate(zip(lengths.tolist(), frames.tolist(), strict=True)):
        with torch.no_grad():
            alone, alone_frames = part(wave[row : row + 1, :num_samples], lengths[row : row + 1])
        assert alone_frames.tolist() == [num_frames], f"{called}: row {row} alone has {alone_frames.tolist()} frames"
        error = float((alone[0, :num_frames] - features[row, :num_frames]).detach().abs().max())
        assert error <= TOLERANCE, f"{called}: row {row} differs by {error:.2g} when encoded alone"


def _check_gradient(part: SpeechEncoder, called: str, wave: Tensor, lengths: Tensor) -> None:
    parameters = [p for p in part.parameters() if p.requires_grad]
    if not parameters:
        return
    features, frames = part(wave, lengths)
    counted = torch.cat([feature[:n] for feature, n in zip(features, frames.tolist(), strict=True)])
    # A plain sum would be constant after a layer norm.
    gradients = torch.autograd.grad(counted.square().sum() + counted[:, 0].sum(), parameters, allow_unused=True)
    reached = [g for g in gradients if g is not None and bool(g.abs().sum() > 0)]
    assert reached, f"{called}: no gradient reaches any parameter; it could never be trained"
