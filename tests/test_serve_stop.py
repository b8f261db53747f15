"""``stop`` of chat completions through the official client: in text and sound, whole and streamed, beside functions."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Iterator
from typing import Any

import pytest
from serve_lab import Running, run, running
from tools_lab import CALL, WEATHER, scripted_talker

TOOL = {"type": "function", "function": {name: WEATHER[name] for name in WEATHER if name != "type"}}
SPOKEN: dict[str, Any] = {"modalities": ["text", "audio"], "audio": {"voice": "alloy", "format": "pcm16"}}
STORY = "Once upon a time. User: there was a fox. The end."


def says(said: list[str]) -> str:
    if "weather" not in said[-1]:
        return said[-1]
    return f"Let me look. {CALL} Well." if "look" in said[-1] else CALL


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    """Its model repeats what it is told, or calls a function where that is about the weather."""
    with running(scripted_talker(says), max_columns=90) as found:
        yield found


def asking(text: str, **options: Any) -> dict[str, Any]:
    return {"model": "any", "messages": [{"role": "user", "content": text}], **options}


async def whole(server: Running, text: str, **options: Any) -> Any:
    async with server.client() as client:
        return await client.chat.completions.create(**asking(text, **options))


async def streamed(server: Running, text: str, **options: Any) -> tuple[list[str], bytes, str | None, Any]:
    """Pieces of text, sound, why it ended, usage."""
    words, sound, finish, usage = list[str](), b"", None, None
    wanted = asking(text, stream=True, stream_options={"include_usage": True}, **options)
    async with server.client() as client:
        async for chunk in await client.chat.completions.create(**wanted):
            usage = chunk.usage or usage
            for choice in chunk.choices:
                audio = choice.delta.model_dump().get("audio") or {}
                words.append(audio.get("transcript") or choice.delta.content or "")
                sound += base64.b64decode(audio.get("data") or "")
                finish = choice.finish_reason or finish
    return words, sound, finish, usage


STOPS = [
    ("User:", "Once upon a time. "),
    (["never", ". U"], "Once upon a time"),
    (["fox", "upon", "a", "time"], "Once "),
    ("Once", ""),
    ("never", f"{STORY} "),
    ("end. !", f"{STORY} "),
]


@pytest.mark.parametrize(("stop", "kept"), STOPS)
def test_in_text(server: Running, stop: Any, kept: str) -> None:
    answer = run(whole(server, STORY, stop=stop))
    assert (answer.choices[0].message.content, answer.choices[0].finish_reason) == (kept, "stop")
    assert (answer.usage.completion_tokens == 0) == (kept == "")
    words, _, finish, usage = run(streamed(server, STORY, stop=stop))
    assert ("".join(words), finish, usage) == (kept, "stop", answer.usage)


@pytest.mark.parametrize(("stop", "kept"), STOPS)
def test_in_sound(server: Running, stop: Any, kept: str) -> None:
    """The sound is that of an answer which has just these words."""
    wanted = run(whole(server, kept, seed=1, **SPOKEN)) if kept else None
    answer = run(whole(server, STORY, stop=stop, seed=1, **SPOKEN))
    audio = answer.choices[0].message.audio
    assert audio.transcript == kept
    words, sound, _, _ = run(streamed(server, STORY, stop=stop, seed=1, **SPOKEN))
    assert "".join(words) == kept
    assert len(sound) == len(base64.b64decode(audio.data))
    if wanted is not None:
        same = wanted.choices[0].message.audio
        assert same.transcript.strip() == kept.strip()
        assert abs(len(same.data) - len(audio.data)) <= len(audio.data) // 10


def test_many_at_once(server: Running) -> None:
    async def ask() -> list[Any]:
        return await asyncio.gather(*(whole(server, STORY, stop=stop, **SPOKEN) for stop, _ in STOPS))

    assert [a.choices[0].message.audio.transcript for a in run(ask())] == [kept for _, kept in STOPS]


def test_beside_functions(server: Running) -> None:
    """A string before a call ends the answer without one; a call that one cuts is none."""
    free = run(whole(server, "the weather: look", tools=[TOOL], stop="Well")).choices[0]
    assert (free.finish_reason, free.message.content) == ("tool_calls", "Let me look.")
    assert free.message.tool_calls[0].function.name == "get_weather"
    for stop, kept in ((" look", "Let me"), ("get_weather", "Let me look.")):
        cut = run(whole(server, "the weather: look", tools=[TOOL], stop=stop)).choices[0]
        assert (cut.finish_reason, cut.message.tool_calls, cut.message.content) == ("stop", None, kept)
