"""Print results, tables, remarks and errors in the same way in all commands."""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from rich.status import Status

    from anytalk.data.encoding import Rejected

_ROWS_SHOWN = 5

out = Console(highlight=False)
"""Prints results to standard output."""

err = Console(stderr=True, highlight=False)
"""Prints progress, notes and errors to standard error, so that pipes get results only."""


def complain(message: str, hint: str = "") -> None:
    """Print an error and a hint about what to do."""
    err.print(Text.assemble(("Error: ", "bold red"), message), soft_wrap=True)
    if hint:
        err.print(Text.assemble(("Hint:  ", "bold yellow"), hint), soft_wrap=True)


def note(message: str) -> None:
    """Print a remark that isn't part of the result."""
    err.print(Text(message, style="dim"), soft_wrap=True)


@contextmanager
def loading(what: str = "loading torch and the talker ...") -> Iterator[Status]:
    """Show what is being loaded while the block runs, and switch Python's cyclic garbage collector off.

    During the imports the collector would scan all new objects again and again; that takes a quarter of their time.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        with err.status(what) as status:
            yield status
    finally:
        if was_on:
            gc.enable()


def show_left_out(rows: Sequence[Rejected]) -> None:
    """Print how many rows are left out and why, and list the first few."""
    if not rows:
        return
    kinds = Counter(row.kind for row in rows)
    note(f"{len(rows)} rows are left out: {', '.join(f'{kind} {number}' for kind, number in sorted(kinds.items()))}")
    for row in rows[:_ROWS_SHOWN]:
        note(f"  {row.source}, {row.id}: {row.reason}")
    if len(rows) > _ROWS_SHOWN:
        note("  ...")


def say(message: str) -> None:
    """Print a line of the result; `message` may contain rich markup."""
    out.print(message, soft_wrap=True)


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], numbers: Sequence[str] = ()) -> Table:
    """Return a plain table; markup in cells is escaped, and the columns in `numbers` are right-aligned."""
    made = Table(
        title=title, title_justify="left", title_style="bold", header_style="bold cyan", box=None, pad_edge=False
    )
    for name in columns:
        made.add_column(name, justify="right" if name in numbers else "left", overflow="fold")
    for row in rows:
        made.add_row(*(escape(cell) for cell in row))
    return made


def pairs(title: str, rows: Sequence[tuple[str, str]]) -> Table:
    """Return a table of names and values without a header."""
    made = Table(title=title, title_justify="left", title_style="bold", box=None, show_header=False, pad_edge=False)
    made.add_column(style="cyan", no_wrap=True)
    made.add_column(overflow="fold")
    for name, value in rows:
        made.add_row(escape(name), escape(value))
    return made


def commands(title: str, lines: Sequence[str]) -> None:
    """Print commands to type next, one per line and never wrapped, so that they can be copied."""
    out.print(Text(title, style="bold"))
    for line in lines:
        out.print(Text(f"  {line}"), soft_wrap=True)


def count(number: int) -> str:
    """Format a count: ``134515008`` -> ``"134.5 M"``."""
    for divisor, unit in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if number >= divisor:
            return f"{number / divisor:.1f} {unit}"
    return str(number)


def size(num_bytes: float) -> str:
    """Format a number of bytes: ``269030016`` -> ``"269.0 MB"``."""
    for divisor, unit in ((10**9, "GB"), (10**6, "MB"), (10**3, "kB")):
        if num_bytes >= divisor:
            return f"{num_bytes / divisor:.1f} {unit}"
    return f"{num_bytes:.0f} B"


def seconds(duration_s: float) -> str:
    """Format a duration: ``75.2`` -> ``"1 min 15 s"``."""
    if duration_s < 60:
        return f"{duration_s:.2f} s" if duration_s < 10 else f"{duration_s:.0f} s"
    minutes, rest = divmod(round(duration_s), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"
