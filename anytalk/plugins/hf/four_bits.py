"""Quantises weights to 4 bits in blocks, as ONNX Runtime's ``MatMulNBits`` multiplies them.

A block of 32 inputs has 16 evenly spaced values. ``MatMulNBits`` takes a scale and an integer zero point for each
block, so one of the values must be zero. The blocks of llama.cpp's Q4_1 have any lowest value, and forcing zero on them
costs as much as quantising them once more. What is missing to the true offset is the same for all inputs of a block, so
it is multiplied by their mean: the means are further inputs of the same product, one for 32 others. With it, files of
Q4_0 and Q4_1 keep their weights; other weights are quantised without it.

Letters: N outputs, K inputs, n blocks of K.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

BLOCK = 32
"""Inputs of a block."""
LEVELS = 15
"""The largest of a block's 16 values, counted from 0."""
_TINY = 1e-12
_EXACT = 1e-4
"""Weights count as having been in 4 bits before if the squared error is below this share of their squares."""
_ROUNDING = 1e-3
"""Offsets below this share of the scale are rounding errors of the file's own scales."""
_AT_ONCE = 2**20
"""How many weights are quantised at once, so that the temporary tensors stay small."""


def quantise(weight: Tensor) -> dict[str, Tensor]:
    """Quantise a matrix to 4 bits.

    Args:
        weight: (N,K) of a floating dtype, on the CPU.

    Returns:
        ``codes`` (N,n',16) uint8, two to a byte and the first one low; ``scales`` (N*n') float32; ``zeros``
        (N*ceil(n'/2)) uint8, two to a byte. n' is n, or more if the means of the blocks are inputs too (see
        :func:`has_means`).
    """
    pieces = torch.split(weight, max(1, _AT_ONCE // weight.shape[1]))
    most = _EXACT * float(torch.linalg.vector_norm(weight, dtype=torch.float32)) ** 2
    parts = []
    for rows in pieces:
        *part, errors = _with_offsets(rows.float())
        parts.append(part)
        most -= float(errors.sum())
        if most < 0:  # these weights didn't have 4 bits: offsets would save too little to be worth their time
            return _packed(*_joined([_with_zeros(rows.float()) for rows in pieces]))
    values, scales, offsets = _joined(parts)
    zeros = (-offsets / scales).round_().clamp_(0, LEVELS)
    missing = offsets + zeros * scales
    if bool((missing.abs() > _ROUNDING * scales).any()):
        more = _with_zeros(missing * BLOCK)
        values, scales, zeros = (torch.cat(pair, dim=1) for pair in zip((values, scales, zeros), more, strict=True))
    return _packed(values, scales, zeros)


def has_means(made: dict[str, Tensor], num_inputs: int) -> bool:
    """Return whether this matrix has the means of its blocks as further inputs."""
    return made["codes"].shape[1] > -(-num_inputs // BLOCK)


def restore(made: dict[str, Tensor], num_inputs: int) -> Tensor:
    """Return the weights that a matrix stands for, (N,K) float32."""
    codes = made["codes"]
    values = torch.stack([codes & 15, codes >> 4], dim=-1).flatten(2).float()
    scales = made["scales"].view(len(codes), -1, 1)
    packed = made["zeros"].view(len(codes), -1)
    zeros = torch.stack([packed & 15, packed >> 4], dim=-1).flatten(1)[:, : scales.shape[1], None].float()
    flat = ((values - zeros) * scales).flatten(1)
    if not has_means(made, num_inputs):
        return flat[:, :num_inputs]
    blocks = -(-num_inputs // BLOCK)
    offsets = flat[:, blocks * BLOCK : blocks * (BLOCK + 1)] / BLOCK
    whole = flat[:, : blocks * BLOCK].view(-1, blocks, BLOCK) + offsets[..., None]
    return whole.flatten(1)[:, :num_inputs]


def _packed(values: Tensor, scales: Tensor, zeros: Tensor) -> dict[str, Tensor]:
    """Return values (N,n,32) uint8, scales and zeros (N,n) as :func:`quantise` does."""
    return {
        "codes": _paired(values),
        "scales": scales.flatten(),
        "zeros": _paired(zeros.to(torch.uint8)).flatten(),
    }


def _joined(parts: Sequence[Sequence[Tensor]]) -> list[Tensor]:
    """Join the results for some rows each, column by column."""
    return [torch.cat(column) for column in zip(*parts, strict=True)]


def _blocks(rows: Tensor) -> Tensor:
    """Cut (N,K) into (N,n,32), with zeros after K."""
    return F.pad(rows, (0, -rows.shape[1] % BLOCK)).view(len(rows), -1, BLOCK)


def _with_offsets(rows: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Quantise (N,K) as llama.cpp does: a weight is scale * value + offset.

    Returns:
        Values (N,n,32) uint8; scales, offsets and squared errors, (N,n) float32 each.
    """
    blocks = _blocks(rows)
    lowest, highest = blocks.aminmax(dim=-1)
    # Q4_1: evenly from the lowest to the highest.
    first = _fit(blocks, (highest - lowest) / LEVELS, lowest)
    # Q4_0: 8 steps to the weight that is farthest from 0, and 7 to the other side.
    second = _fit(
        blocks, torch.maximum(-lowest, highest) / 8, torch.where(-lowest > highest, lowest, highest * (-7 / 8))
    )
    nearer = second[3] < first[3]
    values = torch.where(nearer[..., None], second[0], first[0])
    scales, offsets, errors = (torch.where(nearer, *pair) for pair in zip(second[1:], first[1:], strict=True))
    return values, scales, offsets, errors


def _with_zeros(rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Quantise (N,K): a weight is scale * (value - zero); values (N,n,32) uint8, scales and zeros (N,n)."""
    blocks = _blocks(rows)
    lowest, highest = blocks.amin(dim=-1).clamp_max_(0), blocks.amax(dim=-1).clamp_min_(0)
    scales = ((highest - lowest) / LEVELS).clamp_min_(_TINY)
    zeros = (-lowest / scales).round_()
    values, *_ = _fit(blocks, scales, -zeros * scales)
    return values, scales, zeros


def _fit(blocks: Tensor, scales: Tensor, offsets: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the nearest values for these scales and offsets, then both, then the squared error of each block."""
    scales = scales.clamp_min(_TINY)
    values = ((blocks - offsets[..., None]) / scales[..., None]).round_().clamp_(0, LEVELS)
    errors = torch.addcmul(offsets[..., None] - blocks, values, scales[..., None]).square_().sum(dim=-1)
    return values.to(torch.uint8), scales, offsets, errors


def _paired(values: Tensor) -> Tensor:
    """Pack (...,m) uint8 below 16 into (...,ceil(m/2)), the first of each pair low."""
    even = F.pad(values, (0, values.shape[-1] % 2))
    return even[..., 0::2] | (even[..., 1::2] << 4)
