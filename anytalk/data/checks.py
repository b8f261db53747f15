"""What no row may hold, whatever source it comes from. Torch-free."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Iterator

from anytalk.errors import DataError
from anytalk.plugins.contracts import BadRow, Row

_UNSEEN = ("Zs", "Zl", "Zp", "Cc", "Cf")
"""Categories of blanks, line ends, and marks such as the zero-width space."""


def check_text(text: str | None, where: str, keep_blank: bool = False) -> None:
    """Refuse text that no tokenizer, file or voice can take.

    Raises:
        DataError: half of a character, a NUL, or (unless `keep_blank`) nothing but blanks.
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
    """Return whether a text holds more than blanks and characters that nobody sees."""
    return any(unicodedata.category(character) not in _UNSEEN for character in text)


def check_row(row: Row, keep_blank: bool = False) -> None:
    """Refuse a row with a text that can't be used.

    Args:
        keep_blank: Let blank questions and answers pass, for cleaning, which counts them by a rule of its own.

    Raises:
        DataError: which text, and what is wrong with it.
    """
    check_text(row.id, f"{row.id!r}: its name")
    check_text(row.question_text, f"{row.id}: its question", keep_blank)
    check_text(row.answer_text, f"{row.id}: its answer", keep_blank)
    check_text(row.speaker, f"{row.id}: the name of its voice")
    for number, turn in enumerate(row.history, start=1):
        check_text(turn.text, f"{row.id}: turn {number} of its history")


def checked_rows(rows: Iterable[Row | BadRow], source: str, keep_blank: bool = False) -> Iterator[Row | BadRow]:
    """Pass rows on whose texts can be used (:func:`check_row`); others become bad rows.

    Raises:
        DataError: what concerns the whole source, also when it is a bug of its plugin.
    """
    found = iter(rows)
    number = 0
    while True:
        try:
            row = next(found, None)
        except DataError:
            raise
        except (Exception, RecursionError) as error:
            raise DataError(
                f"source '{source}' can't be read beyond row {number}: {type(error).__name__}: "
                f"{' '.join(str(error).split())[:300]}",
                "what was finished is kept; run the same command again when it can",
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
