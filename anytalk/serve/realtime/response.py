"""Send the model's answer as the protocol's events, each exactly once and in order."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from anytalk.decode.jobs import Ended, Failed, Question, Started
from anytalk.decode.memory import Memory
from anytalk.decode.telling import AudioDelta, TextDelta
from anytalk.grid.tools import Call
from anytalk.serve.calling import Called, Tools, answer_or_calls
from anytalk.serve.questions import new_id
from anytalk.serve.realtime.items import Conversation, Item
from anytalk.serve.realtime.outbox import Outbox
from anytalk.serve.sound import WireEncoder, WireFormat
from anytalk.serve.state import ServerState

log = logging.getLogger("anytalk.serve")
_MAX_DELTA_MS = 200  # longest piece of sound in one event


@dataclass(frozen=True, kw_only=True)
class ResponsePlan:
    """Describes a planned response."""

    question: Question
    spoken: bool  # whether the answer is spoken
    wire: WireFormat  # format of its sound
    voice: Any  # as the client named it
    speed: float = 1.0  # speaking speed
    in_conversation: bool = True  # whether the answer becomes an item of the conversation
    max_output_tokens: int | str = "inf"  # as the client gave it
    metadata: dict[str, str] | None = None  # passed back to the client
    tools: Tools | None = None  # functions that the model may call
    left_out: list[str] = field(default_factory=list)  # what the client requested but doesn't get


@dataclass
class _Usage:
    input_tokens: int = 0
    speech_tokens: int = 0
    cached_tokens: int = 0
    text_tokens: int = 0
    audio_tokens: int = 0

    def shown(self) -> dict[str, Any]:
        output = self.text_tokens + self.audio_tokens
        return {
            "total_tokens": self.input_tokens + output,
            "input_tokens": self.input_tokens,
            "output_tokens": output,
            "input_token_details": {
                "cached_tokens": self.cached_tokens,
                "text_tokens": self.input_tokens - self.speech_tokens,
                "audio_tokens": self.speech_tokens,
                "image_tokens": 0,
            },
            "output_token_details": {"text_tokens": self.text_tokens, "audio_tokens": self.audio_tokens},
        }


class Response:
    """Generates an answer and sends it to a client.

    Args:
        when_over: Called once, when ``response.done`` has been queued.
    """

    def __init__(
        self,
        plan: ResponsePlan,
        state: ServerState,
        outbox: Outbox,
        conversation: Conversation,
        memory: Memory | None,
        when_over: Callable[[Response], None],
    ) -> None:
        self.id = new_id("resp")
        self.plan = plan
        self.item = Item("assistant", status="in_progress", audio_ms=0 if plan.spoken else None, is_whole=False)
        self.is_over = False
        self._state, self._outbox, self._conversation, self._memory = state, outbox, conversation, memory
        self._when_over = when_over
        self._usage = _Usage()
        self._has_item = self._is_item_closed = False
        self._calls: list[Item] = []
        self._previous: str | None = None
        # The answer follows this item, even if others are added before it begins.
        self._after = conversation.items[-1].id if conversation.items else "root"
        self._text = ""
        self._sound_ms = 0.0
        self._first_sound_at: float | None = None
        self._encoder = WireEncoder(state.talker.codec.sample_rate_hz, plan.wire, plan.speed) if plan.spoken else None
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        more: dict[str, Any] = {"anytalk": {"left_out": self.plan.left_out}} if self.plan.left_out else {}
        self._put("response.created", response=self._shown("in_progress"), **more)
        self._task = asyncio.create_task(self._run())

    def cancel(self, reason: str) -> None:
        """End the response at once: unsent sound is dropped, and no more of the answer follows.

        Args:
            reason: ``"turn_detected"`` or ``"client_cancelled"``.
        """
        if self.is_over:
            return
        self._sound_ms -= self._outbox.drop_sound(self.id)
        if self._first_sound_at is not None:
            # Nobody has heard more than the time since the first sound; clients that know better send a truncate event.
            played_ms = (time.monotonic() - self._first_sound_at) * 1000
            self.item.heard_ms = int(min(self._sound_ms, played_ms))
        elif self.plan.spoken:
            self.item.heard_ms = 0
        self._finish("cancelled", {"type": "cancelled", "reason": reason})
        self.abandon()

    def abandon(self) -> None:
        """Stop without an event, because the client is gone."""
        self.is_over = True
        if self._task is not None and self._task is not asyncio.current_task():
            self._task.cancel()

    # ---- the model's events

    async def _run(self) -> None:
        try:
            await self._follow()
        except Exception as error:
            log.error("a response failed", exc_info=error)
            if not self.is_over:
                self._fail(Failed(f"the server failed: {type(error).__name__}", is_ours=True))

    async def _follow(self) -> None:
        answering = answer_or_calls(self._state.model, self.plan.question, self.plan.tools, self._memory)
        async with aclosing(answering) as events:
            async for event in events:
                if self.is_over:  # cancelled while the model made this event
                    return
                if isinstance(event, Started):
                    self._usage.input_tokens, self._usage.cached_tokens = event.prompt_columns, event.cached_columns
                    self._usage.speech_tokens = event.speech_columns
                    # If functions may be called, there may be nothing to say; the item then opens with the first text.
                    if self.plan.tools is None:
                        self._open_item()
                elif isinstance(event, TextDelta):
                    self._say_text(event.text)
                elif isinstance(event, AudioDelta):
                    self._say_sound(event)
                elif isinstance(event, Called):
                    self._call(event.calls)
                elif isinstance(event, Ended):
                    self._complete(event)
                elif isinstance(event, Failed):
                    self._fail(event)

    def _say_text(self, text: str) -> None:
        if not self._has_item:  # with functions, the item opens here
            self._open_item()
        self._text += text
        self._usage.text_tokens += 1  # an estimate, until `Ended` gives the number
        name = "response.output_audio_transcript.delta" if self.plan.spoken else "response.output_text.delta"
        self._put(name, **self._place(), delta=text)

    def _say_sound(self, event: AudioDelta) -> None:
        assert self._encoder is not None
        if not self._has_item:
            self._open_item()
        if self._first_sound_at is None:
            self._first_sound_at = time.monotonic()
        codec = self._state.talker.codec
        self._usage.audio_tokens += len(event.wave) // codec.samples_per_frame
        self._state.metrics.audio_s.inc(len(event.wave) / codec.sample_rate_hz)
        self._send_sound(self._encoder.push(event.wave))

    def _send_sound(self, data: bytes) -> None:
        wire = self.plan.wire
        step = wire.rate_hz * _MAX_DELTA_MS // 1000 * wire.bytes_per_sample
        for start in range(0, len(data), step):
            piece = data[start : start + step]
            length_ms = 1000 * len(piece) / wire.bytes_per_sample / wire.rate_hz
            self._sound_ms += length_ms
            self._outbox.put_sound(self._place(), piece, wire, length_ms)

    def _call(self, calls: Sequence[Call]) -> None:
        """Send the calls, each as an item after the spoken part of the answer."""
        if self._has_item:
            self._end_sound()
            self.item.is_whole = True
            self._end_item("completed")
        for call in calls:
            item = Item("assistant", call=Call(call.name, ""), call_id=new_id("call"), status="in_progress")
            place = {"response_id": self.id, "output_index": len(self._outputs)}
            self._calls.append(item)
            self._put("response.output_item.added", **place, item=item.shown())
            previous = self._join_conversation(item)
            called = {**place, "item_id": item.id, "call_id": item.call_id}
            self._put("response.function_call_arguments.delta", **called, delta=call.arguments)
            self._put("response.function_call_arguments.done", **called, name=call.name, arguments=call.arguments)
            item.call, item.status = call, "completed"
            self._put("response.output_item.done", **place, item=item.shown())
            if self.plan.in_conversation:
                self._put("conversation.item.done", previous_item_id=previous, item=item.shown())

    def _end_sound(self) -> None:
        if self._encoder is not None and not self._is_item_closed:
            self._send_sound(self._encoder.push(np.zeros(0, dtype=np.float32), is_last=True))

    def _complete(self, event: Ended) -> None:
        if not self._has_item and not self._calls:
            self._open_item()
        if self._has_item:
            self._end_sound()
        self._usage.text_tokens = event.text_tokens
        self._usage.audio_tokens = max(self._usage.audio_tokens, event.done.num_frames)
        self.item.is_whole = True
        if event.done.first_audio_s is not None:
            self._state.metrics.first_audio_s.observe(event.done.first_audio_s)
        if event.done.finish_reason == "length":
            self._finish("incomplete", {"type": "incomplete", "reason": "max_output_tokens"})
        else:
            self._finish("completed", None)

    def _fail(self, event: Failed) -> None:
        kind = "server_error" if event.is_ours else "invalid_request_error"
        error = {"type": kind, "code": "model_failed" if event.is_ours else "invalid_value", "message": event.message}
        self._finish("failed", {"type": "failed", "error": error})

    # ---- the protocol's events

    def _open_item(self) -> None:
        self._has_item = True
        self._put("response.output_item.added", response_id=self.id, output_index=0, item=self.item.shown())
        self._previous = self._join_conversation(self.item)
        self._put("response.content_part.added", **self._place(), part=self._part(""))

    def _join_conversation(self, item: Item) -> str | None:
        """Insert an item into the conversation; return the id of the item before it."""
        if not self.plan.in_conversation:
            return None
        # The item that it should follow may have been deleted meanwhile.
        is_there = self._after == "root" or any(known.id == self._after for known in self._conversation.items)
        previous = self._conversation.add(item, self._after if is_there else None)
        self._after = item.id
        self._put("conversation.item.added", previous_item_id=previous, item=item.shown())
        return previous

    @property
    def _outputs(self) -> list[Item]:
        """Return the items of the response so far."""
        return [*([self.item] if self._has_item else []), *self._calls]

    def _finish(self, status: str, details: dict[str, Any] | None) -> None:
        self.is_over = True
        self._outbox.end_sound(self.id)
        self._end_item(status)
        self._state.metrics.answers.labels(status).inc()
        self._put("response.done", response=self._shown(status, details))
        self._when_over(self)

    def _end_item(self, status: str) -> None:
        """Send the end of the message once."""
        if self._is_item_closed:
            return
        self._is_item_closed = True
        self.item.text = self._text
        self.item.status = "completed" if status == "completed" else "incomplete"
        if self.plan.spoken:
            self.item.audio_ms = int(self._sound_ms)
        if self._has_item:
            self._close_item()

    def _close_item(self) -> None:
        place = self._place()
        if self.plan.spoken:
            self._put("response.output_audio.done", **place)
            self._put("response.output_audio_transcript.done", **place, transcript=self._text)
        else:
            self._put("response.output_text.done", **place, text=self._text)
        self._put("response.content_part.done", **place, part=self._part(self._text))
        self._put("response.output_item.done", response_id=self.id, output_index=0, item=self.item.shown())
        if self.plan.in_conversation:
            self._put("conversation.item.done", previous_item_id=self._previous, item=self.item.shown())

    def _put(self, name: str, /, **fields: Any) -> None:
        self._outbox.put(name, **fields)

    def _place(self) -> dict[str, Any]:
        return {"response_id": self.id, "item_id": self.item.id, "output_index": 0, "content_index": 0}

    def _part(self, text: str) -> dict[str, Any]:
        return {"type": "audio", "transcript": text} if self.plan.spoken else {"type": "text", "text": text}

    def _shown(self, status: str, details: dict[str, Any] | None = None) -> dict[str, Any]:
        wire = {"type": self.plan.wire.name}
        rate = {"rate": self.plan.wire.rate_hz} if self.plan.wire.name == "audio/pcm" else {}
        return {
            "object": "realtime.response",
            "id": self.id,
            "status": status,
            "status_details": details,
            "output": [item.shown() for item in self._outputs] if status != "in_progress" else [],
            "conversation_id": self._conversation.id if self.plan.in_conversation else None,
            "output_modalities": ["audio" if self.plan.spoken else "text"],
            "max_output_tokens": self.plan.max_output_tokens,
            "audio": {"output": {"format": {**wire, **rate}, "voice": self.plan.voice}},
            "usage": None if status == "in_progress" else self._usage.shown(),
            "metadata": self.plan.metadata,
        }
