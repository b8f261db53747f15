"""Chooses between token sequences ("lines") that may have been heard, with a language model's help (arXiv 1503.03535).

The backbone mostly decides about the punctuation mark at the end. A mark has no sound of its own, and the intonation
that tells "?" from "." varies from voice to voice; a language model that has read the words usually knows better.
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
"""How much the acoustic score of a mark counts against the backbone's score of it."""
_UNHEARD = -10.0
"""Log probability of a mark that wasn't heard, relative to the likeliest mark that was."""


@dataclass(frozen=True)
class Reader:
    """Scores lines with the backbone and chooses one.

    The context may be long: it is read once and its cache is kept if the cache can be copied. Build a new reader after
    the backbone has changed.
    """

    backbone: Backbone
    # Text before each line, such as the start of a user's turn in the chat template; "" scores the line as the start of
    # a text.
    context: str
    weight: float  # of the backbone's log probability against the acoustic one; 0 skips the backbone
    num_lines: int = 8  # how many of the likeliest lines the backbone reads
    # Lines are skipped whose acoustic log probability (natural log) is further than this below the best one's. The
    # backbone never chose a line more than 3.8 below, of 300 questions.
    margin: float = 4.0

    def choose(self, lines: Mapping[Line, float]) -> Line:
        """Return the best of some lines, given their acoustic log probabilities."""
        if not self.weight or len(lines) == 1:
            return max(lines, key=lambda line: lines[line])
        # 1) Group the lines by their words without the mark at the end.
        marks = mark_tokens(self.backbone.tokenizer)
        heard: dict[Line, dict[int | None, float]] = {}
        for line, chance in lines.items():
            is_marked = line[-1] in marks and len(line) > 1
            heard.setdefault(line[:-1] if is_marked else line, {})[line[-1] if is_marked else None] = chance
        chances = {words: _log_sum(list(ways.values())) for words, ways in heard.items()}
        likeliest = sorted(chances, key=lambda words: chances[words], reverse=True)[: self.num_lines]
        likeliest = [words for words in likeliest if chances[words] >= chances[likeliest[0]] - self.margin]
        # 2) Let the backbone score the likeliest words, and each mark after them.
        said, fits = self.read(likeliest, marks)
        ends = [
            [fit + _MELODY * melody for fit, melody in zip(of_line, _melodies(heard[words], marks), strict=True)]
            for words, of_line in zip(likeliest, fits, strict=True)
        ]
        # Each token lowers a language model's score, so it would prefer short lines: one nat per token makes up for it.
        # A mark that fits is a sign that the line is complete.
        scores = [
            chances[words] + self.weight * (score + len(words) + max(end, default=0.0))
            for words, score, end in zip(likeliest, said, ends, strict=True)
        ]
        # 3) Take the best words, with the best mark if they were heard with any.
        place = scores.index(max(scores))
        words, end = likeliest[place], ends[place]
        return words if set(heard[words]) == {None} else (*words, marks[end.index(max(end))])

    @torch.no_grad()
    def read(self, lines: Sequence[Line], marks: Sequence[int]) -> tuple[list[float], list[list[float]]]:
        """Return each line's log probability after the context, and that of each mark after each line."""
        start = self._start
        longest, device = max(map(len, lines)), next(self.backbone.parameters()).device
        # The context's last token goes before each line: its state predicts the line's first token.
        ids = torch.tensor([[start[-1], *line, *[0] * (longest - len(line))] for line in lines], device=device)
        cache = None
        if isinstance(self._kept, JoinableCache):
            # A copy of the context's cache, repeated for each line.
            cache = self._kept.take(0)
            cache.keep_rows([0] * len(lines))
        elif len(start) > 1:
            ids = torch.cat([torch.tensor([start[:-1]] * len(lines), device=device), ids], dim=1)
        normed = self.backbone(self.backbone.embed_text(ids), cache).normed[:, -longest - 1 :]
        # Lines that share a beginning share its states, so the text head reads each state once.
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
        """Return the backbone's cache of the context up to its last token, or None if nothing comes before that."""
        before = self._start[:-1]
        if not before:
            return None
        cache = self.backbone.new_cache(1, len(before))
        self.backbone(
            self.backbone.embed_text(torch.tensor([before], device=next(self.backbone.parameters()).device)), cache
        )
        return cache


def mark_tokens(tokenizer: TextTokenizer) -> list[int]:
    """Return the tokens of sentence-final marks as they follow a word, without marks that aren't a single token."""
    after_a_word = [tokenizer.encode("a" + mark) for mark in _MARKS]
    return [ids[-1] for ids, mark in zip(after_a_word, _MARKS, strict=True) if tokenizer.decode(ids[-1:]) == mark]


def _melodies(heard: Mapping[int | None, float], marks: Sequence[int]) -> list[float]:
    """Return the acoustic score of each mark relative to the likeliest one: 0 for that, or if no mark was heard."""
    of_marks = [heard.get(mark, -math.inf) for mark in marks]
    top = max(of_marks, default=-math.inf)
    return [0.0 if top == -math.inf else max(chance - top, _UNHEARD) for chance in of_marks]


def _log_sum(values: Sequence[float]) -> float:
    """Return log(sum(exp(values))) without overflow."""
    top = max(values)
    return top + math.log(sum(math.exp(value - top) for value in values))
