"""Return memory to the system that Python and the C library keep after it is no longer used.

A finished session is a cycle of objects, which keep the model's memory of it alive until Python's collector examines
old objects. In a process that has loaded torch and a talker this almost never happens, because the collector waits
until the number of new objects reaches a quarter of all. :func:`settle` excludes the permanent objects from this count.

Caches grow by a column in each round, so every round frees blocks that are slightly too small for the next one. glibc
keeps them in the arena of the thread that allocated them, and its automatic trimming (``M_TRIM_THRESHOLD``) returns
only the top of the first arena. ``malloc_trim`` returns all free pages of all arenas.
"""

from __future__ import annotations

import ctypes
import gc
import time
from collections.abc import Callable
from functools import cache


@cache
def _malloc_trim() -> Callable[[int], int] | None:
    """Return glibc's ``malloc_trim``; None on systems without it (musl, macOS, Windows)."""
    try:
        trim = ctypes.CDLL(None).malloc_trim
    except (OSError, AttributeError, TypeError):
        return None
    trim.argtypes, trim.restype = [ctypes.c_size_t], ctypes.c_int
    return lambda pad: int(trim(pad))


def settle() -> None:
    """Exclude all present objects from garbage collection; call this once everything is loaded."""
    gc.collect()
    gc.freeze()
    Heap().give_back()


class Heap:
    """Returns free memory to the system from time to time.

    Args:
        pause_s: Least time between two returns, because returned memory has to be allocated again.
        trim: Replaces ``malloc_trim``; None uses the C library's.
        clock: Returns the time in seconds.
    """

    def __init__(
        self,
        pause_s: float = 5.0,
        trim: Callable[[int], int] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._pause_s, self._trim, self._clock = pause_s, trim or _malloc_trim(), clock
        self._last: float | None = None

    def give_back(self, at_once: bool = False) -> bool:
        """Return free memory unless that was done recently (`at_once` does it anyway); tell whether it was done."""
        now = self._clock()
        is_early = self._last is not None and now - self._last < self._pause_s
        if self._trim is None or (is_early and not at_once):
            return False
        self._last = now
        if gc.get_freeze_count():  # without frozen objects, each collection would scan all of torch
            gc.collect()
        self._trim(0)
        return True
