"""Which lines of tokens may have been heard under CTC, and how likely, over all the ways in which frames can say them.

The likeliest token of each frame, taken one by one, writes "good goodbye" where one frame leans to "good" and the next
to "goodbye". A prefix search (Graves et al., 2006; Hannun et al., arXiv 1408.2873) adds up the ways in which a line can
be heard, and keeps the likeliest lines.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

Line = tuple[int, ...]
"""Tokens of a text."""

_NEVER = -math.inf
_LEAST = -9.0
"""Log probability of a token below which a frame doesn't hold it."""


def found_lines(hearings: Sequence[Tensor], candidates: int, beam: int) -> dict[Line, float]:
    """Lines that were found in any hearing of one clip, best first, and their mean log probability in all of them.

    Which line comes first depends on how the frames happen to fall on the speech; a line that is likely however they
    fall is more often the right one. At least one line, none of them empty.

    Args:
        hearings: Of each (T,1+V) log probabilities of its frames: no token, then each of the vocabulary.
        candidates: Likeliest tokens of a frame that are looked at.
        beam: See :func:`likeliest_lines`.
    """
    lines: dict[Line, None] = {}
    for frames in hearings:
        values, ids = frames[:, 1:].topk(min(candidates, frames.shape[1] - 1), dim=-1)
        tokens = [
            [(token, value) for token, value in zip(*frame, strict=True) if value > _LEAST]
            for frame in zip(ids.tolist(), values.tolist(), strict=True)
        ]
        lines.update((line, None) for line, _ in likeliest_lines(frames[:, 0].tolist(), tokens, beam) if line)
    if not lines:
        lines[(int(hearings[0][:, 1:].amax(dim=0).argmax()),)] = None
    each = [line_likelihoods(frames, list(lines)) for frames in hearings]
    means = {line: sum(said) / len(said) for line, said in zip(lines, zip(*each, strict=True), strict=True)}
    return dict(sorted(means.items(), key=lambda item: item[1], reverse=True))


def line_likelihoods(frames: Tensor, lines: Sequence[Line]) -> list[float]:
    """Return the log probability of each line in (T,1+V) frames, over all the ways in which they can say it."""
    own, places = torch.unique(torch.tensor([token for line in lines for token in line]), return_inverse=True)
    kept = torch.cat([frames[:, :1], frames[:, 1 + own.to(frames.device)]], dim=1).float().cpu()
    sizes = torch.tensor([len(line) for line in lines])
    lengths = torch.full_like(sizes, len(kept))
    batch = kept[:, None].expand(-1, len(lines), -1)
    found: list[float] = (-F.ctc_loss(batch, places + 1, lengths, sizes, reduction="none")).tolist()
    return found


def likeliest_lines(
    blanks: Sequence[float], tokens: Sequence[Sequence[tuple[int, float]]], beam: int
) -> list[tuple[Line, float]]:
    """Return lines of tokens, best first.

    Args:
        blanks: For each frame the log probability that it holds no token.
        tokens: For each frame its likeliest tokens and their log probabilities.
        beam: Lines that are kept from frame to frame, and at most as many are returned.

    Returns:
        Lines and their log probabilities.
    """
    # For each line: the log probability that it was heard so far and ends in a blank, and that it ends in its token.
    lines: dict[Line, tuple[float, float]] = {(): (0.0, _NEVER)}
    for blank, heard in zip(blanks, tokens, strict=True):
        grown: dict[Line, tuple[float, float]] = {}

        def add(line: Line, quiet: float, spoken: float, grown: dict = grown) -> None:  # type: ignore[type-arg]
            before = grown.get(line, (_NEVER, _NEVER))
            grown[line] = _sum(before[0], quiet), _sum(before[1], spoken)

        for line, (quiet, spoken) in lines.items():
            both = _sum(quiet, spoken)
            add(line, both + blank, _NEVER)
            for token, chance in heard:
                if line and token == line[-1]:
                    add(line, _NEVER, spoken + chance)  # it goes on
                    add((*line, token), _NEVER, quiet + chance)  # it is said again
                else:
                    add((*line, token), _NEVER, both + chance)
        best = sorted(grown.items(), key=lambda item: _sum(*item[1]), reverse=True)[:beam]
        lines = dict(best)
    return [(line, _sum(*ways)) for line, ways in lines.items()]


def _sum(a: float, b: float) -> float:
    """log(exp(a) + exp(b))."""
    if a < b:
        a, b = b, a
    return a if b == _NEVER else a + math.log1p(math.exp(b - a))
