"""Cancelling, truncating and speaking over an answer; turns without answers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from typing import Any

import pytest
from serve_lab import (
    MANUAL,
    ORDER,
    SMALL,
    Running,
    num_answers,
    pcm,
    question,
    record,
    run,
    running,
    talking,
    texts,
    without_deltas,
)
from talkers import make_talker

from anytalk.decode.jobs import Question
from anytalk.serve.realtime.outbox import Outbox


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    with running(make_talker()) as found:
        yield found


@pytest.fixture(scope="module")
def slow() -> Iterator[Running]:
    """Its answers take seconds: a round of the model lasts 20 ms."""
    with running(make_talker(), max_columns=300) as found:
        found.state.model._on_columns = lambda columns: time.sleep(0.02 if columns else 0)
        yield found


@pytest.fixture
def asked(server: Running, monkeypatch: pytest.MonkeyPatch) -> list[Question]:
    return record(server, monkeypatch)


@pytest.mark.serial
def test_cancel_stops_at_once(slow: Running) -> None:
    async def talk() -> None:
        async with talking(slow, **MANUAL) as client:
            await client.type("a long story")
            await client.connection.response.create()
            for _ in range(5):
                await client.until("response.output_audio.delta")
            await client.connection.response.create()
            assert (await client.error_among()).code == "conversation_already_has_active_response"
            begin, before = len(client.events), time.monotonic()
            await client.connection.response.cancel()
            done = await client.until("response.done")
            assert time.monotonic() - before < 0.1
            assert done.response.status == "cancelled"
            assert done.response.status_details.reason == "client_cancelled"
            assert done.response.output[0].status == "incomplete"
            assert [name for name in without_deltas(client.types(begin)) if name != "error"] == ORDER[4:]
            await client.connection.response.cancel()
            assert (await client.error()).code == "response_cancel_not_active"
            # The model has stopped, too, and is free for the next turn.
            slow.wait_until(lambda: num_answers(slow.state.model) == 0)
            await client.type("short")
            response, sound = await client.answer(max_output_tokens=5)
            assert response.status == "incomplete"
            assert sound

    run(talk())


def test_truncation_cuts_text_and_memory(server: Running, asked: list[Question]) -> None:
    async def talk() -> None:
        async with talking(server, **MANUAL) as client:
            await client.type("tell me")
            response, sound = await client.answer()
            item, length_ms = response.output[0], len(sound) // 48
            whole = item.content[0].transcript
            items = client.connection.conversation.item
            await items.truncate(item_id=item.id, content_index=0, audio_end_ms=length_ms + 500)
            assert "ms of sound" in (await client.error()).message
            await items.truncate(item_id=item.id, content_index=0, audio_end_ms=length_ms // 2)
            truncated = await client.until("conversation.item.truncated")
            assert (truncated.item_id, truncated.audio_end_ms) == (item.id, length_ms // 2)
            await items.retrieve(item_id=item.id)
            heard = (await client.until("conversation.item.retrieved")).item.content[0].transcript
            assert whole.startswith(heard)
            assert len(heard) <= len(whole) / 2 + 1
            await client.type("go on")
            later, _ = await client.answer()
            spoken = [text for role, text in texts(asked[-1]) if role == "assistant"]
            assert spoken == ([heard] if heard else [])
            # The caches hold the question, and not the answer that nobody heard.
            cached = later.usage.input_token_details.cached_tokens
            assert 0 < cached <= response.usage.input_tokens + len(heard)
            user = await client.type("x")
            await items.truncate(item_id=user.id, content_index=0, audio_end_ms=0)
            assert "only answers with sound" in (await client.error()).message

    run(talk())


@pytest.mark.serial
def test_barge_in(slow: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = record(slow, monkeypatch)
    told: list[tuple[str, float]] = []  # what the server says, and when: the client's own time is not measured
    put = Outbox.put

    def stamped(outbox: Outbox, name: str, **fields: Any) -> None:
        told.append((name, time.monotonic()))
        put(outbox, name, **fields)

    monkeypatch.setattr(Outbox, "put", stamped)

    async def talk() -> str:
        async with talking(slow) as client:
            await client.type("a long story")
            await client.connection.response.create()
            first = (await client.until("response.created")).response.id
            await client.until("response.output_audio.delta")
            speech = pcm(question()[: 24_000 * 2])
            saying = asyncio.create_task(client.say(speech, piece_ms=20))
            await client.until("input_audio_buffer.speech_started")
            begin = len(client.events)
            done = await client.until("response.done")
            assert done.response.id == first
            assert done.response.status_details.reason == "turn_detected"
            await saying
            await client.say(bytes(48 * 800))
            await client.until("response.created")
            await client.until("response.output_audio.delta")
            # Not a sample of the old answer came after the decision.
            assert not [
                event
                for event in client.events[begin:]
                if event.type == "response.output_audio.delta" and event.response_id == first
            ]
            return str(done.response.output[0].content[0].transcript)

    heard = run(talk())
    names = [name for name, _ in told]
    decided, over = names.index("input_audio_buffer.speech_started"), names.index("response.done")
    assert told[over][1] - told[decided][1] < 0.1
    assert "response.output_audio.delta" not in names[decided:over]
    spoken = [text for role, text in texts(asked[-1]) if role == "assistant"]
    assert all(heard.startswith(text or "") for text in spoken)
    slow.wait_until(lambda: num_answers(slow.state.model) == 0)


def test_answers_that_are_not_interrupted(slow: Running) -> None:
    async def talk() -> None:
        detection = {"type": "server_vad", "interrupt_response": False, "silence_duration_ms": 300}
        async with talking(slow, audio={"input": {"turn_detection": detection}}, max_output_tokens=40) as client:
            await client.type("a story")
            await client.connection.response.create()
            await client.until("response.output_audio.delta")
            await client.say(pcm(question()))
            statuses = [(await client.until("response.done")).response.status for _ in range(2)]
            assert statuses == ["incomplete", "incomplete"]

    run(talk())


def test_turns_without_answers_and_the_idle_timeout(server: Running) -> None:
    async def talk() -> None:
        detection = {"type": "server_vad", "create_response": False, "threshold": 0.6, "prefix_padding_ms": 0}
        async with talking(server, audio={"input": {"turn_detection": detection}}, **SMALL) as client:
            await client.say(pcm(question()))
            await client.until("conversation.item.done")
            response, _ = await client.answer()
            assert response.output
            assert client.types().count("response.created") == 1
            await client.setup(audio={"input": {"turn_detection": {"idle_timeout_ms": 1000}}})
            triggered = await client.until("input_audio_buffer.timeout_triggered")
            assert triggered.audio_start_ms <= triggered.audio_end_ms
            await client.until("response.done")

    run(talk())
