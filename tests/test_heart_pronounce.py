"""English as phonemes, word by word: what streams is what the whole says, and numbers are words."""

from __future__ import annotations

import re
import sys
from importlib.util import find_spec
from typing import Any

import pytest
from importable import importable

from anytalk.errors import PluginError

with importable("anytalk-heart", "heart"):
    from anytalk_heart.letters import LetterPronouncer, unit_of
    from anytalk_heart.pronounce import EDGE, SPACE, EnglishPronouncer
    from spelling import spelled

TEXTS = (
    "Hello there, this is the end of an apple.",
    "On March 3, 2024, 1,250 people paid $9.99 each at 7:30 pm.",
    "Dr. Smith lives at 12 Oak Street. Does he? Yes!",
    "The old zyxwort to eat is the one in the box",
)


def test_without_hibari_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "hibari", None)
    with pytest.raises(PluginError) as caught:
        EnglishPronouncer()
    assert "pip install hibari-tts" in str(caught.value)


needs_hibari = pytest.mark.skipif(find_spec("hibari") is None, reason="hibari-tts is not installed")


@pytest.fixture(scope="module")
def english() -> Any:
    return EnglishPronouncer(held_words=2)


def whole(english: Any, text: str) -> list[int]:
    hibari: Any = pytest.importorskip("hibari")
    found: list[int] = []
    for sentence in hibari.Hibari.split_sentences(text):
        found += [EDGE, *(english._ids[letter] for letter in english._g2p(sentence) if letter in english._ids), EDGE]
    return found


@needs_hibari
@pytest.mark.parametrize("text", TEXTS)
def test_streamed_units_are_those_of_the_whole(english: Any, text: str) -> None:
    pieces = re.findall(r"\s*\S+", text)
    streamed = [english.units(piece, True) for piece in pieces]
    said = [unit for units in streamed for unit in units] + english.flush()
    assert said == whole(english, text)
    assert sum(bool(units) for units in streamed) >= len(pieces) // 3  # it doesn't wait for the end


@needs_hibari
def test_a_word_in_pieces_waits_for_its_end(english: Any) -> None:
    assert english.units("Hel", False) == []
    assert english.units("lo", True) == []
    assert english.units(" there", True) == []
    assert english.units(" you", True)
    english.flush()
    assert english.flush() == []


@needs_hibari
def test_numbers_are_words(english: Any) -> None:
    quick = EnglishPronouncer()
    said = [quick.units(piece, True) for piece in ("It", " is", " 42", " now", " then")]
    assert [bool(units) for units in said] == [False, True, True, False, True]  # 42 waits for a word without digits
    assert quick.flush()[-1] == EDGE
    assert len(whole(english, "42")) > len(whole(english, "4"))


def test_letters_leave_with_their_word() -> None:
    letters = LetterPronouncer().fresh()
    spelled = [letters.units(piece, True) for piece in ("Où", " est", " l'ABC?", " Là")]
    place = {letter: unit_of(letter) for letter in "oue'stlabc?"}
    assert spelled == [
        [EDGE, place["o"], place["u"]],
        [SPACE, place["e"], place["s"], place["t"]],
        [SPACE, place["l"], place["'"], place["a"], place["b"], place["c"], place["?"], EDGE],
        [EDGE, place["l"], place["a"]],
    ]
    assert letters.flush() == [EDGE]
    assert letters.flush() == []
    units = {unit_of(chr(code)) for code in range(32, 0x3000)}
    assert not units & {EDGE, SPACE}
    assert max(units) < 178


@needs_hibari
def test_letters_share_their_words_time() -> None:
    hibari: Any = pytest.importorskip("hibari")
    engine = hibari.Hibari()
    units = [unit for line in engine.phonemize("The cats, no.") for unit in engine.ids(line)]
    row = spelled({"text": "The cats, no.", "units": units, "durations": list(range(1, len(units) + 1))})
    assert row is not None
    assert len(row["units"]) == len(row["durations"]) == len("The cats, no.") + 2
    assert sum(row["durations"]) == sum(range(1, len(units) + 1))
    comma = row["units"].index(unit_of(","))
    assert row["durations"][comma] == units.index(engine.ids(",")[1]) + 1  # a mark keeps its own
    assert spelled({"text": "The 2 cats.", "units": units, "durations": units}) is None
