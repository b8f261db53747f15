"""Count hours, lengths, voices and tasks of each source: ``anytalk data stats``."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from anytalk.cli.render import err, note, out, table
from anytalk.plugins.registry import default_registry

if TYPE_CHECKING:
    from anytalk.data.stats import SourceStats

_MOST_VOICES = 8


def command(
    data: str = typer.Argument(help="data.yaml, a manifest (.jsonl, .csv), or a prepared folder or address."),
    as_json: bool = typer.Option(False, "--json", help="Print JSON."),
) -> None:
    """Count rows, hours, lengths, voices and tasks of each source, and what was left out and why."""
    from anytalk.data.config import read_data_config
    from anytalk.data.ledger import is_prepared

    found: list[SourceStats]
    with err.status("counting ...") as status:
        from anytalk.data.stats import config_stats, prepared_stats

        if is_prepared(data):
            found = prepared_stats(data)
        else:
            config = read_data_config(Path(data))
            found = config_stats(config, default_registry(), lambda name, rows: status.update(f"{name}: {rows} rows"))
    if as_json:
        out.print_json(json.dumps([dataclasses.asdict(source) for source in found]))
        return
    show(found, data)


def show(found: list[SourceStats], title: str) -> None:
    """Print the statistics as tables."""
    columns = ("source", "rows", "usable", "question", "answer", "question length", "answer length")
    rows = [
        (
            source.name,
            str(source.rows),
            str(source.kept),
            hours(source.question_hours),
            hours(source.answer_hours),
            _lengths(source.question_quantiles_s),
            _lengths(source.answer_quantiles_s),
        )
        for source in found
    ]
    if len(found) > 1:
        total = (sum(s.question_hours for s in found), sum(s.answer_hours for s in found))
        counts = (str(sum(s.rows for s in found)), str(sum(s.kept for s in found)))
        rows.append(("all", *counts, hours(total[0]), hours(total[1]), "", ""))
    out.print(table(title, columns, rows, numbers=columns[1:]))
    note("lengths: 5 %, half and 95 % of the rows are shorter; the longest")
    tasks = sorted({task for source in found for task in source.tasks})
    counted = [(s.name, *(str(s.tasks.get(task, 0)) for task in tasks)) for s in found]
    out.print(table("Rows that serve a task", ("source", *tasks), counted, numbers=tasks))
    voices = [(s.name, _voices(s.voices)) for s in found if s.voices]
    if voices:
        out.print(table("Answering voices", ("source", "voices"), voices))
    left_out = [(s.name, kind, str(count)) for s in found for kind, count in s.rejected.items()]
    if left_out:
        out.print(table("Left out", ("source", "reason", "rows"), left_out, numbers=("rows",)))
    for source in found:
        if source.unknown_lengths:
            note(f"{source.name}: {source.unknown_lengths} sounds are codes, far away or unreadable; not in the hours")
        if not source.complete:
            note(f"{source.name}: not finished yet; run the same `anytalk prepare` again")


def hours(length_h: float) -> str:
    """Format hours: ``0.5`` -> ``"30.0 min"``, ``2.0`` -> ``"2.00 h"``."""
    if length_h >= 1:
        return f"{length_h:.2f} h"
    return f"{length_h * 60:.1f} min" if length_h * 60 >= 1 else f"{length_h * 3600:.1f} s"


def _lengths(values: tuple[float, ...]) -> str:
    return " / ".join(f"{value:.1f}" for value in values) + " s" if values else "-"


def _voices(voices: dict[str, int]) -> str:
    ranked = sorted(voices.items(), key=lambda item: (-item[1], item[0]))
    shown = ", ".join(f"{name or '(no name)'} {count}" for name, count in ranked[:_MOST_VOICES])
    return shown + (f" and {len(ranked) - _MOST_VOICES} more" if len(ranked) > _MOST_VOICES else "")
