"""The `letters` input adapter and the hearing `words`: letters that are heard become words that are typed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers import stage, tiny_talker, train, training_rows

from anytalk.errors import ConfigError
from anytalk.plugins.components import PartRef
from anytalk.plugins.contracts import Backbone
from anytalk.plugins.registry import default_registry
from anytalk.plugins.testing import check_hearing
from anytalk.plugins.testing.adapters import tiny_context
from anytalk_adapters.letters_adapter import LETTERS, LettersAdapter, letters_of, likeliest_letters
from anytalk_adapters.likely_words import Reader
from anytalk_adapters.words_search import common_words, likeliest_texts

LISTENS = ["input_adapter={name: letters, options: {width: 16, num_blocks: 1, dropout: 0.0}}"]


@pytest.fixture
def backbone() -> Backbone:
    part: Backbone = default_registry().build("backbone", PartRef(name="tiny"))
    return part


def chances_of(heard: str, doubt: float = 6.0) -> torch.Tensor:
    """(T,29) log probabilities of places in which these letters are heard; `_` is nothing."""
    scores = torch.full((len(heard), 1 + len(LETTERS)), -doubt)
    for place, letter in enumerate(heard):
        scores[place, 0 if letter == "_" else 1 + LETTERS.index(letter)] = 0.0
    return scores.log_softmax(dim=-1)


def spelt(text: str) -> str:
    return "".join(LETTERS[letter] for letter in letters_of(text))


@pytest.mark.parametrize(
    ("text", "letters"),
    [("It's 5 o'clock, Tom.", "it's o'clock tom"), ("well-known", "well known"), ("  Ça va ", "a va"), ("42", "")],
)
def test_a_transcript_is_its_letters(text: str, letters: str) -> None:
    assert spelt(text) == letters


@pytest.mark.parametrize(
    ("heard", "text"), [("_ccaat_", "cat"), ("aab_bc", "abbc"), ("_a  b_ ", "a b"), ("   ", ""), ("_i_'_m", "i'm")]
)
def test_the_likeliest_letters(heard: str, text: str) -> None:
    assert likeliest_letters(chances_of(heard)) == text
    found = likeliest_texts(chances_of(heard), LETTERS, 16, 6, lambda word: 0.0, 0.0)
    assert next(iter(found)) == text


def test_silence_is_one_letter() -> None:
    assert len(likeliest_letters(chances_of("____"))) <= 1


def test_what_is_heard_stands_where_it_would_have_been_typed(backbone: Backbone) -> None:
    adapter = LettersAdapter(LettersAdapter.Options(width=8, num_blocks=0, factor=1), 4, backbone).eval()
    adapter.letter_chances = lambda features, lengths: [chances_of("_hhi_ yyou__")]  # type: ignore[method-assign]
    columns, counts, lines = adapter(torch.randn(1, 12, 4), torch.tensor([12]))
    typed = backbone.tokenizer.encode("hi you")
    assert lines == [tuple(typed)]
    assert counts.tolist() == [len(typed)]
    torch.testing.assert_close(columns[:, : len(typed)], backbone.embed_text(torch.tensor([typed])))


def test_common_words_are_preferred_where_letters_are_in_doubt(backbone: Backbone) -> None:
    chances = chances_of("c_a_t", doubt=6.0)
    chances[2, 1 + LETTERS.index("u")] = chances[2, 1 + LETTERS.index("a")] + 0.1
    rare = {"cut": -4.0, "cat": 0.0}
    scores = {w: likeliest_texts(chances, LETTERS, 16, 6, lambda word: rare.get(word, -9.0), w) for w in (0.0, 1.0)}
    assert [next(iter(found)) for found in scores.values()] == ["cut", "cat"]


def test_a_word_of_more_tokens_is_a_rarer_one(backbone: Backbone) -> None:
    chance = common_words(backbone.tokenizer, backbone.text_vocab_size)
    assert chance("ab") > chance("abab")


def test_it_learns_without_the_backbone_and_says_that_nothing_else_reaches_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    talker = tiny_talker(tmp_path / "t", *LISTENS)
    rows = training_rows(tmp_path, 2, question_s=0.6)
    align = stage(name="a", train=["input_adapter"], tasks={"A1T1": 1.0}, losses={"align": 1.0}, steps=40)
    with monkeypatch.context() as patch:
        patch.setattr(talker.model.backbone, "forward", lambda *_: pytest.fail("the backbone ran"))
        record = train(talker, align, rows)
    assert record.loss_last < 0.7 * record.loss_first
    behind = stage(name="b", train=["input_adapter"], tasks={"A1T2": 1.0}, losses={"text": 1.0}, steps=1)
    with pytest.raises(ConfigError, match="none of its tasks uses them"):
        train(talker, behind, rows)


def test_the_hearing_keeps_its_contract() -> None:
    context = tiny_context()
    adapter = default_registry().build("input adapter", PartRef(name="letters"), context).eval()
    context = replace(context, input_adapter=adapter)
    check_hearing("words", context=context)
    check_hearing("words", options={"weight": 0.5, "context": "so: ", "lines": 2}, context=context)


def test_only_an_adapter_that_hears_letters_can_be_searched(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="hears letters; MlpAdapter doesn't"):
        tiny_talker(tmp_path / "t", "hearing={name: words}")


@pytest.mark.parametrize(("margin", "num_read"), [(0.01, 1), (50.0, 5)])
def test_the_backbone_reads_the_texts_within_the_margin(
    margin: float, num_read: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = tiny_context()
    adapter = default_registry().build("input adapter", PartRef(name="letters"), context).eval()
    monkeypatch.setattr(adapter, "letter_chances", lambda *_: [chances_of("_c_a_t_", doubt=3.0)])
    read: list[int] = []

    def note(self: Reader, lines: list[tuple[int, ...]], marks: list[int]) -> tuple[list[float], list[list[float]]]:
        read.append(len(lines))
        return [0.0] * len(lines), [[0.0] * len(marks)] * len(lines)

    monkeypatch.setattr(Reader, "read", note)
    options = {"weight": 0.5, "lines": 5, "margin": margin}
    hearing = default_registry().build(
        "hearing", PartRef(name="words", options=options), replace(context, input_adapter=adapter)
    )
    hearing(torch.zeros(1, 14, context.need_encoder_width()), torch.tensor([14]))
    assert read == [num_read]
