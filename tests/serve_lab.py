"""A server on a free port in a thread, and the official client's way to talk to it."""

from __future__ import annotations

import asyncio
import base64
import json
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import websockets
from openai import AsyncOpenAI
from openai.types.realtime import RealtimeServerEvent
from pydantic import TypeAdapter
from websockets.asyncio.client import connect

from anytalk.decode.jobs import Job, Question
from anytalk.grid.audio import read_wave, to_pcm16
from anytalk.model.talker import Talker
from anytalk.serve.app import make_app
from anytalk.serve.model_thread import ModelThread
from anytalk.serve.run import Server
from anytalk.serve.settings import ServeSettings, open_socket

SPOKEN = [
    Path(__file__).resolve().parent.parent / "examples" / "demo" / f"{name}.wav"
    for name in ("france", "find", "question", "weasels")
]
_EVENT: TypeAdapter[Any] = TypeAdapter(RealtimeServerEvent)
PATIENCE_S = 20.0


class Running:
    """A server that runs."""

    def __init__(self, server: Server, state: Any, port: int) -> None:
        self.server, self.state, self.port = server, state, port
        self.address = f"127.0.0.1:{port}"

    def client(self, key: str = "any", **options: Any) -> AsyncOpenAI:
        """The official client."""
        return AsyncOpenAI(api_key=key, base_url=f"http://{self.address}/v1", max_retries=0, timeout=30, **options)

    def wait_until(self, condition: Callable[[], bool], patience_s: float = 5.0) -> None:
        """Wait for something of the server's."""
        end = time.monotonic() + patience_s
        while not condition():
            assert time.monotonic() < end, "it didn't happen"
            time.sleep(0.01)


@contextmanager
def running(talker: Talker, model_name: str = "tiny", **settings: Any) -> Iterator[Running]:
    """Serve a talker while the block runs."""
    chosen = ServeSettings(**{"port": 0, "max_columns": 24, "stride_frames": 1, **settings})
    app = make_app(talker, chosen, model_name)
    listening = open_socket(chosen)
    server = Server(app, chosen)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    found = Running(server, app.state.server, listening.getsockname()[1])
    found.wait_until(lambda: server.started, 20.0)
    try:
        yield found
    finally:
        server.should_exit = True
        thread.join(timeout=20)
        assert not thread.is_alive(), "the server didn't end"


class Talk:
    """A realtime connection that keeps and checks everything it is told."""

    def __init__(self, connection: Any) -> None:
        self.connection = connection
        self.events: list[Any] = []
        self.is_strict = True

    async def next(self, patience_s: float = PATIENCE_S) -> Any:
        """The next event; every required field of it is there."""
        raw = await asyncio.wait_for(self.connection.recv_bytes(), patience_s)
        event = self.connection.parse_event(raw)
        if self.is_strict:
            _EVENT.validate_python(json.loads(raw))
        self.events.append(event)
        return event

    async def until(self, *names: str, patience_s: float = PATIENCE_S) -> Any:
        """Read on to the next event of one of these types."""
        while True:
            event = await self.next(patience_s)
            if event.type in names:
                return event
            assert event.type != "error", event

    async def error(self) -> Any:
        """The next event, an error."""
        event = await self.next()
        assert event.type == "error", event
        return event.error

    async def error_among(self) -> Any:
        """The next error, whatever comes before it."""
        while (event := await self.next()).type != "error":
            pass
        return event.error

    async def setup(self, **session: Any) -> Any:
        """Change the session."""
        await self.connection.session.update(session={"type": "realtime", **session})
        return await self.until("session.updated")

    async def say(self, pcm: bytes, piece_ms: int = 100, bytes_per_ms: int = 48) -> None:
        """Append sound in pieces."""
        step = piece_ms * bytes_per_ms
        for start in range(0, len(pcm), step):
            await self.connection.input_audio_buffer.append(audio=base64.b64encode(pcm[start : start + step]).decode())

    async def type(self, text: str) -> Any:
        """A typed question; its item is confirmed."""
        item = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": text}]}
        await self.connection.conversation.item.create(item=item)
        await self.until("conversation.item.added")
        return (await self.until("conversation.item.done")).item

    async def answer(self, **response: Any) -> tuple[Any, bytes]:
        """Ask for a response and wait for its end: the response and its sound."""
        begin = len(self.events)
        await self.connection.response.create(**({"response": response} if response else {}))
        done = await self.until("response.done")
        return done.response, self.sound(begin)

    def sound(self, begin: int = 0) -> bytes:
        """Sound of the events since `begin`."""
        found = [e.delta for e in self.events[begin:] if e.type == "response.output_audio.delta"]
        return b"".join(base64.b64decode(delta) for delta in found)

    def types(self, begin: int = 0) -> list[str]:
        """Types of the events since `begin`."""
        return [event.type for event in self.events[begin:]]


