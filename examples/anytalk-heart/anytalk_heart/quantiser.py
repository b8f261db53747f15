"""SNAC's multi-scale residual quantiser: a coarse code for each frame, finer ones for its halves and quarters."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["Book", "Quantiser", "flat", "places", "unflat"]


def places(strides: Sequence[int]) -> list[tuple[int, int]]:
    """(book, place inside the frame) of each stream: a code, then what divides its time, depth first.

    Strides 4, 2, 1 give ``(0,0) (1,0) (2,0) (2,1) (1,1) (2,2) (2,3)``.
    """

    def below(book: int, place: int) -> list[tuple[int, int]]:
        found = [(book, place)]
        if book + 1 < len(strides):
            parts = strides[book] // strides[book + 1]
            for part in range(parts):
                found += below(book + 1, place * parts + part)
        return found

    return below(0, 0)


def flat(codes: Sequence[Tensor], strides: Sequence[int]) -> Tensor:
    """Codes of each book, (B, T * m), m for a frame -> (B,K,T)."""
    counts = [strides[0] // stride for stride in strides]
    return torch.stack([codes[book][:, place :: counts[book]] for book, place in places(strides)], 1)


def unflat(codes: Tensor, strides: Sequence[int]) -> list[Tensor]:
    """(B,K,T) -> codes of each book: the inverse of :func:`flat`."""
    rows: list[list[Tensor]] = [[] for _ in strides]
    for stream, (book, _) in enumerate(places(strides)):
        rows[book].append(codes[:, stream])
    return [torch.stack(parts, -1).flatten(1) for parts in rows]


class Book(nn.Module):
    """One codebook with its projections; codes are looked up by cosine in a small space.

    Args:
        width: Channels of latents.
        size: Codes.
        dim: Width of a code vector.
        stride: Latents per code.
    """

    def __init__(self, width: int, size: int, dim: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.into = nn.Linear(width, dim)
        self.codes = nn.Parameter(torch.randn(size, dim))
        self.out = nn.Linear(dim, width)

    def seen(self, latents: Tensor) -> Tensor:
        """(B,W,T) -> (B, T / stride, dim): what a code is looked up for."""
        slow = F.avg_pool1d(latents, self.stride) if self.stride > 1 else latents
        projected: Tensor = self.into(slow.transpose(1, 2))
        return projected

    def nearest(self, seen: Tensor) -> Tensor:
        """(B,T,dim) -> (B,T) int64."""
        likeness = F.normalize(seen, dim=-1) @ F.normalize(self.codes, dim=-1).T
        return likeness.argmax(-1)

    def spread(self, vectors: Tensor) -> Tensor:
        """(B,T,dim) -> (B, W, T * stride)."""
        slow: Tensor = self.out(vectors).transpose(1, 2)
        return slow.repeat_interleave(self.stride, -1)


class Quantiser(nn.Module):
    """Books from coarse to fine, each for what the ones before leave over.

    Args:
        width: Channels of latents.
        size: Codes of each book.
        dim: Width of a code vector.
        strides: Latents per code of each book.
    """

    def __init__(self, width: int, size: int, dim: int, strides: Sequence[int]) -> None:
        super().__init__()
        self.books = nn.ModuleList(Book(width, size, dim, stride) for stride in strides)

    def encode(self, latents: Tensor) -> list[Tensor]:
        """(B,W,T), T a multiple of the longest stride -> one (B, T / stride) for each book."""
        found, rest = [], latents
        for book in self.each():
            codes = book.nearest(book.seen(rest))
            rest = rest - book.spread(book.codes[codes])
            found.append(codes)
        return found

    def decode(self, codes: Sequence[Tensor]) -> Tensor:
        """The inverse of :meth:`encode`, but for what was lost."""
        parts = [book.spread(book.codes[one]) for book, one in zip(self.each(), codes, strict=True)]
        return torch.stack(parts).sum(0)

    def forward(self, latents: Tensor) -> tuple[Tensor, Tensor, list[Tensor], list[Tensor]]:
        """(B,W,T) -> quantised with gradients straight through, the loss of books, codes, and what each book saw."""
        rest, whole = latents, torch.zeros_like(latents)
        loss = latents.new_zeros(())
        found, looked = [], []
        for book in self.each():
            seen = book.seen(rest)
            codes = book.nearest(seen)
            vectors = book.codes[codes]
            loss = loss + F.mse_loss(vectors, seen.detach()) + 0.25 * F.mse_loss(seen, vectors.detach())
            part = book.spread(seen + (vectors - seen).detach())
            whole, rest = whole + part, rest - part
            found.append(codes)
            looked.append(seen.detach())
        return whole, loss, found, looked

    def each(self) -> list[Book]:
        """The books, coarse to fine."""
        return [book for book in self.books if isinstance(book, Book)]
