"""``anytalk data``: look at training data, count it, clean it."""

from __future__ import annotations

import typer

from anytalk.cli import data_clean, data_preview, data_stats

group = typer.Typer(no_args_is_help=True)
group.command("preview", help="Print and draw rows: grid, spectrogram, what is in the loss.")(data_preview.command)
group.command("stats", help="Hours, lengths, voices and tasks of each source.")(data_stats.command)
group.command("clean", help="Keep what a voice can read: drop or rewrite the rest, each with its reason.")(
    data_clean.command
)
