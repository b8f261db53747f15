"""Checks the promises of :class:`~anytalk.plugins.contracts.Augmentation` on one second of synthetic sound."""

from __future__ import annotations

from typing import Any

import numpy as np

from anytalk.plugins.contracts import Augmentation
from anytalk.plugins.registry import Registry
from anytalk.plugins.testing.options import built

_RATE_HZ = 16_000
_DRAWS = 8


def check_augmentation(name: str, options: dict[str, Any] | None = None, registry: Registry | None = None) -> None:
    """Check documented options, finite float32 within [-1, 1], repeatability by seed, and an unchanged input."""
    part: Augmentation = built("augmentation", name, registry, options)[0]
    time_s = np.arange(_RATE_HZ) / _RATE_HZ
    wave = (0.4 * np.sin(2 * np.pi * 220 * time_s) * np.sin(np.pi * time_s)).astype(np.float32)  # far from clipping
    given = wave.copy()
    for seed in range(_DRAWS):
        first = part.apply(wave, _RATE_HZ, np.random.default_rng(seed))
        second = part.apply(wave, _RATE_HZ, np.random.default_rng(seed))
        assert np.array_equal(wave, given), f"augmentation '{name}' changes the sound that it was given"
        assert first.dtype == np.float32, f"augmentation '{name}' returns {first.dtype}, not float32"
        assert first.ndim == 1, f"augmentation '{name}' returns {first.ndim} dimensions, not (N,)"
        assert len(first), f"augmentation '{name}' returns no samples"
        assert np.isfinite(first).all(), f"augmentation '{name}' returns samples that are not finite"
        assert float(np.abs(first).max()) <= 1.0, f"augmentation '{name}' leaves [-1, 1]"
        assert np.array_equal(first, second), f"augmentation '{name}' draws chance from elsewhere than its generator"
