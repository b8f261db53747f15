"""Decide whether an answer contains an expected one."""

from __future__ import annotations

from anytalk.evaluate.wer import normalise

ALTERNATIVE = "|"
"""Separates expected answers in a text."""

_ARTICLES = {"a", "an", "the"}


def expected_answers(text: str | None) -> list[str]:
    """Split ``"Rome | Roma"`` into ``["Rome", "Roma"]``, without pieces that have no words."""
    return [piece.strip() for piece in (text or "").split(ALTERNATIVE) if _content(piece)]


def is_exact(answer: str, expected: list[str]) -> bool:
    """Return whether the answer equals an expected one, apart from case, punctuation, spelling and articles."""
    return any(_content(answer) == _content(wanted) for wanted in expected)


def is_contained(answer: str, expected: list[str]) -> bool:
    """Return whether the answer contains all words of an expected one in a row."""
    words = _content(answer)
    return any(_holds(words, _content(wanted)) for wanted in expected)


def _content(text: str) -> list[str]:
    """Return normalised words without articles, as SQuAD's script compares (arXiv 1606.05250)."""
    return [word for word in normalise(text).split() if word not in _ARTICLES]


def _holds(words: list[str], wanted: list[str]) -> bool:
    width = len(wanted)
    return width > 0 and any(words[i : i + width] == wanted for i in range(len(words) - width + 1))
