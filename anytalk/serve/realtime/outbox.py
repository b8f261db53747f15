"""Queue what is sent to one client: the queue is bounded, and sound that is cancelled never leaves it."""

from __future__ import annotations

import asyncio
import base64
import json
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from anytalk.serve.questions import new_id
from anytalk.serve.sound import WireFormat


@dataclass
class _Waiting:
    text: str
    sound_of: str | None
    sound_ms: float


@dataclass(frozen=True)
class Cut:
    """Tells that an answer was stopped during playback."""

    item_id: str  # item of the answer
    heard_ms: int  # how much of it was played


class SlowClientError(Exception):
    """Signals that the client accepts data too slowly."""


class Outbox:
    """Sends events and sound in order, and drops a client for which too many bytes wait or a message takes too long.

    Attributes:
        plays: Whether the server plays sound in real time instead of sending it in events.
    """

    plays = False

    def __init__(self, send: Callable[[str], Awaitable[None]], max_unsent_bytes: int, send_timeout_s: float) -> None:
        self._send, self._max_bytes, self._timeout_s = send, max_unsent_bytes, send_timeout_s
        self._waiting: deque[_Waiting] = deque()
        self._bytes = 0
        self._changed = asyncio.Event()
        self._closed = False
        self._overflowed: str | None = None

    def put(self, name: str, /, sound_of: str | None = None, sound_ms: float = 0.0, **fields: Any) -> None:
        """Queue an event; `sound_of` is the id of the response whose sound it contains."""
        if self._closed or self._overflowed:
            return
        text = json.dumps({"type": name, "event_id": new_id("event"), **fields}, separators=(",", ":"))
        self._waiting.append(_Waiting(text, sound_of, sound_ms))
        self._bytes += len(text)
        if self._bytes > self._max_bytes:
            self._overflowed = f"{self._bytes} bytes were waiting; {self._max_bytes} are allowed"
        self._changed.set()

    def put_sound(self, place: dict[str, Any], data: bytes, wire: WireFormat, length_ms: float) -> None:
        """Queue sound of a response.

        Args:
            place: `response_id`, `item_id` and the position in the response.
            data: Sound in the format `wire`.
            length_ms: Length of the sound.
        """
        delta = base64.b64encode(data).decode()
        name = "response.output_audio.delta"
        self.put(name, sound_of=place["response_id"], sound_ms=length_ms, **place, delta=delta)

    def end_sound(self, response_id: str) -> None:
        """Note that a response has no more sound; repeated calls do nothing."""

    def drop_all_sound(self) -> None:
        """Drop the sound of all responses that waits to be played here."""

    def take_cuts(self) -> list[Cut]:
        """Return the answers that were stopped during playback here since the last call."""
        return []

    def overflow(self, reason: str) -> None:
        """End the connection, because too much waits for the client."""
        self._overflowed = reason
        self._changed.set()

    def drop_sound(self, response_id: str) -> float:
        """Drop unsent sound of a response and return its length in milliseconds."""
        dropped = [waiting for waiting in self._waiting if waiting.sound_of == response_id]
        self._waiting = deque(waiting for waiting in self._waiting if waiting.sound_of != response_id)
        self._bytes -= sum(len(waiting.text) for waiting in dropped)
        return sum(waiting.sound_ms for waiting in dropped)

    def close(self) -> None:
        """Send what is queued, then end :meth:`run`."""
        self._closed = True
        self._changed.set()

    async def run(self) -> None:
        """Send until closed; SlowClientError if the client doesn't accept the data."""
        while True:
            if self._overflowed:
                raise SlowClientError(self._overflowed)
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
