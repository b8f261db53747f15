"""Whether an answer holds what was expected."""

from __future__ import annotations

from anytalk.evaluate.wer import normalise

ALTERNATIVE = "|"
"""Stands between expected answers."""

_ARTICLES = {"a", "an", "the"}


def expected_answers(text: str | None) -> list[str]:
    """``"Rome | Roma"`` -> ``["Rome", "Roma"]``; empty for None or nothing that can be matched."""
    return [piece.strip() for piece in (text or "").split(ALTERNATIVE) if _content(piece)]


def is_exact(answer: str, expected: list[str]) -> bool:
    """Return whether the answer has the expected words, but for case, punctuation, spelling and articles."""
    return any(_content(answer) == _content(wanted) for wanted in expected)


def is_contained(answer: str, expected: list[str]) -> bool:
    """Return whether one of the expected occurs in the answer as whole words in a row."""
    words = _content(answer)
    return any(_holds(words, _content(wanted)) for wanted in expected)


def _content(text: str) -> list[str]:
    """Normalised words without articles (as SQuAD's script compares, arXiv 1606.05250)."""
    return [word for word in normalise(text).split() if word not in _ARTICLES]


def _holds(words: list[str], wanted: list[str]) -> bool:
    width = len(wanted)
    return width > 0 and any(words[i : i + width] == wanted for i in range(len(words) - width + 1))
