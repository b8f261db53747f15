"""A clock inside a process that starts: what it spends on imports, on each part, and on its first question.

Runs in the measured process alone (:mod:`anytalk.bench.starting`), which is why it replaces functions of others.
"""

from __future__ import annotations

import importlib
import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

_SESSIONS = "anytalk.decode.session"
_PARTS = {"backbone": "backbone", "ears": "ears", "speech encoder": "ears", "codec": "codec"}
_machinery: Any = importlib._bootstrap


class Laps:
    """Wall seconds by segment, each without those inside it, until the first text of the first answer.

    Args:
        place: File that they are written to, as JSON, when the text is there.
        began: ``time.perf_counter()`` when the process was asked for, in the process that asked.
    """

    def __init__(self, place: Path, began: float) -> None:
        self._place, self._began = place, began
        self._seconds: dict[str, float] = {"python": time.perf_counter() - began}
        self._inner = 0.0

    def around(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return the same function with a clock around it."""

        def timed(*args: Any, **kwargs: Any) -> Any:
            outer, self._inner = self._inner, 0.0
            began = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                took = time.perf_counter() - began
                self._seconds[name] = self._seconds.get(name, 0.0) + took - self._inner
                self._inner = outer + took

        return timed

    def importing(self, load: Callable[[str, Any], Any]) -> Callable[[str, Any], Any]:
        """Python's import of a module that isn't there yet, with a clock around it."""
        timed = self.around("imports", load)

        def imported(name: str, import_: Any) -> Any:
            found = timed(name, import_)
            if name == _SESSIONS:
                session = sys.modules[name].Session
                session.ask = self.asking(session.ask)
            return found

        return imported

    def building(self, build: Callable[..., Any]) -> Callable[..., Any]:
        """``Registry.build`` with a clock for each kind of part."""
        clocks = {segment: self.around(segment, build) for segment in {*_PARTS.values(), "other parts"}}
        return lambda registry, kind, *args: clocks[_PARTS.get(kind, "other parts")](registry, kind, *args)

    def asking(self, ask: Callable[..., Iterator[Any]]) -> Callable[..., Iterator[Any]]:
        """``Session.ask``, which tells of its first text."""

        def asked(*args: Any, **kwargs: Any) -> Iterator[Any]:
            began, before = time.perf_counter(), sum(self._seconds.values())
            events = ask(*args, **kwargs)
            is_first = True
            try:
                for event in events:
                    if is_first and type(event).__name__ == "TextDelta":
                        is_first = False
                        # What was imported or built inside the question counts there.
                        inside = sum(self._seconds.values()) - before
                        self._seconds["first question"] = time.perf_counter() - began - inside
                        self._write()
                    yield event
            finally:
                events.close()  # type: ignore[attr-defined]

        return asked

    def _write(self) -> None:
        total = time.perf_counter() - self._began
        told = {**self._seconds, "other": total - sum(self._seconds.values())}
        self._place.write_text(
            json.dumps({"total": total, "processor": time.process_time(), "segments": told}), encoding="utf-8"
        )


def watch(place: str, began: float) -> None:
    """Take the time of this process; see :class:`Laps`."""
    laps = Laps(Path(place), began)
    _machinery._find_and_load = laps.importing(_machinery._find_and_load)
    from anytalk.plugins.registry import Registry

    Registry.build = laps.building(Registry.build)  # type: ignore[method-assign]
