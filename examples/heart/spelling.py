"""Durations of letters: those of hibari's phonemes, shared out evenly within each word."""

from __future__ import annotations

import json
import re
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from anytalk_heart.letters import LetterPronouncer
from anytalk_heart.pronounce import EDGE, SPACE

MARKS = ".,!?;:"


def spelled(row: dict[str, Any]) -> dict[str, Any] | None:
    """Spell a row of the training speech: letters become its units; None where words and phonemes don't match.

    Args:
        row: text, units and durations, as make_speech.py writes them.
    """
    words = row["text"].split()
    said, edges = _words(row["units"], row["durations"])
    units = LetterPronouncer()
    spelled_units = units.units(row["text"], False) + units.flush()
    letters, letter_edges = _words(spelled_units, [0] * len(spelled_units))
    if re.search(r"\d", row["text"]) or len(said) != len(words) or len(edges) != len(letter_edges):
        return None
    durations: list[int] = []
    marks = _marks()
    for (phonemes, lasting), (own, _), word in zip(said, letters, words, strict=True):
        count = len(word) - len(word.rstrip(MARKS))
        if (count and [unit in marks for unit in phonemes[-count:]] != [True] * count) or count >= len(own):
            return None
        core = sum(lasting[: len(lasting) - count])
        durations += _shared(core, len(own) - count) + lasting[len(lasting) - count :]
    rest = iter(durations)
    between = iter(edges)
    found = [next(between) if unit in (EDGE, SPACE) else next(rest) for unit in spelled_units]
    return {**row, "units": spelled_units, "durations": found}


def _words(units: list[int], durations: list[int]) -> tuple[list[tuple[list[int], list[int]]], list[int]]:
    """Find the words, each with the durations of its units, and the durations of what separates them."""
    words: list[tuple[list[int], list[int]]] = []
    between = []
    is_inside = False
    for unit, duration in zip(units, durations, strict=True):
        if unit in (EDGE, SPACE):
            between.append(duration)
            is_inside = False
            continue
        if not is_inside:
            words.append(([], []))
        is_inside = True
        words[-1][0].append(unit)
        words[-1][1].append(duration)
    return words, between


def _shared(total: int, count: int) -> list[int]:
    return np.diff(np.linspace(0, total, count + 1).round().astype(int)).tolist()


@lru_cache(maxsize=1)
def _marks() -> set[int]:
    """Units of hibari's punctuation."""
    spec = find_spec("hibari")
    assert spec is not None
    assert spec.origin is not None
    vocabulary = json.loads((Path(spec.origin).parent / "assets" / "vocab.json").read_text(encoding="utf-8"))
    return {vocabulary[mark] for mark in MARKS if mark in vocabulary}
