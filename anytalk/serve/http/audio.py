"""``/v1/audio/speech`` and ``/v1/audio/transcriptions``."""

from __future__ import annotations

import base64
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Annotated, Any, Literal

import numpy as np
from fastapi import APIRouter, File, Form, Request, UploadFile
from fastapi.concurrency import run_in_threadpool
from pydantic import BaseModel, ConfigDict, Field
from starlette.formparsers import MultiPartParser
from starlette.responses import JSONResponse, PlainTextResponse, Response

from anytalk.decode.jobs import Ended, Question, Said
from anytalk.decode.telling import AudioDelta, TextDelta
from anytalk.grid.tasks import TASKS
from anytalk.serve.errors import RequestError
from anytalk.serve.http.answers import begun, errors_as_events, events_of, server_sent, whole_answer
from anytalk.serve.http.bodies import read_json
from anytalk.serve.http.files_out import MEDIA_TYPES, check_format, read_sound, write_sound
from anytalk.serve.questions import speaker_of, speech_of
from anytalk.serve.sound import WireEncoder, WireFormat
from anytalk.serve.state import ServerState

MAX_SPEECH_CHARS = 4096
_STREAMED = ("pcm", "wav")
_ENDLESS = 0xFFFFFFFF


class SpeechRequest(BaseModel):
    """Of ``/v1/audio/speech``."""

    model_config = ConfigDict(extra="forbid")

    model: str = ""
    input: str = Field(min_length=1, max_length=MAX_SPEECH_CHARS)
    voice: str | dict[str, Any] | None = None
    instructions: str | None = None
    response_format: str = "mp3"
    speed: float = 1.0
    stream_format: Literal["audio", "sse"] = "audio"


def audio_routes(state: ServerState) -> APIRouter:
    """The two endpoints."""
    router = APIRouter()
    # Larger ones would be written to the disk.
    MultiPartParser.spool_max_size = max(MultiPartParser.spool_max_size, state.settings.max_body_bytes + 1)

    @router.post("/v1/audio/speech")
    async def speech(request: Request) -> Response:
        wanted = await read_json(request, SpeechRequest)
        check_format(wanted.response_format, "response_format")
        if wanted.speed != 1.0:
            raise RequestError("the talker speaks at its own speed; leave `speed` at 1", "unsupported_value", "speed")
        if not any(character.isalnum() for character in wanted.input):
            raise RequestError("the input holds nothing to say; give at least one word", "invalid_value", "input")
        question = Question(
            turns=[Said("user", wanted.input)],
            task=TASKS["T1A1"],
            options=state.decode_options(),
            speaker=speaker_of(wanted.voice, state.talker),
            max_context_columns=state.settings.max_context_columns,
        )
        if wanted.stream_format == "sse":
            if wanted.response_format not in ("pcm", "wav"):
                said = "stream_format 'sse' carries pcm; set response_format to 'pcm'"
                raise RequestError(said, "unsupported_value", "response_format")
            return await begun(errors_as_events(_speech_events(state, question)), "text/event-stream")
        if wanted.response_format in _STREAMED:
            pieces = _speech_bytes(state, question, wanted.response_format)
            return await begun(pieces, MEDIA_TYPES[wanted.response_format])
        whole = await whole_answer(request, state, question)
        rate_hz = state.talker.codec.sample_rate_hz
        data = await run_in_threadpool(write_sound, whole.wave, rate_hz, wanted.response_format)
        return Response(data, media_type=MEDIA_TYPES[wanted.response_format])

    @router.post("/v1/audio/transcriptions")
    async def transcriptions(
        request: Request,
        file: Annotated[UploadFile, File()],
        model: Annotated[str, Form()] = "",
        language: Annotated[str | None, Form()] = None,
        prompt: Annotated[str | None, Form()] = None,
        response_format: Annotated[str, Form()] = "json",
        temperature: Annotated[float, Form()] = 0.0,
        stream: Annotated[bool, Form()] = False,
    ) -> Response:
        if response_format not in ("json", "text", "verbose_json"):
            said = f"response_format is '{response_format[:20]}'; known: json, text, verbose_json"
            raise RequestError(said, "unsupported_value", "response_format")
        data, name, rate_hz = await file.read(), file.filename or "the file", state.ear_rate_hz
        wave = await run_in_threadpool(read_sound, data, name, rate_hz, state.max_turn_s, "file")
        question = Question(
            turns=[Said("user", None, speech_of(wave, rate_hz, rate_hz, state.max_turn_s))],
            task=TASKS["A1T1"],
            options=state.decode_options(temperature=temperature),
            max_context_columns=state.settings.max_context_columns,
        )
        if stream:
            return await begun(errors_as_events(_transcript_events(state, question)), "text/event-stream")
        text = (await whole_answer(request, state, question)).text.strip()
        seconds = round(len(wave) / rate_hz, 3)
        usage = {"type": "duration", "seconds": seconds}
        if response_format == "text":
            return PlainTextResponse(text + "\n")
        if response_format == "verbose_json":
            segment = {"id": 0, "seek": 0, "start": 0.0, "end": seconds, "text": text, "tokens": [], "temperature": 0.0}
            scores = {"avg_logprob": 0.0, "compression_ratio": 0.0, "no_speech_prob": 0.0}
            verbose = {"task": "transcribe", "language": language or "", "duration": seconds, "text": text}
            return JSONResponse({**verbose, "segments": [{**segment, **scores}], "usage": usage})
        return JSONResponse({"text": text, "usage": usage})

    return router


