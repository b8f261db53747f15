"""What a voice says 40 times a second: 134 slow numbers, and what hibari's decoder reads of them.

=========  =====================================================================
0 to 127   features of the phoneme
128, 129   1 where the first, the second half (12.5 ms) is voiced, else 0
130, 131   log(1 + Hz) / 5 of the pitch, drawn straight through what is unvoiced
132, 133   energy
=========  =====================================================================
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["NUM_FEATURES", "NUM_LATENTS", "WEIGHTS", "columns", "from_hibari", "pitch_hz"]

NUM_FEATURES, NUM_LATENTS, NUM_COLUMN = 128, 134, 130
VOICED = slice(128, 130)
PITCH = slice(130, 132)
ENERGY = slice(132, 134)
VOICED_FROM = 0.5
"""Of the flags."""
LEAST_PITCH = 0.85
"""69 Hz: under it hibari glides into a voiced part, and its pulses are silent or nearly so."""
NO_PITCH = 1.05
"""Pitch of an utterance without a voiced part, in log(1 + Hz) / 5."""
WEIGHTS = torch.cat([torch.ones(128), torch.full((2,), 8.0), torch.full((2,), 16.0), torch.full((2,), 8.0)])
"""What an error of each latent counts, once they are standardised: sound hangs on pitch first."""


def from_hibari(halves: Tensor) -> Tensor:
    """(N,132) of one utterance, features, then pitch and energy of each half -> (N,134)."""
    halves = halves.float()
    pitch = halves[:, [128, 130]].reshape(-1)
    voiced = pitch > LEAST_PITCH
    known = voiced.nonzero()[:, 0]
    if len(known):
        place = torch.arange(len(pitch))
        after = torch.searchsorted(known, place).clamp(max=len(known) - 1)
        before = (torch.searchsorted(known, place, right=True) - 1).clamp(min=0)
        start, end = known[before], known[after]
        share = ((place - start) / (end - start).clamp(min=1)).clamp(0, 1)
        pitch = pitch[start] + (pitch[end] - pitch[start]) * share
    else:
        pitch = torch.full_like(pitch, NO_PITCH)
    return torch.cat([halves[:, :128], voiced.float().view(-1, 2), pitch.view(-1, 2), halves[:, [129, 131]]], 1)


def columns(latents: Tensor) -> Tensor:
    """(B,134,T) -> (B, 130, 2T): 80 a second, what the voice decoder reads."""
    features = latents[:, :NUM_FEATURES].repeat_interleave(2, -1)
    voiced, pitch, energy = (_unfolded(latents[:, part]) for part in (VOICED, PITCH, ENERGY))
    pitch = torch.where(voiced > VOICED_FROM, pitch, 0.0)
    return torch.cat([features, pitch[:, None], energy[:, None]], 1)


def pitch_hz(columns: Tensor) -> Tensor:
    """(B,130,T) -> (B,T), 0 where unvoiced."""
    return (columns[:, 128] * 5).clamp(0, 8).exp() - 1


def _unfolded(halves: Tensor) -> Tensor:
    """(B,2,T) -> (B, 2T)."""
    return halves.transpose(1, 2).flatten(1)
