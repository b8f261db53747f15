"""The HTTP endpoints through the official client."""

from __future__ import annotations

import asyncio
import base64
import io
import json
from collections.abc import Iterator
from typing import Any

import httpx2
import numpy as np
import openai
import pytest
import soundfile
from serve_lab import Running, num_answers, question, record, run, running, texts
from talkers import make_talker

from anytalk.decode.engine import DecodeOptions
from anytalk.decode.session import Session
from anytalk.decode.telling import AnswerDone, AudioDelta
from anytalk.grid.audio import resample
from anytalk.model.talker import Talker

COLUMNS = 24


@pytest.fixture(scope="module")
def talker() -> Talker:
    return make_talker(speakers=("anna", "bob"))


@pytest.fixture(scope="module")
def alone(talker: Talker) -> dict[str, tuple[str, np.ndarray]]:
    """Text and sound at 24 kHz of answers, made before the server has the model."""
    found = {}
    for name, asked in (("Hello!", "T1A2"), ("read me", "T1A1")):
        events = list(Session(talker).ask(text=name, task=asked, options=DecodeOptions(max_columns=COLUMNS)))
        done = events[-1]
        assert isinstance(done, AnswerDone)
        wave = np.concatenate([event.wave for event in events if isinstance(event, AudioDelta)])
        found[name] = done.text, resample(wave, talker.codec.sample_rate_hz, 24_000)
    return found


@pytest.fixture(scope="module")
def server(talker: Talker, alone: Any) -> Iterator[Running]:
    with running(talker, max_columns=COLUMNS, max_body_bytes=2 << 20) as found:
        yield found


def wav(rate_hz: int = 16_000) -> bytes:
    out = io.BytesIO()
    soundfile.write(out, question(rate_hz=rate_hz), rate_hz, format="WAV", subtype="PCM_16")
    return out.getvalue()


def of_pcm(data: bytes) -> np.ndarray:
    return np.frombuffer(data, "<i2").astype(np.float32) / 32767


def call(server: Running, method: str, path: str, **options: Any) -> httpx2.Response:
    with httpx2.Client(base_url=f"http://{server.address}", timeout=30) as client:
        return client.request(method, path, **options)


# Models, health, numbers


def test_models_and_health(server: Running) -> None:
    async def ask() -> None:
        async with server.client() as client:
            models = await client.models.list()
            assert [model.id for model in models.data] == ["tiny"]
            assert (await client.models.retrieve("tiny")).voices == ["anna", "bob"]  # type: ignore[attr-defined]
            with pytest.raises(openai.NotFoundError, match="this server has 'tiny'"):
                await client.models.retrieve("gpt")

    run(ask())
    health = call(server, "GET", "/health").json()
    assert health == {"status": "ok", "model": "tiny", "sessions": 0, "max_sessions": 8}


def test_numbers_for_prometheus(server: Running) -> None:
    run(chat(server, "Hello!"))
    text = call(server, "GET", "/metrics").text
    assert "anytalk_sessions 0.0" in text
    assert "anytalk_session_places 8.0" in text
    assert 'anytalk_answers_total{status="' in text


# Speech


async def speak(server: Running, **options: Any) -> bytes:
    async with server.client() as client:
        return await (await client.audio.speech.create(**{"model": "tiny", "voice": "anna", **options})).aread()


