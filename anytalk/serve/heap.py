"""Memory that Python and the C library keep when it isn't used any more, given back to the system.

A session that is over is a circle of objects, and holds what the model remembered of it until Python's collector looks
at old objects. In a process that has loaded torch and a talker it hardly ever does: it waits until a quarter of all
objects are new. :func:`settle` takes those that stay out of the count.

Caches grow by a column in each round, so every round frees blocks a little smaller than those that the next one needs.
glibc keeps the holes, in the arena of the thread that made them, and early trimming (``M_TRIM_THRESHOLD``) gives back
only what lies at the top of the first arena. ``malloc_trim`` gives back every whole page in all of them.
"""

from __future__ import annotations

import ctypes
import gc
import time
from collections.abc import Callable
from functools import cache


@cache
def _malloc_trim() -> Callable[[int], int] | None:
    """glibc's; None where there is none (musl, macOS, Windows)."""
    try:
        trim = ctypes.CDLL(None).malloc_trim
    except (OSError, AttributeError, TypeError):
        return None
    trim.argtypes, trim.restype = [ctypes.c_size_t], ctypes.c_int
    return lambda pad: int(trim(pad))


def settle() -> None:
    """For a process that does nothing but serve, when all is loaded: what is there now stays to the end."""
    gc.collect()
    gc.freeze()
    Heap().give_back()


class Heap:
    """Gives memory back now and then.

    Args:
        pause_s: At least so long between two times: what is given back has to be fetched again.
        trim: As ``malloc_trim``; None looks for the C library's.
        clock: Seconds.
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
        """Give back what is free, `at_once` or unless it was done a moment ago; returns whether it was tried."""
        now = self._clock()
        is_early = self._last is not None and now - self._last < self._pause_s
        if self._trim is None or (is_early and not at_once):
            return False
        self._last = now
        if gc.get_freeze_count():  # else it would look at all of torch each time
            gc.collect()
        self._trim(0)
        return True
