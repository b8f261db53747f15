"""Preview, count and clean training data: ``anytalk data``."""

from __future__ import annotations

import typer

from anytalk.cli import data_clean, data_preview, data_stats

group = typer.Typer(no_args_is_help=True)
group.command("preview", help="Print and draw rows: grid, spectrogram, loss mask.")(data_preview.command)
group.command("stats", help="Show hours, lengths, voices and tasks of each source.")(data_stats.command)
group.command("clean", help="Keep texts that can be spoken; drop or rewrite the others, with reasons.")(
    data_clean.command
)
