"""Passes over installed packages whose list of entry points can't be read; imports no room.

One such package would stop this program, and every library that looks for plugins: Python reads all lists at once.
"""

from __future__ import annotations

import importlib.metadata
from typing import Any

UNREADABLE: dict[str, str] = {}
"""Why a package's list can't be read, by its name."""


def pass_over_unreadable() -> None:
    """Let Python find no entry points in a package whose list is malformed; nothing is changed where none is."""
    try:
        importlib.metadata.entry_points()
    except Exception:  # of whatever kind: it is a parser's
        listed: Any = vars(importlib.metadata.Distribution)["entry_points"]

        def found(dist: importlib.metadata.Distribution) -> importlib.metadata.EntryPoints:
            try:
                points: importlib.metadata.EntryPoints = listed.fget(dist)
            except Exception as error:
                UNREADABLE[_name_of(dist)] = f"{type(error).__name__}: {error}"
                return importlib.metadata.EntryPoints(())
            return points

        importlib.metadata.Distribution.entry_points = property(found)  # type: ignore[assignment]


def _name_of(dist: importlib.metadata.Distribution) -> str:
    try:
        return dist.name or "?"
    except Exception:  # its other files may be as odd
        return "?"
