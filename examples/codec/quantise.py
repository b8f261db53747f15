"""SNAC's quantiser while it learns: the same arithmetic as ``snac.vq``, with its losses, and dead codes restarted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

COMMITMENT = 0.25
USE_DECAY = 0.9
"""Per step, of a code's running use: an unused code falls from 1 to 0.02 in 38 steps."""


@dataclass
class Quantised:
    """What came out.

    Attributes:
        latents: (B,W,T) float32, straight-through.
        codes: One (B, T / stride) int64 per codebook.
        loss: Scalar: codebook loss + 0.25 commitment, summed over codebooks (van den Oord et al. 2017).
    """

    latents: Tensor
    codes: list[Tensor]
    loss: Tensor


def quantise(quantizer: Any, latents: Tensor) -> Quantised:
    """Run a ``ResidualVectorQuantize`` on (B,W,T); latents and codes are bit for bit those of its own `forward`.

    Its own gives no losses, and lets no gradient reach the codebooks.
    """
    total: Tensor | None = None
    residual = latents
    codes, loss = [], latents.new_zeros(())
    for part in quantizer.quantizers:
        projected = part.in_proj(_pool(part, residual))
        chosen, ids = part.decode_latents(projected)
        loss = loss + F.mse_loss(chosen, projected.detach()) + COMMITMENT * F.mse_loss(projected, chosen.detach())
        sound = _unpool(part, part.out_proj(projected + (chosen - projected).detach()))
        total = sound if total is None else total + sound
        residual = residual - sound
        codes.append(ids)
    assert total is not None
    return Quantised(total, codes, loss)


def update_use(use: Sequence[Tensor], codes: Sequence[Tensor]) -> None:
    """Move each codebook's running use (C,), in uses per step, towards this step's counts; in place."""
    for running, ids in zip(use, codes, strict=True):
        counts = torch.bincount(ids.flatten(), minlength=len(running)).to(running.dtype)
        running.mul_(USE_DECAY).add_(counts, alpha=1 - USE_DECAY)


@torch.no_grad()
def restart_dead(
    quantizer: Any, latents: Tensor, use: Sequence[Tensor], below: float, random: np.random.Generator
) -> list[int]:
    """Put random encoder outputs in place of codes whose running use is below a threshold (as Jukebox does, 2020).

    Coarse to fine: a finer codebook sees the residual that the repaired coarser ones leave.

    Args:
        quantizer: A ``ResidualVectorQuantize``; its codebooks change.
        latents: (B,W,T) of the encoder. No output is taken twice, so fewer outputs than dead codes repair only as many.
        use: (C,) per codebook; a restarted code starts at 1.
        below: Uses per step.
        random: Which outputs.

    Returns:
        Restarted codes of each codebook.
    """
    residual, restarted = latents, []
    for part, running in zip(quantizer.quantizers, use, strict=True):
        projected = part.in_proj(_pool(part, residual))
        outputs = projected.transpose(1, 2).flatten(0, 1)
        dead = (running < below).nonzero().flatten()
        dead = dead[torch.from_numpy(random.permutation(len(dead))).to(dead.device)][: len(outputs)]
        taken = torch.from_numpy(random.permutation(len(outputs))[: len(dead)]).to(dead.device)
        part.codebook.weight[dead] = outputs[taken]
        running[dead] = 1.0
        restarted.append(len(dead))
        residual = residual - _unpool(part, part.out_proj(part.decode_latents(projected)[0]))
    return restarted


def _pool(part: Any, residual: Tensor) -> Tensor:
    return F.avg_pool1d(residual, part.stride, part.stride) if part.stride > 1 else residual


def _unpool(part: Any, sound: Tensor) -> Tensor:
    return sound.repeat_interleave(part.stride, dim=-1) if part.stride > 1 else sound


def stream_figures(counts: Tensor) -> dict[str, float]:
    """(K,C) counts -> per stream ``used.k`` (share of codes that occurred) and ``perplexity.k`` (e to the entropy).

    A stream without any count has none of the two.
    """
    figures = {}
    for k, row in enumerate(counts.double()):
        total = float(row.sum())
        if total:
            share = row[row > 0] / total
            figures[f"used.{k}"] = float((row > 0).double().mean())
            figures[f"perplexity.{k}"] = float((-(share * share.log()).sum()).exp())
    return figures
