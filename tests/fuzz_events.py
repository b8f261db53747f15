"""Realtime events for the search of :mod:`fuzz_lab`: whatever a client sends, its session goes on."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from fuzz_lab import Kind, NotASentenceError, as_json, mutate_json, mutate_text
from talkers import make_talker

from anytalk.grid.audio import to_pcm16
from anytalk.serve.realtime.client_secrets import first_options
from anytalk.serve.realtime.outbox import Outbox
from anytalk.serve.realtime.session import RealtimeSession
from anytalk.serve.realtime.transport import ClientGoneError, Transport
from anytalk.serve.settings import ServeSettings
from anytalk.serve.state import ServerState

PATIENCE_S = 20.0
_PROBE = {"type": "conversation.item.retrieve", "item_id": "nowhere", "event_id": "the probe"}
_GONE = "the client has gone"


def _sound(seconds: float) -> str:
    from fuzz_data import tone

    return base64.b64encode(to_pcm16(tone(seconds, 24_000))).decode()


def _message(role: str, *content: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {
        "type": "conversation.item.create",
        "item": {"type": "message", "role": role, "content": [*content], **more},
    }


EVENTS: list[dict[str, Any]] = [
    {
        "type": "session.update",
        "event_id": "e1",
        "session": {
            "type": "realtime",
            "instructions": "Be brief.",
            "output_modalities": ["audio"],
            "max_output_tokens": 4,
            "audio": {
                "input": {
                    "format": {"type": "audio/pcm", "rate": 24000},
                    "turn_detection": {"type": "server_vad", "threshold": 0.5, "silence_duration_ms": 200},
                    "transcription": {"model": "whisper-1", "language": "en"},
                    "noise_reduction": None,
                },
                "output": {"format": {"type": "audio/pcmu"}, "voice": "alloy", "speed": 1.0},
            },
            "tools": [
                {
                    "type": "function",
                    "name": "look",
                    "description": "Look.",
                    "parameters": {"type": "object", "properties": {"at": {"type": "string"}}},
                }
            ],
            "tool_choice": "auto",
        },
    },
    {"type": "session.update", "session": {"type": "realtime", "audio": {"input": {"turn_detection": None}}}},
    {"type": "session.update", "session": {"type": "transcription"}},
    {"type": "input_audio_buffer.append", "audio": _sound(0.2)},
    {"type": "input_audio_buffer.append", "audio": _sound(0.05)},
    {"type": "input_audio_buffer.commit"},
    {"type": "input_audio_buffer.clear", "event_id": "e2"},
    {"type": "output_audio_buffer.clear"},
    _message("user", {"type": "input_text", "text": "Hello <|im_end|> there"}, id="item_1"),
    _message("user", {"type": "input_audio", "audio": _sound(0.2)}),
    _message("assistant", {"type": "output_text", "text": "Yes."}, id="item_2", status="completed"),
    _message("system", {"type": "input_text", "text": "Be kind."}),
    {
        "type": "conversation.item.create",
        "previous_item_id": "root",
        "item": {"type": "function_call", "call_id": "c", "name": "look", "arguments": '{"at": "me"}'},
    },
    {
        "type": "conversation.item.create",
        "item": {"type": "function_call_output", "call_id": "c", "output": "seen"},
    },
    {"type": "conversation.item.truncate", "item_id": "item_2", "content_index": 0, "audio_end_ms": 10},
    {"type": "conversation.item.delete", "item_id": "item_1"},
    {"type": "conversation.item.retrieve", "item_id": "item_2"},
    {"type": "response.create"},
    {
        "type": "response.create",
        "response": {
            "instructions": "Say it.",
            "conversation": "none",
            "input": [{"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Now?"}]}],
            "metadata": {"a": "b"},
            "output_modalities": ["text"],
            "max_output_tokens": 3,
            "audio": {"output": {"format": {"type": "audio/pcm", "rate": 24000}, "voice": "alloy"}},
        },
    },
    {"type": "response.cancel"},
]


class _Wire(Transport):
    """A connection without a network."""

    def __init__(self, settings: ServeSettings) -> None:
        self.incoming: asyncio.Queue[str] = asyncio.Queue()
        self.sent: list[dict[str, Any]] = []
        self.changed = asyncio.Event()
        self.outbox = Outbox(self._send, settings.max_unsent_bytes, settings.send_timeout_s)

    async def _send(self, text: str) -> None:
        self.sent.append(json.loads(text))
        self.changed.set()

    async def receive(self) -> str:
        text = await self.incoming.get()
        if text == _GONE:
            raise ClientGoneError
        return text

    async def close(self, code: int, reason: str) -> None:
        return


@contextmanager
def event_kind() -> Iterator[Kind]:
    """Sessions of one to eight events each, with a talker whose model runs in the meantime."""
    settings = ServeSettings(max_columns=4, events_per_second=100_000, max_turn_s=5.0, max_text_chars=2_000)
    state = ServerState(make_talker(), settings, "tiny")
    state.model.start()

    def attempt(given: Sequence[str]) -> None:
        with _logged() as errors:
            asyncio.run(_converse(state, given))
        if errors:
            raise errors[0]

    try:
        yield Kind("Realtime session", EVENTS, _session, attempt)
    finally:
        state.model.stop()


def _session(draw: random.Random, seeds: Sequence[Any]) -> list[str]:
    """Events, most of them changed."""
    texts = []
    for _ in range(draw.randrange(1, 9)):
        how = draw.random()
        event = draw.choice(seeds) if how < 0.3 else mutate_json(draw, [draw.choice(seeds)])
        text = as_json(event)
        texts.append(mutate_text(draw, [text]) if how > 0.9 else text)
    return texts


async def _converse(state: ServerState, given: Sequence[str]) -> None:
    wire = _Wire(state.settings)
    session = RealtimeSession(state, wire, first_options(state))
    serving = asyncio.create_task(session.run())
    for text in [*given, json.dumps(_PROBE)]:
        wire.incoming.put_nowait(text)
    end = asyncio.get_running_loop().time() + PATIENCE_S
    while not any(_answers_probe(event) for event in wire.sent) or session.responses.is_busy:
        left = end - asyncio.get_running_loop().time()
        if serving.done() or left < 0:
            raise NotASentenceError(f"the session doesn't go on after {wire.sent[-1]}")
        wire.changed.clear()
        with suppress(TimeoutError):
            await asyncio.wait_for(wire.changed.wait(), min(left, 0.05))
    wire.incoming.put_nowait(_GONE)
    await serving
    for event in wire.sent:
        if event["type"] == "error" and not (event["error"]["message"] or "").strip():
            raise NotASentenceError(f"an error without words: {event}")


def _answers_probe(event: dict[str, Any]) -> bool:
    return event["type"] == "error" and event["error"].get("event_id") == "the probe"


@contextmanager
def _logged() -> Iterator[list[BaseException]]:
    """What the server calls a mistake of its own, which it logs with a traceback."""
    errors: list[BaseException] = []

    class Keeper(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.exc_info is not None and isinstance(record.exc_info[1], BaseException):
                errors.append(record.exc_info[1])

    keeper, loggers = Keeper(), [logging.getLogger(name) for name in ("anytalk.serve", "anytalk.decode", "asyncio")]
    for logger in loggers:
        logger.addHandler(keeper)
    try:
        yield errors
    finally:
        for logger in loggers:
            logger.removeHandler(keeper)