@pytest.mark.parametrize("name", ["pcm", "wav", "flac", "mp3", "opus"])
def test_reading_aloud(server: Running, alone: Any, name: str) -> None:
    data = run(speak(server, input="read me", response_format=name))
    expected = alone["read me"][1]
    if name == "pcm":
        wave = of_pcm(data)
    elif name == "wav":  # streamed: its header can't know the length
        assert data[:4] == b"RIFF"
        wave = of_pcm(data[44:])
    else:
        wave, rate_hz = soundfile.read(io.BytesIO(data), dtype="float32")
        assert rate_hz in (24_000, 48_000)
        wave = wave[:: rate_hz // 24_000]
    if name in ("pcm", "wav", "flac"):
        assert len(wave) == len(expected)
        assert np.abs(wave - expected.clip(-1, 1)).max() < 1e-3
    else:
        assert len(wave) >= 0.9 * len(expected)


@pytest.mark.parametrize("name", ["pcm", "wav", "flac", "mp3", "opus"])
def test_reading_aloud_as_events(server: Running, name: str) -> None:
    """The pieces joined are what comes without events."""
    body = {"model": "tiny", "input": "read me", "voice": "alloy", "response_format": name, "stream_format": "sse"}
    lines = call(server, "POST", "/v1/audio/speech", json=body).text.split("\n\n")
    events = [json.loads(line.removeprefix("data: ")) for line in lines if line]
    assert [event["type"] for event in events][-2:] == ["speech.audio.delta", "speech.audio.done"]
    assert len(events) > (1 if name == "flac" else 2)
    data = b"".join(base64.b64decode(event["audio"]) for event in events[:-1])
    whole = run(speak(server, input="read me", response_format=name))
    # Each Ogg stream has a number of its own.
    assert len(data) == len(whole) if name == "opus" else data == whole


@pytest.mark.parametrize(("name", "speed"), [("pcm", 0.25), ("pcm", 1.5), ("wav", 4.0), ("flac", 0.5)])
def test_reading_aloud_faster_and_slower(server: Running, alone: Any, name: str, speed: float) -> None:
    data = run(speak(server, input="read me", response_format=name, speed=speed))
    size = len(soundfile.read(io.BytesIO(data))[0]) if name == "flac" else (len(data) - 44 * (name == "wav")) // 2
    assert size == pytest.approx(len(alone["read me"][1]) / speed, abs=1)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"input": ""}, "at least 1 character"),
        ({"input": "?!"}, "nothing to say"),
        ({"input": "x" * 5000}, "at most 4096"),
        ({"input": "a", "voice": "ana"}, "did you mean 'anna'"),
        ({"input": "a", "response_format": "aac"}, "can't be written as 'aac'"),
        ({"input": "a", "speed": 0.2}, "speed: Input should be greater than or equal to 0.25"),
        ({"input": "a", "instructions": "Whisper."}, "can't follow instructions"),
    ],
)
def test_what_can_not_be_read(server: Running, options: dict[str, Any], said: str) -> None:
    with pytest.raises(openai.BadRequestError, match=said):
        run(speak(server, **options))


# Chat


async def chat(server: Running, text: str, **options: Any) -> Any:
    async with server.client() as client:
        return await client.chat.completions.create(
            **{"model": "tiny", "messages": [{"role": "user", "content": text}], **options}
        )


def test_chat_in_text(server: Running, alone: Any) -> None:
    found = run(chat(server, "Hello!"))
    assert found.object == "chat.completion"
    assert found.choices[0].message.content
    assert found.choices[0].finish_reason == "length"
    assert found.usage.total_tokens == found.usage.prompt_tokens + found.usage.completion_tokens
    assert found.choices[0].message.content == alone["Hello!"][0]
    short = run(chat(server, "Hello!", max_completion_tokens=3))
    assert short.usage.completion_tokens == 3


def test_chat_in_sound_whole_and_streamed(server: Running, alone: Any) -> None:
    text, wave = alone["Hello!"]

    async def ask() -> None:
        async with server.client() as client:
            asking: dict[str, Any] = {
                "model": "tiny",
                "modalities": ["text", "audio"],
                "messages": [{"role": "user", "content": "Hello!"}],
            }
            whole = await client.chat.completions.create(**asking, audio={"voice": "anna", "format": "wav"})
            audio = whole.choices[0].message.audio
            assert audio is not None
            assert audio.transcript == text
            heard, _ = soundfile.read(io.BytesIO(base64.b64decode(audio.data)), dtype="float32")
            assert np.abs(heard - wave.clip(-1, 1)).max() < 1e-3
            # An earlier answer by its id.
            again = [*asking["messages"], {"role": "assistant", "audio": {"id": audio.id}}]
            later = await client.chat.completions.create(
                model="tiny", messages=[*again, {"role": "user", "content": "And?"}]
            )
            assert later.usage.prompt_tokens > whole.usage.prompt_tokens + len(text) / 2
            unknown = {"role": "assistant", "audio": {"id": "audio_x"}}
            messages: Any = [asking["messages"][0], unknown, asking["messages"][0]]
            with pytest.raises(openai.BadRequestError, match="no answer 'audio_x' is known"):
                await client.chat.completions.create(model="tiny", messages=messages)
            chunks = [
                chunk
                async for chunk in await client.chat.completions.create(
                    **asking,
                    audio={"voice": "anna", "format": "pcm16"},
                    stream=True,
                    stream_options={"include_usage": True},
                )
            ]
            assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens
            deltas = [chunk.choices[0].delta.model_dump() for chunk in chunks[:-1]]
            pieces = [delta["audio"] for delta in deltas if delta.get("audio")]
            assert "".join(piece.get("transcript") or "" for piece in pieces) == text
            data = b"".join(base64.b64decode(piece["data"]) for piece in pieces if piece.get("data"))
            assert len(of_pcm(data)) == len(wave)
            assert np.abs(of_pcm(data) - wave.clip(-1, 1)).max() < 1e-3
            assert chunks[-2].choices[0].finish_reason == "length"

    run(ask())


