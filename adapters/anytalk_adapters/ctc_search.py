"""Searches for the token sequences ("lines") that CTC probabilities may spell, summed over all alignments.

Taking the likeliest token of each frame writes "good goodbye" where one frame prefers "good" and the next "goodbye". A
prefix search (Graves et al., 2006; Hannun et al., arXiv 1408.2873) adds up the alignments of each line and keeps the
likeliest lines.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

Line = tuple[int, ...]
"""The tokens of a text."""

LineScore = Callable[[Line, bool], float]
"""Returns what the words of a line add to its score; with True also its last word, which has ended with the sound."""

_NEVER = -math.inf
_LEAST = -9.0
"""Log probability below which a token isn't considered in a frame."""


def found_lines(
    hearings: Sequence[Tensor], candidates: int, beam: int, words: LineScore | None = None
) -> dict[Line, float]:
    """Return the lines found in any pass over one clip with their scores, best first.

    A score is the mean log probability in all passes, and what the words add.

    Which line wins in a single pass depends on how the frames happen to fall on the speech; the mean over shifted
    passes is right more often. The result has at least one line, and no line is empty.

    Args:
        hearings: For each pass, (T,1+V) log probabilities: blank, then each token of the vocabulary.
        candidates: How many of the likeliest tokens are considered in each frame.
        beam: See :func:`likeliest_lines`.
        words: Likewise.
    """
    lines: dict[Line, None] = {}
    for frames in hearings:
        values, ids = frames[:, 1:].topk(min(candidates, frames.shape[1] - 1), dim=-1)
        tokens = [
            [(token, value) for token, value in zip(*frame, strict=True) if value > _LEAST]
            for frame in zip(ids.tolist(), values.tolist(), strict=True)
        ]
        lines.update((line, None) for line, _ in likeliest_lines(frames[:, 0].tolist(), tokens, beam, words) if line)
    if not lines:  # every frame preferred the blank: take the likeliest single token
        lines[(int(hearings[0][:, 1:].amax(dim=0).argmax()),)] = None
    # A line found in one pass is scored in all of them.
    each = [line_likelihoods(frames, list(lines)) for frames in hearings]
    scores = {line: sum(said) / len(said) for line, said in zip(lines, zip(*each, strict=True), strict=True)}
    if words is not None:
        scores = {line: score + words(line, True) for line, score in scores.items()}
    return dict(sorted(scores.items(), key=lambda item: item[1], reverse=True))


def line_likelihoods(frames: Tensor, lines: Sequence[Line]) -> list[float]:
    """Return the log probability of each line in (T,1+V) frames, summed over all alignments."""
    # CTC's loss runs over the tokens in use only: with the whole vocabulary, each line would copy (T,1+V).
    own, places = torch.unique(torch.tensor([token for line in lines for token in line]), return_inverse=True)
    kept = torch.cat([frames[:, :1], frames[:, 1 + own.to(frames.device)]], dim=1).float().cpu()
    sizes = torch.tensor([len(line) for line in lines])
    lengths = torch.full_like(sizes, len(kept))
    batch = kept[:, None].expand(-1, len(lines), -1)
    found: list[float] = (-F.ctc_loss(batch, places + 1, lengths, sizes, reduction="none")).tolist()
    return found


def likeliest_lines(
    blanks: Sequence[float],
    tokens: Sequence[Sequence[tuple[int, float]]],
    beam: int,
    words: LineScore | None = None,
) -> list[tuple[Line, float]]:
    """Return the likeliest lines and their log probabilities, best first.

    Args:
        blanks: The log probability of the blank in each frame.
        tokens: The likeliest tokens of each frame, with their log probabilities.
        beam: How many lines are kept from frame to frame, and returned at most.
        words: Added to the log probability of a line where lines are compared.
    """

    def score(item: tuple[Line, tuple[float, float]]) -> float:
        line, ways = item
        return _sum(*ways) + (words(line, False) if words is not None else 0.0)

    # For each line: the log probabilities that its alignment ends in a blank, and that it ends in its last token.
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
                    add(line, _NEVER, spoken + chance)  # CTC joins repetitions
                    add((*line, token), _NEVER, quiet + chance)  # only a blank between them makes a double token
                else:
                    add((*line, token), _NEVER, both + chance)
        best = sorted(grown.items(), key=score, reverse=True)[:beam]
        lines = dict(best)
    return [(line, _sum(*ways)) for line, ways in lines.items()]


def _sum(a: float, b: float) -> float:
    """Return log(exp(a) + exp(b)) without overflow."""
    if a < b:
        a, b = b, a
    return a if b == _NEVER else a + math.log1p(math.exp(b - a))
