"""Word error rate, the measure of the paper's speech understanding (section 4) and of what answers say aloud."""

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
    """Errors in words, summed over all pairs."""

    wer: float  # errors per reference word; more than 1 is possible. Without any reference word, the errors themselves.
    substitutions: int  # words heard as others
    insertions: int  # words heard that were not there
    deletions: int  # words not heard
    reference_words: int  # words there were, after normalisation

    @property
    def errors(self) -> int:
        return self.substitutions + self.insertions + self.deletions


def word_error_rate(references: Sequence[str], hypotheses: Sequence[str]) -> WerResult:
    """Compare texts as Whisper's paper does: case, punctuation, spelling and numbers made alike first.

    Raises:
        DataError: different numbers of texts.
    """
    require("counting wrong words", "report", "jiwer")
    import jiwer

    if len(references) != len(hypotheses):
        raise DataError(
            f"{len(references)} references and {len(hypotheses)} hypotheses can't be compared", "give one for each"
        )
    pairs = [(normalise(r), normalise(h)) for r, h in zip(references, hypotheses, strict=True)]
    # jiwer refuses empty references: whatever was heard there is an insertion.
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
    """Return the normalised words, one space between; the normaliser leaves lone full stops, which nobody hears."""
    return " ".join(word for word in _normaliser()(text).split() if any(letter.isalnum() for letter in word))


@cache
def _normaliser() -> Any:
    from whisper.normalizers import EnglishTextNormalizer

    with warnings.catch_warnings():
        # The whisper package keeps its spelling table open while it reads it.
        warnings.simplefilter("ignore", ResourceWarning)
        return EnglishTextNormalizer()
