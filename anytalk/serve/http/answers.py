"""Answer over HTTP: hold a place, ask the model, and cancel if the client leaves."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncGenerator, Coroutine
from contextlib import aclosing, suppress
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from anytalk.decode.jobs import Ended, Event, Failed, Question, Started
from anytalk.decode.telling import AudioDelta, TextDelta, ThoughtDelta
from anytalk.grid.audio import joined
from anytalk.grid.tools import Call
from anytalk.serve.calling import Called, Tools, answer_or_calls
from anytalk.serve.errors import RequestError
from anytalk.serve.state import ServerState

log = logging.getLogger("anytalk.serve")
T = TypeVar("T")


@dataclass
class Whole:
    """Holds a complete answer."""

    text: str
    wave: np.ndarray  # (N,) float32 at the codec's rate
    started: Started  # event of its beginning
    ended: Ended  # event of its end
    calls: tuple[Call, ...] = ()  # functions that the model calls
    thoughts: str = ""  # what the model wrote before its answer


async def events_of(
    state: ServerState, question: Question, tools: Tools | None = None
) -> AsyncGenerator[Event | Called, None]:
    """Yield the events of an answer while holding a place; RequestError if none is left or the answer fails."""
    await state.admission.wait_for_leaving()
    with state.admission.place():
        status = "cancelled"
        try:
            async with aclosing(answer_or_calls(state.model, question, tools)) as events:
                async for event in events:
                    if isinstance(event, Failed):
                        status = "failed"
                        raise refused(event)
                    if isinstance(event, Ended):
                        status = "completed" if event.done.finish_reason == "stop" else "incomplete"
                        state.metrics.audio_s.inc(event.done.audio_s)
                        if event.done.first_audio_s is not None:
                            state.metrics.first_audio_s.observe(event.done.first_audio_s)
                    yield event
        finally:
            state.metrics.answers.labels(status).inc()


def refused(event: Failed) -> RequestError:
    """Return the error that a client gets if its answer failed."""
    code = "model_failed" if event.is_ours else "invalid_value"
    return RequestError(event.message, code, status=500 if event.is_ours else 400)


async def whole_answer(request: Request, state: ServerState, question: Question, tools: Tools | None = None) -> Whole:
    """Wait for a whole answer; RequestError as in :func:`events_of`, or if the client has left."""
    return await unless_gone(request, _gather(state, question, tools))


async def unless_gone(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """Wait for some work; cancel it and raise RequestError if the client leaves."""
    gathering = asyncio.create_task(work)
    leaving = asyncio.create_task(_gone(request))
    try:
        await asyncio.wait([gathering, leaving], return_when=asyncio.FIRST_COMPLETED)
        if not gathering.done():
            raise RequestError("the client has disconnected", "client_closed_request", status=499)
        return gathering.result()
    finally:
        for task in (gathering, leaving):
            task.cancel()
        # Cancelled work has to release its place first.
        with suppress(asyncio.CancelledError):
            await asyncio.gather(gathering, leaving, return_exceptions=True)


async def _gather(state: ServerState, question: Question, tools: Tools | None) -> Whole:
    text, thoughts, waves, started, ended = "", "", list[np.ndarray](), None, None
    calls: tuple[Call, ...] = ()
    async with aclosing(events_of(state, question, tools)) as events:
        async for event in events:
            if isinstance(event, Started):
                started = event
            elif isinstance(event, TextDelta):
                text += event.text
            elif isinstance(event, ThoughtDelta):
                thoughts += event.text
            elif isinstance(event, AudioDelta):
                waves.append(event.wave)
            elif isinstance(event, Called):
                calls = event.calls
            elif isinstance(event, Ended):
                ended = event
    assert started is not None
    assert ended is not None
    return Whole(text, joined(waves), started, ended, calls, thoughts)


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


class Stream(StreamingResponse):
    """Streams an answer and always closes its generator, which frees the answer's place.

    If the answer fails, the connection is closed before the response is complete: this is how a client that downloads a
    sound file notices.
    """

    def __init__(self, pieces: AsyncGenerator[bytes, None], media_type: str) -> None:
        super().__init__(pieces, media_type=media_type, headers={"Cache-Control": "no-store"})
        self._pieces = pieces

    async def stream_response(self, send: Send) -> None:
        """Send the pieces; log an error instead of raising it, because the response has begun."""
        try:
            await super().stream_response(send)
        except Exception as error:
            told(error)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            await self._pieces.aclose()


async def begun(pieces: AsyncGenerator[bytes, None], media_type: str) -> Stream:
    """Return a stream once its first piece exists; until then, an error still gets a status of its own."""
    first = await anext(pieces, b"")

    async def all_of_it() -> AsyncGenerator[bytes, None]:
        async with aclosing(pieces):
            yield first
            async for piece in pieces:
                yield piece

    return Stream(all_of_it(), media_type)


def server_sent(event: dict[str, Any] | str) -> bytes:
    """Format one server-sent event."""
    return f"data: {event if isinstance(event, str) else json.dumps(event, separators=(',', ':'))}\n\n".encode()


def told(error: Exception) -> RequestError:
    """Log why an answer failed after it had begun, and return the error for its client."""
    if isinstance(error, RequestError):
        log.warning("an answer failed halfway: %s", error.message)
        return error
    log.error("an answer failed halfway", exc_info=error)  # a bug of the server
    return RequestError(f"the server failed: {type(error).__name__}", "internal_error", status=500)


async def errors_as_events(pieces: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
    """Yield a stream of events; an error after the first event becomes the last one."""
    has_begun = False
    try:
        async with aclosing(pieces):
            async for piece in pieces:
                has_begun = True
                yield piece
    except Exception as error:
        if not has_begun:
            raise
        yield server_sent({"type": "error", "error": told(error).body()})
