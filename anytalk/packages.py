"""Ignores installed packages whose entry points can't be read. Imports no room.

Python reads the entry points of all packages at once, so one malformed list would stop anytalk and its libraries.
"""

from __future__ import annotations

import importlib.metadata
from typing import Any

UNREADABLE: dict[str, str] = {}
"""Maps the names of such packages to the reason."""


def pass_over_unreadable() -> None:
    """Make Python find no entry points in a package whose list is malformed; change nothing if all lists are fine."""
    try:
        importlib.metadata.entry_points()
    except Exception:  # the parser raises errors of many kinds
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
    except Exception:  # its metadata may be damaged as well
        return "?"
