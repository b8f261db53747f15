"""Delay Ctrl-C and SIGTERM until an optimizer step has ended."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

_HELD = (signal.SIGINT, signal.SIGTERM)


@dataclass
class StopWish:
    """Tells whether a stop was requested."""

    wanted: bool = False  # a signal came; the loop saves and stops after the step


@contextmanager
def held_signals() -> Iterator[StopWish]:
    """Record the first signal instead of raising; a second Ctrl-C stops at once, without saving.

    A checkpoint in the middle of a step could not be resumed exactly. In other threads than the main one, which can't
    set handlers, signals are not delayed.
    """
    wish = StopWish()
    if threading.current_thread() is not threading.main_thread():
        yield wish
        return

    def receive(number: int, frame: object) -> None:
        if wish.wanted and number == signal.SIGINT:
            raise KeyboardInterrupt
        wish.wanted = True

    before = {number: signal.signal(number, receive) for number in _HELD}
    try:
        yield wish
    finally:
        for number, handler in before.items():
            signal.signal(number, handler or signal.SIG_DFL)
