"""Which words may have been heard letter by letter: a prefix search that knows how common each word is."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache

from torch import Tensor

from anytalk.plugins.contracts import TextTokenizer

_NEVER = -math.inf
_LEAST = -7.0
"""Log probability of a letter below which a place doesn't hold it."""

WordChance = Callable[[str], float]
"""A word -> how common it is, as a log probability up to a constant for each word."""


def likeliest_texts(
    chances: Tensor, letters: str, beam: int, candidates: int, word_chance: WordChance, weight: float
) -> dict[str, float]:
    """Search texts that may have been heard; likeliest first, with their scores.

    As :func:`anytalk_adapters.ctc_search.likeliest_lines`, and each word that ends adds `weight` times its chance.

    Args:
        chances: (T,1+N) log probabilities of each place: nothing, then each of the N letters.
        letters: The N letters; the space ends a word.
        beam: Texts that are kept from place to place, and at most so many come back.
        candidates: Likeliest letters of a place that are looked at.
    """
    values, ids = chances[:, 1:].topk(min(candidates, len(letters)), dim=-1)
    places = zip(chances[:, 0].tolist(), values.tolist(), ids.tolist(), strict=True)
    # For each text the log probability that it was heard so far and ends in nothing, and that it ends in its letter.
    texts: dict[str, tuple[float, float]] = {"": (0.0, _NEVER)}
    words: dict[str, float] = {"": 0.0}  # what the words of each text add
    for nothing, scores, numbers in places:
        heard = [(letters[number], score) for number, score in zip(numbers, scores, strict=True) if score > _LEAST]
        grown: dict[str, tuple[float, float]] = {}
        for text, (quiet, spoken) in texts.items():
            both = _sum(quiet, spoken)
            before = grown.get(text, (_NEVER, _NEVER))
            grown[text] = _sum(before[0], both + nothing), before[1]
            for letter, score in heard:
                if text and letter == text[-1]:
                    before = grown[text]
                    grown[text] = before[0], _sum(before[1], spoken + score)  # it goes on
                    start = quiet  # it is said again
                else:
                    start = both
                if letter == " " and text[-1:] in ("", " "):  # no word is empty
                    if not text:
                        grown[text] = _sum(grown[text][0], both + score), grown[text][1]
                    continue
                longer = text + letter
                before = grown.get(longer, (_NEVER, _NEVER))
                grown[longer] = before[0], _sum(before[1], start + score)
                if longer not in words:
                    ended = word_chance(_last_word(text)) if letter == " " else 0.0
                    words[longer] = words[text] + weight * ended
        kept = sorted(grown, key=lambda text: _sum(*grown[text]) + words[text], reverse=True)[:beam]
        texts = {text: grown[text] for text in kept}
        words = {text: words[text] for text in kept}
    whole: dict[str, float] = {}
    for text, ways in texts.items():
        ended = word_chance(_last_word(text)) if text and text[-1] != " " else 0.0
        score = _sum(*ways) + words[text] + weight * ended
        whole[text.strip()] = _sum(whole.get(text.strip(), _NEVER), score)
    return dict(sorted(whole.items(), key=lambda item: item[1], reverse=True))


def common_words(tokenizer: TextTokenizer, vocab_size: int) -> WordChance:
    """Return how common words are, by the tokens that a vocabulary has for them.

    Vocabularies are made by joining what is most frequent, in that order: a low number is a frequent word (Zipf: its
    chance is one over its rank), and a word of several tokens is a rare one.
    """
    anchor = tokenizer.encode("a")

    @lru_cache(maxsize=100_000)
    def chance(word: str) -> float:
        ids = tokenizer.encode(f"a {word}")[len(anchor) :]
        return math.log(vocab_size) - sum(math.log(1 + token) for token in ids)

    return chance


def _last_word(text: str) -> str:
    return text[text.rfind(" ") + 1 :]


def _sum(a: float, b: float) -> float:
    """log(exp(a) + exp(b))."""
    if a < b:
        a, b = b, a
    return a if b == _NEVER else a + math.log1p(math.exp(b - a))


__all__: Sequence[str] = ["WordChance", "common_words", "likeliest_texts"]
