"""What waits to be sent to one client: bounded, and cancelled sound never leaves it."""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from anytalk.serve.questions import new_id


@dataclass
class _Waiting:
    text: str
    sound_of: str | None
    sound_ms: float


class SlowClientError(Exception):
    """The client takes what it is sent too slowly."""


class Outbox:
    """Events in order of their sending. A client is too slow when too many bytes wait for it, or one message takes too
    long to send."""

    def __init__(self, send: Callable[[str], Awaitable[None]], max_unsent_bytes: int, send_timeout_s: float) -> None:
        self._send, self._max_bytes, self._timeout_s = send, max_unsent_bytes, send_timeout_s
        self._waiting: deque[_Waiting] = deque()
        self._bytes = 0
        self._changed = asyncio.Event()
        self._closed = False
        self.overflowed = False

    def put(self, name: str, /, sound_of: str | None = None, sound_ms: float = 0.0, **fields: Any) -> None:
        """Send an event when its turn has come; `sound_of` is the response whose sound it carries."""
        if self._closed or self.overflowed:
            return
        text = json.dumps({"type": name, "event_id": new_id("event"), **fields}, separators=(",", ":"))
        self._waiting.append(_Waiting(text, sound_of, sound_ms))
        self._bytes += len(text)
        self.overflowed = self._bytes > self._max_bytes
        self._changed.set()

    def drop_sound(self, response_id: str) -> float:
        """Take back the sound of a response that was not sent yet; returns how many milliseconds."""
        dropped = [waiting for waiting in self._waiting if waiting.sound_of == response_id]
        self._waiting = deque(waiting for waiting in self._waiting if waiting.sound_of != response_id)
        self._bytes -= sum(len(waiting.text) for waiting in dropped)
        return sum(waiting.sound_ms for waiting in dropped)

    def close(self) -> None:
        """Send what waits, then end :meth:`run`."""
        self._closed = True
        self._changed.set()

    async def run(self) -> None:
        """Send until closed (SlowClientError: the client doesn't take it)."""
        while True:
            if self.overflowed:
                raise SlowClientError(f"{self._bytes} bytes were waiting; {self._max_bytes} are allowed")
            if not self._waiting:
                if self._closed:
                    return
                self._changed.clear()
                await self._changed.wait()
                continue
            waiting = self._waiting.popleft()
            self._bytes -= len(waiting.text)
            try:
                await asyncio.wait_for(self._send(waiting.text), self._timeout_s)
            except TimeoutError:
                raise SlowClientError(f"nothing was taken for {self._timeout_s:.0f} s") from None
