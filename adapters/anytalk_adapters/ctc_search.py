"""What was probably heard: the likeliest lines of tokens under CTC, over all the ways in which frames can say them.

The likeliest token of each frame, taken one by one, writes "good goodbye" where one frame leans to "good" and the next
to "goodbye". A prefix search (Graves et al., 2006; Hannun et al., arXiv 1408.2873) adds up the ways in which a line can
be heard, and keeps the likeliest lines; which of those somebody would say, a language model knows (shallow fusion,
arXiv 1503.03535), here the backbone itself.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from anytalk.plugins.contracts import Backbone

_NEVER = -math.inf
_LEAST = -9.0
"""Log probability of a token below which a frame doesn't hold it."""
_WEIGHED = 8
"""Lines that the backbone reads: enough to hold the right one of most questions, few enough to cost a tenth of a
second."""


def heard_line(log_probabilities: Tensor, candidates: int, beam: int, backbone: Backbone, fusion: float) -> list[int]:
    """What one clip says: at least one token.

    Args:
        log_probabilities: (T,1+V) of each frame: no token, then each of the vocabulary.
        candidates: Likeliest tokens of a frame that are looked at.
        beam: See :func:`likeliest_lines`.
        backbone: Who knows what people say.
        fusion: Weight of what it says, beside what was heard; 0: it isn't asked.
    """
    values, ids = log_probabilities[:, 1:].topk(min(candidates, log_probabilities.shape[1] - 1), dim=-1)
    tokens = [
        [(token, value) for token, value in zip(*frame, strict=True) if value > _LEAST]
        for frame in zip(ids.tolist(), values.tolist(), strict=True)
    ]
    lines = likeliest_lines(log_probabilities[:, 0].tolist(), tokens, beam)
    spoken = [(line, chance) for line, chance in lines if line][:_WEIGHED]
    if not spoken:
        return [int(ids[values[:, 0].argmax(), 0])]
    if not fusion or len(spoken) == 1:
        return list(spoken[0][0])
    # Each token costs a language model something, so that it would prefer short lines: that is given back.
    said = line_scores(backbone, [line for line, _ in spoken])
    scores = [chance + fusion * (score + len(line)) for (line, chance), score in zip(spoken, said, strict=True)]
    return list(spoken[scores.index(max(scores))][0])


@torch.no_grad()
def line_scores(backbone: Backbone, lines: Sequence[Sequence[int]]) -> list[float]:
    """The backbone's log probability of each line of tokens, as a text that begins with it."""
    start, longest = backbone.tokenizer.eos_id, max(map(len, lines))
    device = next(backbone.parameters()).device
    ids = torch.tensor([[start, *line, *[start] * (longest - len(line))] for line in lines], device=device)
    normed = backbone(backbone.embed_text(ids[:, :-1])).normed
    logits = backbone.text_logits(normed).float().log_softmax(dim=-1)
    found = logits.gather(-1, ids[:, 1:, None])[..., 0]
    return [float(row[: len(line)].sum()) for row, line in zip(found, lines, strict=True)]


def likeliest_lines(
    blanks: Sequence[float], tokens: Sequence[Sequence[tuple[int, float]]], beam: int
) -> list[tuple[tuple[int, ...], float]]:
    """Lines of tokens, best first.

    Args:
        blanks: For each frame the log probability that it holds no token.
        tokens: For each frame its likeliest tokens and their log probabilities.
        beam: Lines that are kept from frame to frame, and at most so many come back.

    Returns:
        Lines and their log probabilities.
    """
    # For each line: the log probability that it was heard so far and ends in a blank, and that it ends in its token.
    lines: dict[tuple[int, ...], tuple[float, float]] = {(): (0.0, _NEVER)}
    for blank, heard in zip(blanks, tokens, strict=True):
        grown: dict[tuple[int, ...], tuple[float, float]] = {}

        def add(line: tuple[int, ...], quiet: float, spoken: float, grown: dict = grown) -> None:  # type: ignore[type-arg]
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
