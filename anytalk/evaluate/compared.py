"""Build the table that papers print: a row for each system, a column for each test set. Doesn't import torch."""

from __future__ import annotations

from collections.abc import Sequence

from anytalk.evaluate.config import Suite
from anytalk.evaluate.metrics import format_interval, format_value
from anytalk.evaluate.results import Result
from anytalk.evaluate.stats import Figure

_NONE = "-"


def compared(suite: Suite, talker: str, results: Sequence[Result]) -> tuple[list[str], list[list[str]]] | None:
    """Return word errors next to those that others publish for the same sets; None if the suite has no `published`.

    Args:
        talker: Name of the talker's row.

    Returns:
        Columns (the system, then the measures) and rows: the others, the suite's transcriber if it was measured, the
        talker. A set without a figure is "-".
    """
    if not suite.published:
        return None
    labels = list(dict.fromkeys(name for row in suite.published for name in row.figures))
    labels += [result.label for result in results if result.label not in labels]
    others = {row.name: {n: format_value(v, "rate") for n, v in row.figures.items()} for row in suite.published}
    judge = f"{suite.transcriber.name}, measured here"
    figures = {
        **others,
        judge: {r.label: _cell(r.figures.get("transcriber_wer")) for r in results if "transcriber_wer" in r.figures},
        talker: {r.label: _cell(r.figures.get("wer")) for r in results},
    }
    rows = [[who, *(found.get(name, _NONE) for name in labels)] for who, found in figures.items() if found]
    return ["word errors", *labels], rows


def _cell(figure: Figure | None) -> str:
    if figure is None:
        return _NONE
    interval = format_interval(figure.low, figure.high, "rate")
    return format_value(figure.value, "rate") + (f" ({interval})" if interval else "")
