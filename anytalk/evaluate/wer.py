"""Compute the word error rate, the measure of speech understanding in the paper (section 4) and of spoken answers."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from anytalk.errors import DataError
from anytalk.plugins.optional import require


@dataclass(frozen=True)
class WerResult:
    """Holds errors in words, summed over all pairs."""

    wer: float  # errors per reference word, may exceed 1; without reference words, the number of errors
    substitutions: int  # words heard as other words
    insertions: int  # words heard that weren't said
    deletions: int  # words that weren't heard
    reference_words: int  # words said, after normalisation

    @property
    def errors(self) -> int:
        return self.substitutions + self.insertions + self.deletions


def word_error_rate(references: Sequence[str], hypotheses: Sequence[str]) -> WerResult:
    """Compare texts as Whisper's paper does, after normalising case, punctuation, spelling and numbers.

    Raises:
        DataError: different numbers of references and hypotheses.
    """
    require("counting wrong words", "report", "jiwer")
    import jiwer

    if len(references) != len(hypotheses):
        raise DataError(
            f"{len(references)} references and {len(hypotheses)} hypotheses can't be compared", "give one for each"
        )
    pairs = [(normalise(r), normalise(h)) for r, h in zip(references, hypotheses, strict=True)]
    # jiwer refuses empty references; every word heard there is an insertion.
    insertions = sum(len(heard.split()) for said, heard in pairs if not said)
    spoken = [(said, heard) for said, heard in pairs if said]
    substitutions = deletions = 0
    if spoken:
        counts = jiwer.process_words([said for said, _ in spoken], [heard for _, heard in spoken])
        substitutions, deletions = counts.substitutions, counts.deletions
        insertions += counts.insertions
    reference_words = sum(len(said.split()) for said, _ in spoken)
    errors = substitutions + insertions + deletions
    return WerResult(errors / max(reference_words, 1), substitutions, insertions, deletions, reference_words)


def normalise(text: str) -> str:
    """Return the normalised words joined by spaces, without the lone full stops that the normaliser leaves."""
    return " ".join(word for word in _normaliser()(text).split() if any(letter.isalnum() for letter in word))


@cache
def _normaliser() -> Any:
    from whisper.normalizers import EnglishTextNormalizer

    with warnings.catch_warnings():
        # The whisper package doesn't close its spelling table after reading it.
        warnings.simplefilter("ignore", ResourceWarning)
        return EnglishTextNormalizer()
