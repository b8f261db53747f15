"""Targets that know which codes sound alike.

Which of two codes with almost the same sound was the nearest is chance, and a cross-entropy that calls one of them
right and the other as wrong as any makes a mouth learn that chance by heart. Here a target is shared among the codes
around it in the codec's own space, as label smoothing (arXiv 1512.00567) would be if it knew them.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from anytalk.errors import ConfigError
from anytalk.model.talker import Talker

_NEIGHBOURS = 16
"""Codes among which a target is shared at most."""
_LEAST_UNIT = 1e-9
"""Codebooks of twins have no distance to measure others by."""


@dataclass(frozen=True)
class SoftCodes:
    """What each code's target is shared among."""

    codes: Tensor  # (K,C,N) int64, nearest codes, itself first
    shares: Tensor  # (K,C,N) float32, shares of the target; they sum to 1
    surprise: Tensor  # (K,C) float32, the entropy of the shares in nats: what the loss can't go below

    def to(self, device: torch.device | str) -> SoftCodes:
        return SoftCodes(self.codes.to(device), self.shares.to(device), self.surprise.to(device))

    def losses(self, log_probabilities: Tensor, wanted: Tensor) -> Tensor:
        """How far predictions are from the shared targets, as a KL divergence: 0 is possible.

        Args:
            log_probabilities: (K,n,C+specials), codes first.
            wanted: (K,n) int64; special tokens, which sound like nothing, are not shared.

        Returns:
            (K,n).
        """
        num_codes = self.codes.shape[1]
        is_code = wanted < num_codes
        code = torch.where(is_code, wanted, 0)
        streams = torch.arange(len(wanted), device=wanted.device)[:, None]
        found = log_probabilities.gather(-1, self.codes[streams, code])
        shared = -(found * self.shares[streams, code]).sum(-1) - self.surprise[streams, code]
        alone = -log_probabilities.gather(-1, wanted[..., None])[..., 0]
        return torch.where(is_code, shared, alone)


def soft_codes(vectors: Tensor, softness: float) -> SoftCodes:
    """Share targets by distance.

    Args:
        vectors: (K,C,W) what each code stands for (:meth:`anytalk.plugins.contracts.Codec.code_vectors`).
        softness: A code at distance d gets ``exp(-d² / (softness m))`` of what the code itself gets, m being the mean
            of the stream's codes' squared distances to their nearest neighbours.
    """
    count = min(_NEIGHBOURS, vectors.shape[1])
    squares = torch.cdist(vectors.double(), vectors.double()).square()
    squares.diagonal(dim1=1, dim2=2).fill_(-1.0)  # itself first, even beside a twin
    nearest, codes = squares.topk(count, dim=-1, largest=False)
    nearest = nearest.clamp(min=0)
    unit = nearest[:, :, 1].mean(dim=1) if count > 1 else nearest.new_ones(len(vectors))
    shares = torch.softmax(-nearest / (softness * unit.clamp(min=_LEAST_UNIT))[:, None, None], dim=-1)
    surprise = torch.special.entr(shares).sum(-1)
    return SoftCodes(codes, shares.float(), surprise.float())


def soft_codes_of(talker: Talker, softness: float, stage: str) -> SoftCodes | None:
    """Those of a talker's codec, on the talker's device; None for a softness of 0.

    Raises:
        ConfigError: a codec that doesn't tell what its codes stand for.
    """
    if not softness:
        return None
    vectors = talker.codec.code_vectors()
    if vectors is None:
        raise ConfigError(
            f"stage '{stage}' asks for code_softness, and the codec {type(talker.codec).__name__} doesn't tell which "
            "codes sound alike",
            "leave code_softness out, or give the codec code_vectors()",
        )
    return soft_codes(vectors, softness).to(talker.device)
