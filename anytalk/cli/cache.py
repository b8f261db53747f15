"""List or clear what is kept between runs to start talkers faster: ``anytalk cache``."""

from __future__ import annotations

import time

import typer

from anytalk.cli.render import note, out, seconds, size, table
from anytalk.errors import ConfigError
from anytalk.plugins.disk_cache import bound_bytes, cache_folder, clear, entries


def command(
    name: str | None = typer.Argument(None, help="With --clear: prefix of an entry's name, or its model."),
    deletes: bool = typer.Option(False, "--clear", help="Delete NAME, or everything."),
) -> None:
    """List cached weights, which make talkers start fast, or clear them; anything deleted is made again when needed."""
    if deletes:
        gone = clear(name)
        note(f"deleted: {len(gone)} entries, {size(sum(entry.num_bytes for entry in gone))}")
        return
    if name is not None:
        raise ConfigError(f"'{name}' was given without --clear", f"anytalk cache --clear {name}")
    found = entries()
    now = time.time()
    rows = [
        (entry.path.name, entry.made_from, size(entry.num_bytes), f"{seconds(max(0.0, now - entry.used_at))} ago")
        for entry in found
    ]
    if rows:
        out.print(table("Kept", ("name", "made from", "size", "last used"), rows, numbers=("size", "last used")))
    total, bound = sum(entry.num_bytes for entry in found), bound_bytes()
    note(f"{size(total)} of {size(bound)} in {cache_folder()} (ANYTALK_CACHE_GB, ANYTALK_CACHE_DIR)")
