"""Reject rows with texts that can't be used, whatever source they come from. Doesn't import torch."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Iterator

from anytalk.errors import DataError
from anytalk.plugins.contracts import BadRow, Row

_UNSEEN = ("Zs", "Zl", "Zp", "Cc", "Cf")
"""Unicode categories of spaces, line ends, control characters and marks such as the zero-width space."""


def check_text(text: str | None, where: str, keep_blank: bool = False) -> None:
    """Check that a tokenizer, a file and a synthesizer can take the text.

    Raises:
        DataError: the text holds a lone surrogate or a NUL, or is blank (unless `keep_blank`).
    """
    if text is None:
        return
    try:
        text.encode()
    except UnicodeEncodeError:
        raise DataError(
            f"{where}, {text[:40]!r}, holds half of a character", "fix the escapes (\\ud800 ...), or write UTF-8"
        ) from None
    if "\0" in text:
        raise DataError(f"{where}, {text[:40]!r}, holds a NUL character", "leave it out")
    if not keep_blank and not _says_something(text):
        raise DataError(f"{where} is empty", "write it, or leave the field out")


def _says_something(text: str) -> bool:
    """Return whether the text has a visible character."""
    return any(unicodedata.category(character) not in _UNSEEN for character in text)


def check_row(row: Row, keep_blank: bool = False) -> None:
    """Check all texts of a row.

    Args:
        keep_blank: Accept blank questions and answers; `anytalk data clean` counts them by a rule of its own.

    Raises:
        DataError: the first text that can't be used, and what is wrong with it.
    """
    check_text(row.id, f"{row.id!r}: its name")
    check_text(row.question_text, f"{row.id}: its question", keep_blank)
    check_text(row.answer_text, f"{row.id}: its answer", keep_blank)
    check_text(row.speaker, f"{row.id}: the name of its voice")
    for number, turn in enumerate(row.history, start=1):
        check_text(turn.text, f"{row.id}: turn {number} of its history")


def checked_rows(rows: Iterable[Row | BadRow], source: str, keep_blank: bool = False) -> Iterator[Row | BadRow]:
    """Yield rows; those that fail :func:`check_row` become bad rows.

    Raises:
        DataError: the source can't be read any further; this includes bugs of its plugin.
    """
    found = iter(rows)
    number = 0
    while True:
        try:
            row = next(found, None)
        except DataError:
            raise
        except (Exception, RecursionError) as error:  # sources are plugins and may raise anything
            raise DataError(
                f"source '{source}' can't be read beyond row {number}: {type(error).__name__}: "
                f"{' '.join(str(error).split())[:300]}",
                "finished rows are kept; run the same command again once it can be read",
            ) from error
        if row is None:
            return
        number += 1
        if isinstance(row, Row):
            try:
                check_row(row, keep_blank)
            except DataError as error:
                row = BadRow(id=row.id, reason=error.message, hint=error.hint)
        yield row
