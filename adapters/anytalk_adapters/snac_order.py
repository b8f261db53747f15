"""Arranges SNAC's codebooks of different rates as streams of one rate, and back, without a model.

The codes of a frame are a tree: codebook 0 gives one code, and each finer codebook divides the time of a code before it
evenly. With ``vq_strides`` [4, 2, 1] the codebooks give 1, 2 and 4 codes per frame, and the tree, read depth first,
is::

    row   0       1        2        3          4          5          6
    code  cb0[k]  cb1[2k]  cb2[4k]  cb2[4k+1]  cb1[2k+1]  cb2[4k+2]  cb2[4k+3]

This is the order of Mini-Omni's rows A_0 .. A_6 (paper section 3.2; its ``utils/snac_utils.py``).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor


def codes_per_frame(vq_strides: Sequence[int]) -> list[int]:
    """Return how many codes each codebook gives per frame: [1, 2, 4] for [4, 2, 1].

    Raises:
        ValueError: The strides, from coarse to fine, don't divide one another.
    """
    if not vq_strides or any(fine < 1 or coarse % fine for coarse, fine in pairwise(vq_strides)):
        raise ValueError(f"vq_strides must each be a multiple of the next, got {list(vq_strides)}")
    return [vq_strides[0] // stride for stride in vq_strides]


def depth_first_order(vq_strides: Sequence[int]) -> list[tuple[int, int]]:
    """Return the codebook of each row and the position of its code in the frame."""
    counts = codes_per_frame(vq_strides)

    def visit(codebook: int, position: int) -> list[tuple[int, int]]:
        rows = [(codebook, position)]
        if codebook + 1 < len(counts):
            # How many codes of the next finer codebook share this code's time.
            children = counts[codebook + 1] // counts[codebook]
            for child in range(children):
                rows += visit(codebook + 1, position * children + child)
        return rows

    return visit(0, 0)


def flatten(codes: Sequence[Tensor], vq_strides: Sequence[int]) -> Tensor:
    """Arrange one tensor (B, T * m) per codebook, m being its codes per frame, as (B,K,T).

    Raises:
        ValueError: The tensors' lengths belong to different numbers of frames.
    """
    counts = codes_per_frame(vq_strides)
    num_frames = codes[0].shape[-1]
    lengths = [c.shape[-1] for c in codes]
    if lengths != [num_frames * count for count in counts]:
        raise ValueError(f"codebooks of {counts} codes per frame can't have lengths {lengths}")
    return torch.stack(
        [codes[codebook][:, position :: counts[codebook]] for codebook, position in depth_first_order(vq_strides)], 1
    )


def unflatten(codes: Tensor, vq_strides: Sequence[int]) -> list[Tensor]:
    """Split (B,K,T) into one tensor (B, T * m) per codebook, the inverse of :func:`flatten`.

    Raises:
        ValueError: K is not the number of codes per frame of these strides.
    """
    counts = codes_per_frame(vq_strides)
    if codes.shape[1] != sum(counts):
        raise ValueError(f"expected {sum(counts)} streams for vq_strides {list(vq_strides)}, got {codes.shape[1]}")
    rows: list[list[Tensor]] = [[] for _ in counts]
    for row, (codebook, _) in enumerate(depth_first_order(vq_strides)):
        rows[codebook].append(codes[:, row])
    return [torch.stack(parts, -1).flatten(1) for parts in rows]
