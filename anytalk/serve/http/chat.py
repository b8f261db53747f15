"""``/v1/chat/completions``: text and sound in, text and sound out, streamed or whole."""

from __future__ import annotations

import base64
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any, Literal

import numpy as np
from fastapi import APIRouter, Request
from fastapi.concurrency import run_in_threadpool
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import JSONResponse, Response

from anytalk.decode.jobs import Ended, Question, Started
from anytalk.decode.telling import AudioDelta, TextDelta, ThoughtDelta
from anytalk.grid.tools import Call
from anytalk.serve.calling import NO_TOOLS, Called, Tools, read_tools, with_tools
from anytalk.serve.errors import RequestError
from anytalk.serve.http.answers import begun, errors_as_events, events_of, server_sent, whole_answer
from anytalk.serve.http.bodies import read_json
from anytalk.serve.http.chat_turns import ChatAnswers, read_turns
from anytalk.serve.http.files_out import check_format, write_sound
from anytalk.serve.questions import new_id, speaker_of, task_for
from anytalk.serve.sound import WireEncoder, WireFormat
from anytalk.serve.state import ServerState

_KEPT_S = 3600


class ChatAudio(BaseModel):
    """How a spoken answer sounds."""

    model_config = ConfigDict(extra="forbid")

    format: str = "wav"
    voice: str | dict[str, Any] | None = None


class StreamOptions(BaseModel):
    """Of a streamed answer."""

    include_usage: bool = False


class ChatRequest(BaseModel):
    """What is understood; fields of OpenAI that say who asks and how it is stored have no effect."""

    model_config = ConfigDict(extra="ignore")

    model: str = ""
    messages: list[dict[str, Any]] = Field(min_length=1, max_length=400)
    modalities: list[Literal["text", "audio"]] | None = None
    audio: ChatAudio | None = None
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    max_completion_tokens: int | None = Field(None, ge=1)
    max_tokens: int | None = Field(None, ge=1)
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    n: int | None = 1
    tools: list[Any] | None = None
    tool_choice: Any = None
    parallel_tool_calls: bool | None = None
    functions: list[Any] | None = None
    response_format: dict[str, Any] | None = None
    stop: Any = None
    logprobs: bool | None = None
    logit_bias: dict[str, Any] | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None


def chat_routes(state: ServerState) -> APIRouter:
    """The endpoint."""
    router, known = APIRouter(), ChatAnswers()

    @router.post("/v1/chat/completions")
    async def completions(request: Request) -> Response:
        wanted = await read_json(request, ChatRequest)
        spoken = _is_spoken(wanted)
        audio = wanted.audio or ChatAudio()
        if spoken:
            check_format(audio.format, "audio.format")
        if spoken and wanted.stream and audio.format not in ("pcm16", "pcm"):
            raise RequestError(
                f"a streamed answer can't be {audio.format}; set audio.format to 'pcm16'",
                "unsupported_value",
                "audio.format",
            )
        tools = _tools(wanted, state)
        turns = await run_in_threadpool(read_turns, wanted.messages, state, known)
        if tools is not None and state.spelling is not None:
            turns = with_tools(turns, tools, state.spelling)
        question = Question(
            turns=turns,
            task=task_for(turns, spoken),
            options=state.decode_options(
                wanted.max_completion_tokens or wanted.max_tokens, temperature=wanted.temperature, top_p=wanted.top_p
            ),
            speaker=speaker_of(audio.voice, state.talker, "audio.voice"),
            max_context_columns=state.settings.max_context_columns,
        )
        if wanted.stream:
            options = wanted.stream_options or StreamOptions()
            chunks = _chunks(state, question, tools, known, spoken, options.include_usage)
            return await begun(errors_as_events(chunks), "text/event-stream")
        whole = await whole_answer(request, state, question, tools)
        message: dict[str, Any] = {"role": "assistant", "content": whole.text, "refusal": None}
        if whole.thoughts:
            message["reasoning_content"] = whole.thoughts
        finish = whole.ended.done.finish_reason
        if whole.calls:
            finish, message["content"] = "tool_calls", whole.text or None
            message["tool_calls"] = [_call_shown(call) for call in whole.calls]
        if spoken and not whole.calls:
            rate_hz = state.talker.codec.sample_rate_hz
            data = await run_in_threadpool(write_sound, whole.wave, rate_hz, audio.format)
            answer_id = new_id("audio")
            known.keep(answer_id, whole.text)
            message["content"] = None
            message["audio"] = {
                "id": answer_id,
                "data": base64.b64encode(data).decode(),
                "transcript": whole.text,
                "expires_at": int(time.time()) + _KEPT_S,
            }
        choice = {"index": 0, "message": message, "finish_reason": finish, "logprobs": None}
        usage = _usage(whole.started, whole.ended)
        return JSONResponse({**_head(state, "chat.completion"), "choices": [choice], "usage": usage})

    return router


