"""Computes fingerprints, which tell the weights of models apart without comparing all of them."""

from __future__ import annotations

import hashlib

from torch import nn

_SAMPLES_PER_TENSOR = 16


def fingerprint(module: nn.Module, without: tuple[str, ...] = ()) -> str:
    """Return a digest of the tensors' names, shapes and a few values: quick, and different for different weights.

    Tensors whose names begin with one of `without` don't count.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        if name.startswith(without):
            continue
        flat = tensor.detach().flatten()
        # Evenly spaced values differ between trainings, and take no time even for large weights.
        step = max(1, flat.numel() // _SAMPLES_PER_TENSOR)
        digest.update(f"{name}{tuple(tensor.shape)}".encode())
        digest.update(flat[::step][:_SAMPLES_PER_TENSOR].float().cpu().numpy().tobytes())
    return digest.hexdigest()[:16]
