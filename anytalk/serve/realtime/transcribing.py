"""Transcribe the user's turns while they are answered."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from contextlib import aclosing

from anytalk.decode.jobs import Ended, Failed, Question
from anytalk.decode.telling import TextDelta
from anytalk.serve.realtime.items import Item
from anytalk.serve.realtime.outbox import Outbox
from anytalk.serve.state import ServerState

log = logging.getLogger("anytalk.serve")
_EVENT = "conversation.item.input_audio_transcription"
_MAX_WAITING = 16
"""Limit of turns that wait; only clients that mean harm send turns faster than they are transcribed."""


class Transcripts:
    """Transcribes a session's turns one after another, so that they take only one row of the batch at a time."""

    def __init__(self, state: ServerState, outbox: Outbox) -> None:
        self._state, self._outbox = state, outbox
        self._waiting: deque[tuple[Item, Question, float]] = deque()
        self._told: dict[str, str] = {}  # transcripts that aren't complete, by item
        self._task: asyncio.Task[None] | None = None

    def tell(self, item_id: str, text: str) -> None:
        """Send the new part of a turn's transcript; parts that were sent don't change any more."""
        told = self._told.get(item_id, "")
        if text != told and text.startswith(told):
            self._told[item_id] = text
            self._outbox.put(f"{_EVENT}.delta", item_id=item_id, content_index=0, delta=text[len(told) :])

    def forget(self, item_id: str) -> None:
        """Drop a turn whose transcript will never be complete."""
        self._told.pop(item_id, None)

    def write_down(self, item: Item, question: Question, seconds: float) -> None:
        """Queue a turn for transcription; its transcript is sent when it exists."""
        if len(self._waiting) >= _MAX_WAITING:
            said = f"{_MAX_WAITING} turns already wait for their transcripts; speak or commit less often"
            self._fail(item, "rate_limit_exceeded", said)
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
                await self._transcribe(item, question, seconds)
            except Exception as error:
                log.error("a transcript failed", exc_info=error)
                self._fail(item, "internal_error", f"the server failed: {type(error).__name__}")

    async def _transcribe(self, item: Item, question: Question, seconds: float) -> None:
        """Transcribe a spoken turn, send the transcript piece by piece, and keep it in the item."""
        text = ""
        async with aclosing(self._state.model.answer(question)) as events:
            async for event in events:
                # Transcribing ears have the whole text by now; for other ears the model writes it token by token.
                heard = None if item.speech is None else item.speech.text
                if isinstance(event, TextDelta):
                    text += event.text
                    self.tell(item.id, (text if heard is None else heard).strip())
                elif isinstance(event, Ended):
                    item.text = (event.done.text if heard is None else heard).strip()
                    self.tell(item.id, item.text)
                    self.forget(item.id)
                    usage = {"type": "duration", "seconds": round(seconds, 3)}
                    completed = {"content_index": 0, "transcript": item.text, "usage": usage}
                    self._outbox.put(f"{_EVENT}.completed", None, 0.0, item_id=item.id, **completed)
                elif isinstance(event, Failed):
                    self._fail(item, "model_failed", event.message)

    def _fail(self, item: Item, code: str, said: str) -> None:
        self.forget(item.id)
        error = {"type": "transcription_error", "code": code, "message": said, "param": None}
        self._outbox.put(f"{_EVENT}.failed", item_id=item.id, content_index=0, error=error)
