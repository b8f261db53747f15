"""Serve ``/v1/audio/speech``, which reads a text aloud."""

from __future__ import annotations

import base64
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any, Literal

import numpy as np
from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response

from anytalk.decode.jobs import Ended, Question, Said
from anytalk.decode.telling import AudioDelta
from anytalk.grid.stretch import MAX_SPEED, MIN_SPEED
from anytalk.grid.tasks import TASKS
from anytalk.serve.errors import RequestError
from anytalk.serve.http.answers import begun, errors_as_events, events_of, server_sent
from anytalk.serve.http.bodies import read_json
from anytalk.serve.http.files_out import MEDIA_TYPES, StreamWriter, check_format
from anytalk.serve.questions import speaker_of
from anytalk.serve.state import ServerState

MAX_SPEECH_CHARS = 4096


class SpeechRequest(BaseModel):
    """Holds a request to ``/v1/audio/speech``."""

    model_config = ConfigDict(extra="forbid")

    model: str = ""
    input: str = Field(min_length=1, max_length=MAX_SPEECH_CHARS)
    voice: str | dict[str, Any] | None = None
    instructions: str | None = None
    response_format: str = "mp3"
    speed: float = Field(1.0, ge=MIN_SPEED, le=MAX_SPEED)
    stream_format: Literal["audio", "sse"] = "audio"


def speech_routes(state: ServerState) -> APIRouter:
    """Return the endpoint."""
    router = APIRouter()

    @router.post("/v1/audio/speech")
    async def speech(request: Request) -> Response:
        wanted = await read_json(request, SpeechRequest)
        check_format(wanted.response_format, "response_format")
        if wanted.instructions:
            said = "the voice can't follow instructions; leave `instructions` out"
            raise RequestError(said, "unsupported_value", "instructions")
        if not any(character.isalnum() for character in wanted.input):
            raise RequestError("the input holds nothing to say; give at least one word", "invalid_value", "input")
        question = Question(
            turns=[Said("user", wanted.input)],
            task=TASKS["T1A1"],
            options=state.decode_options(),
            speaker=speaker_of(wanted.voice, state.talker),
            max_context_columns=state.settings.max_context_columns,
        )
        spoken = _spoken(state, question, wanted.response_format, wanted.speed)
        if wanted.stream_format == "sse":
            return await begun(errors_as_events(_speech_events(spoken)), "text/event-stream")
        return await begun(_speech_bytes(spoken), MEDIA_TYPES[wanted.response_format])

    return router


async def _spoken(
    state: ServerState, question: Question, name: str, speed: float
) -> AsyncGenerator[tuple[bytes, Ended | None], None]:
    """Yield a sound file while it is made, together with the end event for its last piece."""
    writer = StreamWriter(name, state.talker.codec.sample_rate_hz, speed)
    async with aclosing(events_of(state, question)) as events:
        async for event in events:
            if isinstance(event, AudioDelta):
                yield writer.push(event.wave), None
            elif isinstance(event, Ended):
                yield writer.push(np.zeros(0, dtype=np.float32), is_last=True), event


async def _speech_bytes(spoken: AsyncGenerator[tuple[bytes, Ended | None], None]) -> AsyncGenerator[bytes, None]:
    async with aclosing(spoken):
        async for data, _ in spoken:
            if data:
                yield data


async def _speech_events(spoken: AsyncGenerator[tuple[bytes, Ended | None], None]) -> AsyncGenerator[bytes, None]:
    async with aclosing(spoken):
        async for data, ended in spoken:
            if data:
                yield server_sent({"type": "speech.audio.delta", "audio": base64.b64encode(data).decode()})
            if ended is not None:
                tokens = {"input_tokens": ended.text_tokens, "output_tokens": ended.done.num_frames}
                usage = {**tokens, "total_tokens": sum(tokens.values())}
                yield server_sent({"type": "speech.audio.done", "usage": usage})
