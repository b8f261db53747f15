"""Words in a search over tokens: what ends a word, and which line wins."""

from __future__ import annotations

import math

import pytest
import torch

from anytalk.plugins.components import PartRef
from anytalk.plugins.contracts import Backbone, TextTokenizer
from anytalk.plugins.registry import default_registry
from anytalk.plugins.testing import check_hearing
from anytalk_adapters.ctc_search import found_lines, likeliest_lines
from anytalk_adapters.line_words import LineWords
from anytalk_adapters.spelling import Spelling

CHANCES = {"a": -1.0, "b": -2.0, "ab": -5.0}


@pytest.fixture
def tokenizer() -> TextTokenizer:
    part: Backbone = default_registry().build("backbone", PartRef(name="tiny"))
    return part.tokenizer


def words(tokenizer: TextTokenizer, weight: float = 1.0, per_word: float = 0.0) -> LineWords:
    return LineWords(Spelling(tokenizer), lambda text: CHANCES[text.split()[-1]], weight, per_word)


@pytest.mark.parametrize(
    ("text", "so_far", "ended"),
    [
        ("", 0.0, 0.0),
        ("ab", 0.0, -5.0),
        (" ab", 0.0, -5.0),  # a space at the start ends nothing
        ("a b", -1.0, -3.0),
        ("A, b!", -1.0, -3.0),
        ("a  b", -1.0, -3.0),  # one word, though two spaces
        ("a - b", -1.0, -3.0),  # a mark isn't a word
        ("a ", -1.0, -1.0),
    ],
)
def test_a_word_ends_at_a_space(tokenizer: TextTokenizer, text: str, so_far: float, ended: float) -> None:
    line = tuple(tokenizer.encode(text))
    assert words(tokenizer)(line, False) == so_far
    assert words(tokenizer)(line, True) == ended


def test_weight_and_reward_of_a_word(tokenizer: TextTokenizer) -> None:
    assert words(tokenizer, 0.5, 10.0)(tuple(tokenizer.encode("a b")), True) == 0.5 * -3.0 + 20.0


def test_likely_words_win(tokenizer: TextTokenizer) -> None:
    a, b, space = (tokenizer.encode(letter)[0] for letter in "ab ")
    # "ab" is as likely as "a b" by the sound.
    blanks, tokens = [-5.0] * 3, [[(a, -0.1)], [(space, -1.0)], [(b, -0.1)]]
    blanks[1] = -1.0
    assert {(a, b), (a, space, b)} <= {line for line, _ in likeliest_lines(blanks, tokens, 8)}
    frames = torch.full((3, 1 + max(a, b, space) + 1), -30.0)
    for row, (blank, heard) in enumerate(zip(blanks, tokens, strict=True)):
        frames[row, 0] = blank
        for token, chance in heard:
            frames[row, 1 + token] = chance
    scores = found_lines([frames], 2, 8, words(tokenizer))
    assert next(iter(scores)) == (a, space, b)
    plain = found_lines([frames], 2, 8)
    assert math.isclose(scores[a, b], plain[a, b] - 5.0, rel_tol=1e-6)
    assert math.isclose(scores[a, space, b], plain[a, space, b] - 3.0, rel_tol=1e-6)


def test_words_count_while_lines_grow(tokenizer: TextTokenizer) -> None:
    a, b, space = (tokenizer.encode(letter)[0] for letter in "ab ")
    blanks, tokens = [-5.0, -5.0], [[(a, -0.5), (b, -0.4)], [(space, -0.1)]]
    assert likeliest_lines(blanks, tokens, 2)[0][0] == (b, space)
    assert likeliest_lines(blanks, tokens, 2, words(tokenizer))[0][0] == (a, space)


def test_the_hearing_keeps_its_contract_with_words() -> None:
    check_hearing("beam", options={"common": 0.3, "per_word": 1.0, "beam": 4})