@asynccontextmanager
async def talking(server: Running, key: str = "any", **session: Any) -> AsyncIterator[Talk]:
    """A connection of the official client, greeted and set up."""
    async with server.client(key) as client, client.realtime.connect(model="tiny") as connection:
        talk = Talk(connection)
        assert (await talk.next()).type == "session.created"
        if session:
            await talk.setup(**session)
        yield talk


async def forever(step: Callable[[], Awaitable[Any]]) -> None:
    """The same again and again, until it raises."""
    while True:
        await step()


def run(work: Awaitable[Any]) -> Any:
    """Run a coroutine to its end."""

    async def bounded() -> Any:
        return await asyncio.wait_for(work, 60)

    return asyncio.run(bounded())


def question(number: int = 1, rate_hz: int = 24_000) -> np.ndarray:
    """One of the spoken questions, from 1 on: (N,) float32, half a second of silence before it and one second after."""
    wave = read_wave(SPOKEN[number - 1], rate_hz)
    return np.concatenate([np.zeros(rate_hz // 2, np.float32), wave, np.zeros(rate_hz, np.float32)])


def pcm(wave: np.ndarray) -> bytes:
    """16-bit."""
    return to_pcm16(wave)


def record(server: Running, monkeypatch: pytest.MonkeyPatch) -> list[Question]:
    """Every question that the model is asked."""
    found: list[Question] = []
    submit = server.state.model.submit

    def kept(job: Job) -> None:
        found.append(job.question)
        submit(job)

    monkeypatch.setattr(server.state.model, "submit", kept)
    return found


def without_deltas(types: list[str]) -> list[str]:
    """Names of the events that come once."""
    return [name for name in types if not name.endswith(".delta")]


def texts(question: Question) -> list[tuple[str, str | None]]:
    """Roles and texts of the turns that the model is shown."""
    return [(turn.role, turn.text) for turn in question.turns]


MANUAL = {"audio": {"input": {"turn_detection": None}}}
ORDER = [
    "response.created",
    "response.output_item.added",
    "conversation.item.added",
    "response.content_part.added",
    "response.output_audio.done",
    "response.output_audio_transcript.done",
    "response.content_part.done",
    "response.output_item.done",
    "conversation.item.done",
    "response.done",
]
ASK = {
    "type": "conversation.item.create",
    "item": {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Hello!"}]},
}


def slow_down(server: Running, seconds: float = 0.02) -> None:
    """Let each round of the model last."""
    server.state.model._on_columns = lambda columns: time.sleep(seconds if columns else 0)


def is_idle(server: Running) -> bool:
    """Whether no place is taken and nothing is generated."""
    return server.state.admission.taken == 0 and num_answers(server.state.model) == 0


def num_answers(model: ModelThread) -> int:
    """Answers that wait, are prepared or are spoken."""
    return len(model._new) + len(model._rounds.jobs)


async def begin_answer(server: Running) -> websockets.ClientConnection:
    """A raw connection whose answer has begun to sound."""
    connection = await connect(f"ws://{server.address}/v1/realtime?model=tiny", max_size=None)
    await connection.send(json.dumps(ASK))
    await connection.send(json.dumps({"type": "response.create"}))
    while json.loads(await connection.recv())["type"] != "response.output_audio.delta":
        pass
    return connection


SMALL = {"max_output_tokens": 6}
