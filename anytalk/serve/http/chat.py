"""Serve ``/v1/chat/completions``: text and sound in, text and sound out, streamed or whole."""

from __future__ import annotations

import base64
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import numpy as np
from fastapi import APIRouter, Request
from fastapi.concurrency import run_in_threadpool
from starlette.responses import JSONResponse, Response

from anytalk.decode.jobs import Ended, Question, Started
from anytalk.decode.telling import AudioDelta, TextDelta, ThoughtDelta
from anytalk.grid.tools import Call
from anytalk.serve.calling import NO_TOOLS, Called, Tools, opening_of, read_tools, with_tools
from anytalk.serve.errors import RequestError
from anytalk.serve.http.answers import begun, errors_as_events, events_of, server_sent, whole_answer
from anytalk.serve.http.bodies import read_json
from anytalk.serve.http.chat_options import ChatAudio, ChatRequest, StreamOptions, check_chat, stops_of
from anytalk.serve.http.chat_turns import ChatAnswers, read_turns
from anytalk.serve.http.files_out import check_format, write_sound
from anytalk.serve.questions import new_id, speaker_of, task_for
from anytalk.serve.sound import WireEncoder, WireFormat
from anytalk.serve.state import ServerState

_KEPT_S = 3600


def chat_routes(state: ServerState) -> APIRouter:
    """Return the endpoint."""
    router, known = APIRouter(), ChatAnswers()

    @router.post("/v1/chat/completions")
    async def completions(request: Request) -> Response:
        wanted = await read_json(request, ChatRequest)
        check_chat(wanted)
        spoken = "audio" in (wanted.modalities or ())
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
        opening, choices = opening_of(tools, state.talker, state.spelling)
        question = Question(
            turns=turns,
            opening=opening,
            choices=choices,
            task=task_for(turns, spoken and not opening),
            options=state.decode_options(
                wanted.max_completion_tokens or wanted.max_tokens,
                temperature=wanted.temperature,
                top_p=wanted.top_p,
                seed=wanted.seed,
                stops=stops_of(wanted.stop),
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


def _tools(wanted: ChatRequest, state: ServerState) -> Tools | None:
    if not wanted.tools and wanted.tool_choice in (None, "auto", "none"):
        return None
    if state.spelling is None:
        raise RequestError(NO_TOOLS, "unsupported_value", "tools")
    return read_tools(wanted.tools or [], wanted.tool_choice, wanted.parallel_tool_calls, "body")


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
