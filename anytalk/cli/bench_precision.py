"""Compare the logits of another arithmetic with the exact ones: ``anytalk bench precision``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from anytalk.cli.devices import set_threads
from anytalk.cli.render import err, out, table
from anytalk.errors import DataError
from anytalk.model.config import read_config

if TYPE_CHECKING:
    from anytalk.model.talker import Talker

_COLUMNS = (
    "arithmetic",
    "positions",
    "text KL, nats",
    "same likeliest token",
    "audio KL, nats",
    "same likeliest code",
    "own answer the same for",
)


def command(
    folder: Path = typer.Argument(help="Talker folder."),
    arithmetic: list[str] = typer.Option(["packed", "int8"], help="Arithmetic to compare. May be repeated."),
    questions: Path | None = typer.Option(
        None, help="File of typed questions, one per line; default: twelve built-in ones."
    ),
    max_tokens: int = typer.Option(64, min=2, help="Longest compared answer, in tokens."),
    json_file: Path | None = typer.Option(None, "--json", help="Also write all figures to this file."),
    threads: int | None = typer.Option(None, min=1, help="CPU threads."),
) -> None:
    """Compare the logits of other arithmetics with the exact ones, along the exact talker's own answers."""
    read_config(folder)
    asked = None if questions is None else _lines(questions)
    with err.status("loading torch and the talker ...") as status:
        from anytalk.bench.precision import QUESTIONS, measure_precision
        from anytalk.model.talker import load_talker

        set_threads(threads)

        def make() -> Talker:
            return load_talker(folder, with_encoder=False)

        figures = measure_precision(
            make,
            arithmetic,
            questions=asked or QUESTIONS,
            max_tokens=max_tokens,
            told=lambda what: status.update(f"{what} ..."),
        )
    rows = [
        (
            name,
            str(found["positions"]),
            _number(found["text_kl"]),
            _share(found["text_agreement"]),
            _number(found["audio_kl"]),
            _share(found["audio_agreement"]),
            _share(found["same_start"]),
        )
        for name, found in figures.items()
    ]
    out.print(table("against exact", _COLUMNS, rows, numbers=_COLUMNS[1:]))
    if json_file is not None:
        json_file.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


def _lines(path: Path) -> list[str]:
    try:
        found = [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"'{path}' can't be read: {error}", "give a text file with a question on each line") from None
    if not found:
        raise DataError(f"'{path}' holds no questions", "write one on each line")
    return found


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.2g}"


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.1%}"
