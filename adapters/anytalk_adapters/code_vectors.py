"""What the codes of SNAC's quantiser stand for."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from anytalk_adapters import snac_order
from anytalk_adapters.snac_package import ResidualVectorQuantize


@torch.no_grad()
def stream_vectors(quantizer: ResidualVectorQuantize, vq_strides: Sequence[int]) -> Tensor:
    """The latent that each code of each stream adds: (K,C,W) float32, a codebook's vectors for each of its streams."""
    books = [q.out_proj(q.codebook.weight.T[None])[0].T for q in quantizer.quantizers]
    return torch.stack([books[codebook] for codebook, _ in snac_order.depth_first_order(vq_strides)]).float()