def test_chat_hears(server: Running) -> None:
    part = {"type": "input_audio", "input_audio": {"data": base64.b64encode(wav()).decode(), "format": "wav"}}
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "Listen:"}, part]},
    ]
    found = run(chat(server, "", messages=messages))
    assert found.choices[0].message.content

    async def stream() -> str:
        async with server.client() as client:
            answers = await client.chat.completions.create(model="tiny", messages=messages, stream=True)  # type: ignore[arg-type]
            return "".join([chunk.choices[0].delta.content or "" async for chunk in answers])

    assert run(stream()) == found.choices[0].message.content


@pytest.mark.parametrize(
    ("messages", "shown"),
    [
        (["developer: Greet!"], ["user: Greet!"]),
        (["system: Be brief.", "developer: Greet!"], ["system: Be brief.", "user: Greet!"]),
        (["user: Hi", "assistant: Hello"], ["user: Hi", "assistant: Hello", "user: ..."]),
    ],
)
def test_chats_that_do_not_end_with_the_users_words(
    server: Running, monkeypatch: pytest.MonkeyPatch, messages: list[str], shown: list[str]
) -> None:
    asked = record(server, monkeypatch)
    given = [dict(zip(("role", "content"), message.split(": "), strict=True)) for message in messages]
    run(chat(server, "", messages=given, max_tokens=2))
    assert [f"{role}: {text}" for role, text in texts(asked[0])] == shown


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"messages": []}, "at least 1 item"),
        ({"messages": [{"role": "judge", "content": "x"}]}, "role is 'judge'"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "doesn't support functions"),
        ({"messages": [{"role": "user", "content": " "}]}, "empty"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "'image_url' is not supported"),
        ({"messages": [{"role": "user", "content": "x" * 30_000}]}, "more than 20000 characters"),
        ({"n": 2}, "one answer"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "doesn't support functions"),
        ({"modalities": ["audio"]}, "has a text too"),
        ({"modalities": ["text", "audio"], "audio": {"voice": "anna", "format": "mp3"}, "stream": True}, "pcm16"),
        ({"stop": [""]}, "`stop`: an empty string"),
        ({"temperature": -1}, "greater than or equal to 0"),
        ({"response_format": {"type": "json_object"}}, "only text"),
    ],
)
def test_what_can_not_be_asked(server: Running, options: dict[str, Any], said: str) -> None:
    with pytest.raises(openai.BadRequestError, match=said):
        run(chat(server, "Hello!", **options))


# What is not there


@pytest.mark.parametrize(
    "path", ["/v1/nothing", "/../../etc/passwd", "/%2e%2e/%2e%2e/etc/passwd", "/web/index.html", "/docs"]
)
def test_other_paths_lead_nowhere(server: Running, path: str) -> None:
    answer = call(server, "GET", path)
    assert answer.status_code == 404
    assert answer.json()["error"]["code"] == "not_found"
    assert "root:" not in answer.text


def test_bodies_have_a_limit(server: Running) -> None:
    answer = call(server, "POST", "/v1/chat/completions", content=b" " * (3 << 20))
    assert answer.status_code == 413

    def endless() -> Iterator[bytes]:
        for _ in range(48):
            yield b" " * (64 << 10)

    answer = call(server, "POST", "/v1/chat/completions", content=endless())
    assert answer.status_code == 413


def test_a_client_that_leaves_frees_its_place(server: Running) -> None:
    async def leave() -> None:
        async with server.client() as client:
            answers = await client.chat.completions.create(
                model="tiny", messages=[{"role": "user", "content": "x"}], stream=True
            )
            async for _ in answers:
                break
            await answers.close()
            asking = asyncio.create_task(chat(server, "Hello!"))
            await asyncio.sleep(0.01)
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)

    run(leave())
    server.wait_until(lambda: server.state.admission.taken == 0 and num_answers(server.state.model) == 0)
