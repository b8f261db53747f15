"""N-gram models of words, and the hearing `words` that uses them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from anytalk.errors import ConfigError, WeightsError
from anytalk.plugins import optional
from anytalk.plugins.components import PartRef
from anytalk.plugins.contracts import Hearing
from anytalk.plugins.registry import default_registry
from anytalk.plugins.testing import check_hearing
from anytalk.plugins.testing.adapters import tiny_context
from anytalk_adapters.letters_adapter import LETTERS
from anytalk_adapters.word_sequences import follows
from anytalk_adapters.words_search import likeliest_texts

SIZES = {1: ["-99 <s> -0.3", "-1.0 </s>", "-1.0 ice -0.3", "-1.0 i -0.3", "-1.5 scream", "-1.5 cream", "-1.5 see"]}
SIZES[2] = ["-0.1 ice cream", "-2.5 i scream", "-0.5 <s> i"]

ARPA = "\\data\\\n" + "".join(f"ngram {n}={len(lines)}\n" for n, lines in SIZES.items())
ARPA += (
    "".join(f"\n\\{n}-grams:\n" + "".join(line + "\n" for line in lines) for n, lines in SIZES.items()) + "\n\\end\\\n"
)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    pytest.importorskip("pocketsphinx", reason="the extra `words` isn't installed")
    path = tmp_path / "small.arpa"
    path.write_text(ARPA)
    return path


def rarity(text: str) -> float:
    return -float(len(text.split()[-1]))


def test_a_word_is_as_likely_as_the_words_before_it_make_it(model: Path) -> None:
    chance = follows(str(model), None, rarity)
    assert chance("ice cream") == pytest.approx(-0.1 * 2.302585, abs=0.01)
    assert chance("ice scream") < chance("ice cream")
    # The first word follows the beginning of a sentence.
    assert chance("i") == pytest.approx(-0.5 * 2.302585, abs=0.01)


def test_a_word_that_it_does_not_know_is_rare_and_rarer_if_it_is_not_common(model: Path) -> None:
    chance = follows(str(model), None, rarity)
    assert chance("ice xylophone") < chance("ice ox") < chance("ice see")


def test_a_path_is_meant_from_the_talkers_folder(model: Path) -> None:
    assert follows(model.name, model.parent, rarity)("ice cream") > -1.0


def test_what_is_no_model_is_named(model: Path) -> None:
    model.write_text("these are words\n")
    with pytest.raises(WeightsError, match="can't be read as an n-gram model"):
        follows(str(model), None, rarity)


def test_a_word_that_fits_wins_over_one_that_was_heard_a_little_better(model: Path) -> None:
    heard = "ice _s_c_ream"
    scores = torch.full((len(heard), 1 + len(LETTERS)), -6.0)
    for place, letter in enumerate(heard):
        scores[place, 0 if letter == "_" else 1 + LETTERS.index(letter)] = 0.0
    scores[5, 0] = -0.2
    chance = follows(str(model), None, rarity)
    found = [next(iter(likeliest_texts(scores.log_softmax(-1), LETTERS, 16, 6, chance, w))) for w in (0.0, 1.0)]
    assert found == ["ice scream", "ice cream"]


def test_each_word_may_be_worth_something() -> None:
    scores = torch.zeros(3, 1 + len(LETTERS)).log_softmax(-1)
    scores[:] = -9.0
    for place, letters in enumerate(("i", " _", "i")):
        for letter in letters:
            scores[place, 0 if letter == "_" else 1 + LETTERS.index(letter)] = -0.1
    scores[1, 0] = 0.0
    found = [next(iter(likeliest_texts(scores, LETTERS, 16, 6, lambda text: 0.0, 0.0, bonus))) for bonus in (0.0, 2.0)]
    assert found == ["ii", "i i"]


def hearing(model: Path | str) -> Hearing:
    context = tiny_context()
    adapter = default_registry().build("input adapter", PartRef(name="letters"), context).eval()
    ref = PartRef(name="words", options={"sequences": str(model)})
    built: Hearing = default_registry().build("hearing", ref, replace(context, input_adapter=adapter))
    return built


def test_the_hearing_asks_the_model(model: Path) -> None:
    context = tiny_context()
    adapter = default_registry().build("input adapter", PartRef(name="letters"), context).eval()
    check_hearing("words", options={"sequences": str(model)}, context=replace(context, input_adapter=adapter))


def test_without_pocketsphinx_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(optional, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="pocketsphinx, which is not installed") as error:
        hearing("words.arpa")
    assert "anytalk[words]" in (error.value.hint or "")