async def _spoken(state: ServerState, question: Question) -> AsyncGenerator[tuple[bytes, Ended | None], None]:
    """PCM on the wire as it is made, and the end beside the last of it."""
    encoder = WireEncoder(state.talker.codec.sample_rate_hz, WireFormat())
    async with aclosing(events_of(state, question)) as events:
        async for event in events:
            if isinstance(event, AudioDelta):
                yield encoder.push(event.wave), None
            elif isinstance(event, Ended):
                yield encoder.push(np.zeros(0, dtype=np.float32), is_last=True), event


async def _speech_bytes(state: ServerState, question: Question, name: str) -> AsyncGenerator[bytes, None]:
    head = _wav_header() if name == "wav" else b""
    async with aclosing(_spoken(state, question)) as pieces:
        async for data, _ in pieces:
            if head or data:
                yield head + data
            head = b""


async def _speech_events(state: ServerState, question: Question) -> AsyncGenerator[bytes, None]:
    async with aclosing(_spoken(state, question)) as pieces:
        async for data, ended in pieces:
            if data:
                yield server_sent({"type": "speech.audio.delta", "audio": base64.b64encode(data).decode()})
            if ended is not None:
                tokens = {"input_tokens": ended.text_tokens, "output_tokens": ended.done.num_frames}
                usage = {**tokens, "total_tokens": sum(tokens.values())}
                yield server_sent({"type": "speech.audio.done", "usage": usage})


async def _transcript_events(state: ServerState, question: Question) -> AsyncGenerator[bytes, None]:
    async with aclosing(events_of(state, question)) as events:
        async for event in events:
            if isinstance(event, TextDelta):
                yield server_sent({"type": "transcript.text.delta", "delta": event.text})
            elif isinstance(event, Ended):
                yield server_sent({"type": "transcript.text.done", "text": event.done.text.strip()})


def _wav_header() -> bytes:
    """Of a file whose length isn't known yet, as players of streams accept it."""
    wire = WireFormat()
    size = wire.bytes_per_sample
    numbers = (
        (16, 4), (1, 2), (1, 2), (wire.rate_hz, 4), (wire.rate_hz * size, 4), (size, 2), (8 * size, 2),
    )  # fmt: skip
    body = b"".join(number.to_bytes(width, "little") for number, width in numbers)
    endless = _ENDLESS.to_bytes(4, "little")
    return b"RIFF" + endless + b"WAVEfmt " + body + b"data" + endless