def _is_spoken(wanted: ChatRequest) -> bool:
    if wanted.functions:
        raise RequestError("`functions` are not known here; send `tools`", "unsupported_value", "functions")
    if wanted.n not in (None, 1):
        raise RequestError("one answer at a time: leave `n` at 1", "unsupported_value", "n")
    if wanted.response_format not in (None, {"type": "text"}):
        raise RequestError("only text is written; leave `response_format` out", "unsupported_value", "response_format")
    for name in ("stop", "logprobs", "logit_bias", "frequency_penalty", "presence_penalty"):
        if getattr(wanted, name):
            raise RequestError(f"`{name}` is not done here; leave it out", "unsupported_value", name)
    modalities = wanted.modalities or ["text"]
    if "audio" in modalities and "text" not in modalities:
        raise RequestError("a spoken answer has a text too: use ['text', 'audio']", "invalid_value", "modalities")
    return "audio" in modalities


def _tools(wanted: ChatRequest, state: ServerState) -> Tools | None:
    if not wanted.tools:
        return None
    if state.spelling is None:
        raise RequestError(NO_TOOLS, "unsupported_value", "tools")
    return read_tools(wanted.tools, wanted.tool_choice, wanted.parallel_tool_calls, "body")


def _call_shown(call: Call) -> dict[str, Any]:
    return {
        "id": new_id("call"),
        "type": "function",
        "function": {"name": call.name, "arguments": call.arguments},
    }


async def _chunks(
    state: ServerState,
    question: Question,
    tools: Tools | None,
    known: ChatAnswers,
    spoken: bool,
    include_usage: bool,
) -> AsyncGenerator[bytes, None]:
    head, answer_id, said = _head(state, "chat.completion.chunk"), new_id("audio"), ""
    encoder = WireEncoder(state.talker.codec.sample_rate_hz, WireFormat()) if spoken else None
    empty = {"usage": None} if include_usage else {}

    def chunk(delta: dict[str, Any], finish: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "finish_reason": finish, "logprobs": None}
        return server_sent({**head, "choices": [choice], **empty})

    def sound(data: bytes) -> bytes:
        return chunk({"audio": {"id": answer_id, "data": base64.b64encode(data).decode()}})

    started: Started | None = None
    finish: str | None = None
    async with aclosing(events_of(state, question, tools)) as events:
        async for event in events:
            if isinstance(event, Started):
                started = event
                first: dict[str, Any] = {"role": "assistant", "refusal": None}
                yield chunk({**first, **({"audio": {"id": answer_id}} if spoken else {"content": ""})})
            elif isinstance(event, TextDelta):
                said += event.text
                yield chunk(
                    {"audio": {"id": answer_id, "transcript": event.text}} if spoken else {"content": event.text}
                )
            elif isinstance(event, ThoughtDelta):
                yield chunk({"reasoning_content": event.text})
            elif isinstance(event, AudioDelta) and encoder is not None:
                data = encoder.push(event.wave)
                if data:
                    yield sound(data)
            elif isinstance(event, Called):
                finish = "tool_calls"
                for number, call in enumerate(event.calls):
                    yield chunk({"tool_calls": [{"index": number, **_call_shown(call)}]})
            elif isinstance(event, Ended):
                rest = encoder.push(np.zeros(0, dtype=np.float32), is_last=True) if encoder is not None else b""
                if rest:
                    yield sound(rest)
                if spoken:
                    known.keep(answer_id, said)
                    yield chunk({"audio": {"id": answer_id, "expires_at": int(time.time()) + _KEPT_S}})
                yield chunk({}, finish or event.done.finish_reason)
                if include_usage:
                    yield server_sent({**head, "choices": [], "usage": _usage(started, event)})
    yield server_sent("[DONE]")


def _head(state: ServerState, kind: str) -> dict[str, Any]:
    return {
        "id": new_id("chatcmpl"),
        "object": kind,
        "created": int(time.time()),
        "model": state.model_name,
        "service_tier": "default",
    }


def _usage(started: Started | None, ended: Ended) -> dict[str, Any]:
    prompt, speech = (started.prompt_columns, started.speech_columns) if started is not None else (0, 0)
    completion = ended.text_tokens + ended.done.num_frames
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"audio_tokens": speech, "cached_tokens": 0},
        "completion_tokens_details": {"audio_tokens": ended.done.num_frames, "reasoning_tokens": 0},
    }
