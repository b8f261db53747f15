"""Apply the augmentations of ``data.yaml``, seeded per row: a row with the same id always sounds the same."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

import numpy as np

from anytalk.errors import PluginError
from anytalk.plugins.components import PartRef
from anytalk.plugins.contracts import Augmentation
from anytalk.plugins.registry import Registry

Augment = Callable[[np.ndarray, int, str], np.ndarray]
"""Changes a sound: takes samples (N,) float32, their rate in Hz and the row's id, and returns (N',) float32."""


def make_augment(refs: Sequence[PartRef], seed: int, registry: Registry) -> Augment | None:
    """Build the augmentations and join them into one function.

    Args:
        refs: Names and options, in the order in which they are applied.
        seed: Seeds every random choice, together with the row's id and the augmentation's position, so that neither the
            order of the rows nor the number of workers matters.

    Returns:
        The joint augmentation, or None if `refs` is empty.

    Raises:
        AnytalkError: an unknown name or wrong options.
    """
    if not refs:
        return None
    steps: list[tuple[str, Augmentation]] = [(ref.name, registry.build("augmentation", ref)) for ref in refs]

    def augment(wave: np.ndarray, sample_rate_hz: int, row_id: str) -> np.ndarray:
        """Apply all augmentations to one sound; see :data:`Augment`."""
        digest = int.from_bytes(hashlib.sha256(row_id.encode()).digest()[:8], "little")
        for place, (name, step) in enumerate(steps):
            changed = step.apply(wave, sample_rate_hz, np.random.default_rng((seed, digest, place)))
            wave = _checked(changed, name, row_id)
        return wave

    return augment


def _checked(wave: np.ndarray, name: str, row_id: str) -> np.ndarray:
    """Check what an augmentation, which may be someone else's code, returned; PluginError if it isn't a sound."""
    if wave.ndim != 1 or len(wave) == 0 or not np.isfinite(wave).all():
        raise PluginError(
            f"augmentation '{name}' returned for {row_id} something that is not sound: shape {wave.shape}",
            "it has to return (N,) finite float32 samples; leave it out of `augment:` in data.yaml",
        )
    return np.ascontiguousarray(wave, dtype=np.float32)
