"""Which of the lines that may have been heard is likely; the backbone knows (arXiv 1503.03535).

Above all the words decide about the mark after them. A mark is no sound, and the melody by which ears tell "?" from
"." differs from voice to voice; a language model that has read the words mostly knows better.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice

import torch

from anytalk.plugins.contracts import Backbone, Cache, JoinableCache, TextTokenizer

from .ctc_search import Line

_MARKS = ".?!"
_MELODY = 0.25
"""Weight of how a mark was heard, beside how well it fits the words."""
_UNHEARD = -10.0
"""Log probability of a mark that wasn't heard, beside the likeliest one that was."""


@dataclass(frozen=True)
class Reader:
    """A backbone that is asked what people say.

    The context is read once and kept, where the backbone's cache allows it: it may be long. A backbone that has changed
    since needs another reader.
    """

    backbone: Backbone  # who is asked
    # Text before what was said, so that it expects a speaker, as its chat template has it; "": the beginning
    # of a text.
    context: str
    weight: float  # of what it says, beside what was heard; 0: it isn't asked
    num_lines: int = 8  # the likeliest lines, which it reads at most
    # How much less likely than the likeliest one they may have been heard, as a difference of natural logs.
    margin: float = 4.0

    def choose(self, lines: Mapping[Line, float]) -> Line:
        """Return the most probable of lines, given the log probabilities with which they were heard."""
        if not self.weight or len(lines) == 1:
            return max(lines, key=lambda line: lines[line])
        marks = mark_tokens(self.backbone.tokenizer)
        heard: dict[Line, dict[int | None, float]] = {}
        for line, chance in lines.items():
            is_marked = line[-1] in marks and len(line) > 1
            heard.setdefault(line[:-1] if is_marked else line, {})[line[-1] if is_marked else None] = chance
        chances = {words: _log_sum(list(ways.values())) for words, ways in heard.items()}
        likeliest = sorted(chances, key=lambda words: chances[words], reverse=True)[: self.num_lines]
        likeliest = [words for words in likeliest if chances[words] >= chances[likeliest[0]] - self.margin]
        said, fits = self.read(likeliest, marks)
        ends = [
            [fit + _MELODY * melody for fit, melody in zip(of_line, _melodies(heard[words], marks), strict=True)]
            for words, of_line in zip(likeliest, fits, strict=True)
        ]
        # Each token costs a language model something, so that it would prefer short lines: that is given back. And a
        # mark that fits says that the line is whole.
        scores = [
            chances[words] + self.weight * (score + len(words) + max(end, default=0.0))
            for words, score, end in zip(likeliest, said, ends, strict=True)
        ]
        place = scores.index(max(scores))
        words, end = likeliest[place], ends[place]
        return words if set(heard[words]) == {None} else (*words, marks[end.index(max(end))])

    @torch.no_grad()
    def read(self, lines: Sequence[Line], marks: Sequence[int]) -> tuple[list[float], list[list[float]]]:
        """Return the log probability of each line after the context, and of each mark after it."""
        start = self._start
        longest, device = max(map(len, lines)), next(self.backbone.parameters()).device
        # The context's last token is read in front of each line: its state says what comes first.
        ids = torch.tensor([[start[-1], *line, *[0] * (longest - len(line))] for line in lines], device=device)
        cache = None
        if isinstance(self._kept, JoinableCache):
            cache = self._kept.take(0)
            cache.keep_rows([0] * len(lines))
        elif len(start) > 1:
            ids = torch.cat([torch.tensor([start[:-1]] * len(lines), device=device), ids], dim=1)
        normed = self.backbone(self.backbone.embed_text(ids), cache).normed[:, -longest - 1 :]
        # What lines have in common is followed by the same: it is looked up once.
        known: dict[Line, int] = {}
        states: list[torch.Tensor] = []
        for row, line in enumerate(lines):
            for place in range(len(line) + 1):
                if known.setdefault(line[:place], len(known)) == len(states):
                    states.append(normed[row, place])
        logits = self.backbone.text_logits(torch.stack(states)[None])[0].float().log_softmax(dim=-1)
        at = [known[line[:place]] for line in lines for place in range(len(line))]
        found = iter(logits[at, [token for line in lines for token in line]].tolist())
        fits = logits[[known[line] for line in lines]][:, list(marks)]
        return [sum(islice(found, len(line))) for line in lines], fits.tolist()

    @cached_property
    def _start(self) -> list[int]:
        tokenizer = self.backbone.tokenizer
        return tokenizer.encode(self.context) or [tokenizer.eos_id]

    @cached_property
    def _kept(self) -> Cache | None:
        """What the backbone remembers of the context up to its last token; None where there is nothing to remember."""
        before = self._start[:-1]
        if not before:
            return None
        cache = self.backbone.new_cache(1, len(before))
        self.backbone(
            self.backbone.embed_text(torch.tensor([before], device=next(self.backbone.parameters()).device)), cache
        )
        return cache


def mark_tokens(tokenizer: TextTokenizer) -> list[int]:
    """Return tokens of the marks that end a sentence, as they follow a word; those that are no token are left out."""
    after_a_word = [tokenizer.encode("a" + mark) for mark in _MARKS]
    return [ids[-1] for ids, mark in zip(after_a_word, _MARKS, strict=True) if tokenizer.decode(ids[-1:]) == mark]


def _melodies(heard: Mapping[int | None, float], marks: Sequence[int]) -> list[float]:
    """Return how each mark was heard after some words, beside the likeliest one: 0 for that, or if none was heard."""
    of_marks = [heard.get(mark, -math.inf) for mark in marks]
    top = max(of_marks, default=-math.inf)
    return [0.0 if top == -math.inf else max(chance - top, _UNHEARD) for chance in of_marks]


def _log_sum(values: Sequence[float]) -> float:
    """log of the sum of their exponentials."""
    top = max(values)
    return top + math.log(sum(math.exp(value - top) for value in values))
