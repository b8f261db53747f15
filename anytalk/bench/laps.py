"""Times a process from its start: imports, the building of each part, and the first question.

It runs inside the measured process only (:mod:`anytalk.bench.starting`), so it may replace functions of other modules.
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
# Private, but the only function that all imports pass through.
_machinery: Any = importlib._bootstrap


class Laps:
    """Adds up seconds by segment until the first text of the first answer; nested segments count only once.

    Args:
        place: File to write the times to, as JSON, when the first text arrives.
        began: ``time.perf_counter()`` of the parent process, just before it started this one.
    """

    def __init__(self, place: Path, began: float) -> None:
        self._place, self._began = place, began
        self._seconds: dict[str, float] = {"python": time.perf_counter() - began}
        self._inner = 0.0

    def around(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return the function with its time added to segment `name`, less the time of segments inside it."""

        def timed(*args: Any, **kwargs: Any) -> Any:
            outer, self._inner = self._inner, 0.0
            began = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                took = time.perf_counter() - began
                # A segment doesn't count the time of segments inside it.
                self._seconds[name] = self._seconds.get(name, 0.0) + took - self._inner
                self._inner = outer + took

        return timed

    def importing(self, load: Callable[[str, Any], Any]) -> Callable[[str, Any], Any]:
        """Wrap Python's import of a module that isn't loaded yet, to time it."""
        timed = self.around("imports", load)

        def imported(name: str, import_: Any) -> Any:
            found = timed(name, import_)
            # Sessions can be wrapped only once their module has been imported.
            if name == _SESSIONS:
                session = sys.modules[name].Session
                session.ask = self.asking(session.ask)
            return found

        return imported

    def building(self, build: Callable[..., Any]) -> Callable[..., Any]:
        """Wrap ``Registry.build`` to time each kind of part separately."""
        clocks = {segment: self.around(segment, build) for segment in {*_PARTS.values(), "other parts"}}
        return lambda registry, kind, *args: clocks[_PARTS.get(kind, "other parts")](registry, kind, *args)

    def asking(self, ask: Callable[..., Iterator[Any]]) -> Callable[..., Iterator[Any]]:
        """Wrap ``Session.ask`` to write the times when its first text arrives."""

        def asked(*args: Any, **kwargs: Any) -> Iterator[Any]:
            began, before = time.perf_counter(), sum(self._seconds.values())
            events = ask(*args, **kwargs)
            is_first = True
            try:
                for event in events:
                    if is_first and type(event).__name__ == "TextDelta":
                        is_first = False
                        # Imports and parts during the question count in their own segments.
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
    """Time this process; see :class:`Laps`."""
    laps = Laps(Path(place), began)
    _machinery._find_and_load = laps.importing(_machinery._find_and_load)
    from anytalk.plugins.registry import Registry

    Registry.build = laps.building(Registry.build)  # type: ignore[method-assign]
