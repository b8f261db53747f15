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
        Columns (the system, then the measures, each with the number of its rows if it was measured here) and rows: the
        others, the suite's transcriber if it was measured, the talker. A set without a figure is "-".
    """
    if not suite.published:
        return None
    labels = list(dict.fromkeys(name for row in suite.published for name in row.figures))
    labels += [result.label for result in results if result.label not in labels]
    others = {row.name: {n: _percent(v) for n, v in row.figures.items()} for row in suite.published}
    title = next((result.transcriber for result in results if result.transcriber), suite.transcriber.name)
    figures = {
        **others,
        f"{title}, measured here": {r.label: _cell(r.figures["transcriber_wer"]) for r in results if _was_compared(r)},
        f"{talker}, measured here": {r.label: _cell(r.figures["wer"]) for r in results if "wer" in r.figures},
    }
    rows = [[who, *(found.get(name, _NONE) for name in labels)] for who, found in figures.items() if found]
    measured = {result.label: result.figures["wer"].n for result in results if "wer" in result.figures}
    columns = [f"{name} (n {measured[name]})" if name in measured else name for name in labels]
    return ["word errors, %", *columns], rows


def _was_compared(result: Result) -> bool:
    return "transcriber_wer" in result.figures


def _cell(figure: Figure) -> str:
    interval = format_interval(figure.low, figure.high, "rate").removesuffix(" %")
    return _percent(figure.value) + (f" ({interval})" if interval else "")


def _percent(rate: float) -> str:
    return format_value(rate, "rate").removesuffix(" %")
