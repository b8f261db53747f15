"""Writing down what the user said, beside the answer."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from contextlib import aclosing
from typing import Any

from anytalk.decode.jobs import Ended, Failed, Question
from anytalk.decode.telling import TextDelta
from anytalk.serve.realtime.items import Item
from anytalk.serve.realtime.outbox import Outbox
from anytalk.serve.state import ServerState

log = logging.getLogger("anytalk.serve")
_EVENT = "conversation.item.input_audio_transcription"
_MAX_WAITING = 16
"""Turns come slower than they are written down, except from clients that mean harm."""


class Transcripts:
    """Of one session, one after another: beside its answer no session takes more than one row of the batch."""

    def __init__(self, state: ServerState, outbox: Outbox) -> None:
        self._state, self._outbox = state, outbox
        self._waiting: deque[tuple[Item, Question, float]] = deque()
        self._task: asyncio.Task[None] | None = None

    def write_down(self, item: Item, question: Question, seconds: float) -> None:
        """Send the transcript of a turn when it is there."""
        if len(self._waiting) >= _MAX_WAITING:
            said = f"{_MAX_WAITING} turns wait for their transcripts already; speak, or commit, less often"
            _fail(self._outbox, item, "rate_limit_exceeded", said)
            return
        self._waiting.append((item, question, seconds))
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._work())

    async def close(self) -> None:
        self._waiting.clear()
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _work(self) -> None:
        while self._waiting:
            item, question, seconds = self._waiting.popleft()
            try:
                await transcribe(self._state, self._outbox, item, question, seconds)
            except Exception as error:
                log.error("a transcript failed", exc_info=error)
                _fail(self._outbox, item, "internal_error", f"the server failed: {type(error).__name__}")


async def transcribe(state: ServerState, outbox: Outbox, item: Item, question: Question, seconds: float) -> None:
    """Send the transcript of a spoken turn piece by piece, and keep it in the item."""
    place: dict[str, Any] = {"item_id": item.id, "content_index": 0}
    async with aclosing(state.model.answer(question)) as events:
        async for event in events:
            if isinstance(event, TextDelta):
                outbox.put(f"{_EVENT}.delta", **place, delta=event.text)
            elif isinstance(event, Ended):
                item.text = event.done.text.strip()
                usage = {"type": "duration", "seconds": round(seconds, 3)}
                outbox.put(f"{_EVENT}.completed", **place, transcript=item.text, usage=usage)
            elif isinstance(event, Failed):
                _fail(outbox, item, "model_failed", event.message)


def _fail(outbox: Outbox, item: Item, code: str, said: str) -> None:
    error = {"type": "transcription_error", "code": code, "message": said, "param": None}
    outbox.put(f"{_EVENT}.failed", item_id=item.id, content_index=0, error=error)
