"""Searches for the texts that letter probabilities may spell: a prefix search that knows how common each word is."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache

from torch import Tensor

from anytalk.plugins.contracts import TextTokenizer

_NEVER = -math.inf
_LEAST = -7.0
"""Log probability below which a letter isn't considered at a position."""

TextChance = Callable[[str], float]
"""Returns how likely a text's last word is after those before it: a log probability, up to a constant for each word."""


def likeliest_texts(
    chances: Tensor,
    letters: str,
    beam: int,
    candidates: int,
    word_chance: TextChance,
    weight: float,
    per_word: float = 0.0,
) -> dict[str, float]:
    """Return the likeliest texts and their scores, best first.

    The search is :func:`anytalk_adapters.ctc_search.likeliest_lines` with a term per word: each word that ends adds
    `weight` times its log probability, and `per_word`.

    Args:
        chances: (T,1+N) log probabilities at each position: blank, then each of the N letters.
        letters: The N letters; a space ends a word.
        beam: How many texts are kept from position to position, and returned at most.
        candidates: How many of the likeliest letters are considered at each position.
    """
    values, ids = chances[:, 1:].topk(min(candidates, len(letters)), dim=-1)
    places = zip(chances[:, 0].tolist(), values.tolist(), ids.tolist(), strict=True)
    # For each text: the log probabilities that its alignment ends in a blank, and that it ends in its last letter.
    texts: dict[str, tuple[float, float]] = {"": (0.0, _NEVER)}
    words: dict[str, float] = {"": 0.0}  # the summed word terms of each text
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
                    grown[text] = before[0], _sum(before[1], spoken + score)  # CTC joins repetitions
                    start = quiet  # only a blank between them makes a double letter
                else:
                    start = both
                if letter == " " and text[-1:] in ("", " "):  # spaces at the start or in a row would make empty words
                    if not text:
                        grown[text] = _sum(grown[text][0], both + score), grown[text][1]
                    continue
                longer = text + letter
                before = grown.get(longer, (_NEVER, _NEVER))
                grown[longer] = before[0], _sum(before[1], start + score)
                if longer not in words:
                    ended = weight * word_chance(text) + per_word if letter == " " else 0.0
                    words[longer] = words[text] + ended
        kept = sorted(grown, key=lambda text: _sum(*grown[text]) + words[text], reverse=True)[:beam]
        texts = {text: grown[text] for text in kept}
        words = {text: words[text] for text in kept}
    whole: dict[str, float] = {}
    for text, ways in texts.items():
        ended = weight * word_chance(text) + per_word if text and text[-1] != " " else 0.0
        score = _sum(*ways) + words[text] + ended
        # "text" and "text " are one text now; their probabilities add up.
        whole[text.strip()] = _sum(whole.get(text.strip(), _NEVER), score)
    return dict(sorted(whole.items(), key=lambda item: item[1], reverse=True))


def common_words(tokenizer: TextTokenizer, vocab_size: int) -> TextChance:
    """Return a function that estimates how common a text's last word is from its token ids.

    Byte-pair vocabularies are built by joining the most frequent pairs first, so a low id is a frequent piece (Zipf:
    its probability is one over its rank), and a word of several tokens is rare.
    """
    # Each word is encoded after "a": most tokenizers have other tokens for the start of a text.
    anchor = tokenizer.encode("a")

    @lru_cache(maxsize=100_000)
    def chance(word: str) -> float:
        ids = tokenizer.encode(f"a {word}")[len(anchor) :]
        return math.log(vocab_size) - sum(math.log(1 + token) for token in ids)

    return lambda text: chance(_last_word(text))


def _last_word(text: str) -> str:
    return text[text.rfind(" ") + 1 :]


def _sum(a: float, b: float) -> float:
    """Return log(exp(a) + exp(b)) without overflow."""
    if a < b:
        a, b = b, a
    return a if b == _NEVER else a + math.log1p(math.exp(b - a))


__all__: Sequence[str] = ["TextChance", "common_words", "likeliest_texts"]
