"""``/v1/chat/completions``: text and sound in, text and sound out, streamed or whole."""

from __future__ import annotations

import base64
import time
from collections import OrderedDict
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any, Literal

import numpy as np
from fastapi import APIRouter, Request
from fastapi.concurrency import run_in_threadpool
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import JSONResponse, Response

from anytalk.decode.jobs import Ended, Question, Said, Started
from anytalk.decode.telling import AudioDelta, TextDelta
from anytalk.serve.errors import RequestError, check_characters
from anytalk.serve.http.answers import begun, errors_as_events, events_of, server_sent, whole_answer
from anytalk.serve.http.bodies import read_json
from anytalk.serve.http.files_out import check_format, read_sound, write_sound
from anytalk.serve.questions import (
    check_unheard,
    from_base64,
    new_id,
    speaker_of,
    speech_of,
    task_for,
    with_instructions,
)
from anytalk.serve.sound import WireEncoder, WireFormat
from anytalk.serve.state import ServerState

_KEPT_ANSWERS = 1_000
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
    """What is understood; sampling fields of OpenAI that mean nothing here are accepted and have no effect."""

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
    functions: list[Any] | None = None
    response_format: dict[str, Any] | None = None


class ChatAnswers:
    """Transcripts of spoken answers by their ids, so that clients may name them in the next request."""

    def __init__(self) -> None:
        self._texts: OrderedDict[str, str] = OrderedDict()

    def keep(self, answer_id: str, text: str) -> None:
        """Remember one; the oldest is forgotten."""
        self._texts[answer_id] = text
        while len(self._texts) > _KEPT_ANSWERS:
            self._texts.popitem(last=False)

    def text(self, answer_id: str) -> str:
        """What was said (RequestError: nothing is known of it)."""
        if answer_id not in self._texts:
            said = f"no answer '{answer_id[:80]}' is known here (any more); send its text as content"
            raise RequestError(said, "audio_not_found", "messages")
        return self._texts[answer_id]


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
        turns = await run_in_threadpool(read_turns, wanted.messages, state, known)
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
            chunks = _chunks(state, question, known, spoken, options.include_usage)
            return await begun(errors_as_events(chunks), "text/event-stream")
        whole = await whole_answer(request, state, question)
        message: dict[str, Any] = {"role": "assistant", "content": whole.text, "refusal": None}
        if spoken:
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
        choice = {"index": 0, "message": message, "finish_reason": whole.ended.done.finish_reason, "logprobs": None}
        usage = _usage(whole.started, whole.ended)
        return JSONResponse({**_head(state, "chat.completion"), "choices": [choice], "usage": usage})

    return router


def read_turns(messages: list[dict[str, Any]], state: ServerState, known: ChatAnswers) -> list[Said]:
    """Messages -> turns, the user's last (RequestError: another order, or content that isn't understood)."""
    turns: list[Said] = []
    for number, message in enumerate(messages):
        param, role = f"messages[{number}]", message.get("role")
        if role not in ("user", "assistant", "system", "developer"):
            raise RequestError(f"role is {str(role)[:40]!r}; expected user, assistant, system", param=f"{param}.role")
        earlier = message.get("audio")
        if role == "assistant" and isinstance(earlier, dict) and not message.get("content"):
            turns.append(Said("assistant", known.text(str(earlier.get("id")))))
            continue
        texts, speech = _content(message.get("content"), role, state, f"{param}.content")
        if speech is not None and any(text.strip() for text in texts):
            turns.append(Said("user", "\n".join(texts)))
        if speech is not None:
            turns.append(speech)
            check_unheard(state, turns)
        else:
            text = "\n".join(texts)
            if not text.strip() and role == "user":
                raise RequestError("the message is empty", "invalid_value", f"{param}.content")
            turns.append(Said("system" if role == "developer" else role, text))
    if turns[-1].role != "user":
        raise RequestError("the last message must be the user's", "invalid_value", "messages")
    if sum(len(turn.text or "") for turn in turns) > state.settings.max_text_chars:
        said = f"the messages have more than {state.settings.max_text_chars} characters"
        raise RequestError(said, "string_above_max_length", "messages")
    for turn in turns:
        check_characters(turn.text or "", "messages")
    has_system = any(turn.role == "system" for turn in turns)
    return with_instructions(turns, "" if has_system else state.talker.config.grid.system or "")


def _content(given: Any, role: str, state: ServerState, param: str) -> tuple[list[str], Said | None]:
    if isinstance(given, str):
        return [given], None
    if not isinstance(given, list) or not given or not all(isinstance(part, dict) for part in given):
        raise RequestError("content must be a text or a list of parts", "missing_required_parameter", param)
    texts: list[str] = []
    speech: Said | None = None
    for number, part in enumerate(given):
        place = f"{param}[{number}]"
        if part.get("type") == "text" and isinstance(part.get("text"), str):
            texts.append(part["text"])
        elif part.get("type") == "input_audio" and role == "user" and isinstance(part.get("input_audio"), dict):
            if speech is not None:
                raise RequestError("a message holds one sound", "unsupported_value", place)
            rate_hz = state.ear_rate_hz
            data = from_base64(str(part["input_audio"].get("data", "")), f"{place}.input_audio.data")
            wave = read_sound(data, "input_audio", rate_hz, state.max_turn_s, f"{place}.input_audio.data")
            speech = Said("user", None, speech_of(wave, rate_hz, rate_hz, state.max_turn_s))
        else:
            kind = str(part.get("type"))[:40]
            raise RequestError(f"a part of the type '{kind}' is not understood here", "unsupported_value", place)
    return texts, speech


def _is_spoken(wanted: ChatRequest) -> bool:
    if wanted.tools or wanted.functions:
        raise RequestError("this server calls no tools", "unsupported_value", "tools")
    if wanted.n not in (None, 1):
        raise RequestError("one answer at a time: leave `n` at 1", "unsupported_value", "n")
    if wanted.response_format not in (None, {"type": "text"}):
        raise RequestError("only text is written; leave `response_format` out", "unsupported_value", "response_format")
    modalities = wanted.modalities or ["text"]
    if "audio" in modalities and "text" not in modalities:
        raise RequestError("a spoken answer has a text too: use ['text', 'audio']", "invalid_value", "modalities")
    return "audio" in modalities


async def _chunks(
    state: ServerState, question: Question, known: ChatAnswers, spoken: bool, include_usage: bool
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
    async with aclosing(events_of(state, question)) as events:
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
            elif isinstance(event, AudioDelta) and encoder is not None:
                data = encoder.push(event.wave)
                if data:
                    yield sound(data)
            elif isinstance(event, Ended):
                rest = encoder.push(np.zeros(0, dtype=np.float32), is_last=True) if encoder is not None else b""
                if rest:
                    yield sound(rest)
                if spoken:
                    known.keep(answer_id, said)
                    yield chunk({"audio": {"id": answer_id, "expires_at": int(time.time()) + _KEPT_S}})
                yield chunk({}, event.done.finish_reason)
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
