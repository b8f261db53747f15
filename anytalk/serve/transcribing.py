"""Writing down what the user said, beside the answer."""

from __future__ import annotations

from contextlib import aclosing
from typing import Any

from anytalk.decode.session import TextDelta
from anytalk.serve.answers import Ended, Failed, Question
from anytalk.serve.items import Item
from anytalk.serve.outbox import Outbox
from anytalk.serve.state import ServerState

_EVENT = "conversation.item.input_audio_transcription"


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
                error = {"type": "transcription_error", "code": "model_failed", "message": event.message, "param": None}
                outbox.put(f"{_EVENT}.failed", **place, error=error)
