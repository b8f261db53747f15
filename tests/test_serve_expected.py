"""What stock clients take for granted: events sent alone, words and codes that they look for, keys for pages."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Iterator
from typing import Any

import httpx2
import openai
import pytest
import websockets
from serve_lab import ASK, MANUAL, SMALL, Running, num_answers, pcm, question, record, run, running, talking, texts
from talkers import make_talker
from websockets.asyncio.client import connect

from anytalk.decode.jobs import Question
from anytalk.serve.errors import RequestError, check_values
from anytalk.serve.realtime import calls
from anytalk.serve.short_keys import ShortKeys


@pytest.fixture(scope="module")
def slow() -> Iterator[Running]:
    """Its answers take a second or two: a round of the model lasts 20 ms."""
    with running(make_talker(), max_columns=100, max_sessions=2) as found:
        found.state.model._on_columns = lambda columns: time.sleep(0.02 if columns else 0)
        yield found


@pytest.fixture
def asked(slow: Running, monkeypatch: pytest.MonkeyPatch) -> list[Question]:
    return record(slow, monkeypatch)


def test_cutting_the_running_answer_ends_it(slow: Running) -> None:
    async def talk() -> None:
        async with talking(slow) as client:
            await client.type("a long story")
            await client.connection.response.create()
            for _ in range(3):
                delta = await client.until("response.output_audio.delta")
            items = client.connection.conversation.item
            await items.truncate(item_id=delta.item_id, content_index=0, audio_end_ms=10)
            done = (await client.until("response.done")).response
            assert (done.status, done.status_details.reason) == ("cancelled", "client_cancelled")
            cut = await client.until("conversation.item.truncated")
            assert cut.audio_end_ms == 10
            slow.wait_until(lambda: num_answers(slow.state.model) == 0)

    run(talk())


def test_instructions_alone_are_answered(slow: Running, asked: list[Question]) -> None:
    async def talk() -> None:
        async with talking(slow, instructions="Greet the user.", **SMALL) as client:
            greeting, _ = await client.answer()
            assert texts(asked[-1]) == [("user", "Greet the user.")]
            await client.answer()
            said = greeting.output[0].content[0].transcript
            assert texts(asked[-1]) == [("system", "Greet the user."), ("assistant", said), ("user", "...")]
        async with talking(slow, **SMALL) as client:
            part = {"type": "input_text", "text": "You are Bob. Greet the user."}
            item = {"type": "message", "role": "system", "content": [part]}
            await client.connection.conversation.item.create(item=item)
            await client.until("conversation.item.done")
            await client.answer()
            assert texts(asked[-1]) == [("user", "You are Bob. Greet the user.")]

    run(talk())


def test_a_response_beside_the_running_one(slow: Running, asked: list[Question]) -> None:
    async def talk() -> None:
        async with talking(slow, **MANUAL) as client:
            await client.type("a long story")
            await client.connection.response.create()
            await client.until("response.output_audio.delta")
            item = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Which topic?"}]}
            aside = {"conversation": "none", "output_modalities": ["text"], "input": [item], "max_output_tokens": 4}
            await client.connection.response.create(response=aside)
            created = (await client.until("response.created")).response
            done = (await client.until("response.done")).response
            assert done.id == created.id
            assert done.conversation_id is None
            assert texts(asked[-1]) == [("user", "Which topic?")]
            for _ in range(3):
                await client.connection.response.create(response={**aside, "max_output_tokens": 90})
            assert "2 responses" in (await client.error_among()).message
            await client.connection.response.cancel(response_id=client.events[-2].response.id)
            assert (await client.until("response.done")).response.status == "cancelled"
            await client.connection.response.cancel()
            assert (await client.until("response.done")).response.conversation_id is not None

    run(talk())


def test_what_was_spoken_counts_as_sound(slow: Running) -> None:
    async def talk() -> None:
        async with talking(slow, **MANUAL, **SMALL) as client:
            await client.type("Hello!")
            typed, _ = await client.answer()
            assert typed.usage.input_token_details.audio_tokens == 0
            await client.say(pcm(question()))
            await client.connection.input_audio_buffer.commit()
            spoken, _ = await client.answer()
            details = spoken.usage.input_token_details
            assert details.audio_tokens > 10
            assert details.audio_tokens + details.text_tokens == spoken.usage.input_tokens

    run(talk())


def test_an_item_that_is_there_already(slow: Running) -> None:
    async def talk() -> None:
        async with talking(slow) as client:
            for _ in range(2):
                await client.connection.send({**ASK, "item": {**ASK["item"], "id": "a"}})  # type: ignore[dict-item]
            assert (await client.error_among()).code == "item_create_duplicate_item_id"

    run(talk())


@pytest.mark.parametrize("name", ["mp3", "opus", "wav", "pcm", "flac"])
def test_a_full_server_says_429_in_every_format(slow: Running, name: str) -> None:
    async def ask() -> None:
        with slow.state.admission.place(), slow.state.admission.place():
            async with slow.client() as client:
                with pytest.raises(openai.RateLimitError, match="all 2 places"):
                    await client.audio.speech.create(model="x", voice="alloy", input="Hello!", response_format=name)

    run(ask())


# Paths


@pytest.mark.parametrize("path", ["/realtime", "/v1/realtime/calls", "/v2/realtime?model=tiny"])
def test_a_websocket_that_is_nowhere_says_where_it_is(
    slow: Running, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    logged, handler = list[logging.LogRecord](), logging.Handler()
    handler.emit = logged.append  # type: ignore[method-assign]
    monkeypatch.setattr(logging.getLogger("uvicorn.error"), "handlers", [handler])

    async def ask() -> Any:
        with pytest.raises(websockets.InvalidStatus) as refused:
            await connect(f"ws://{slow.address}{path}")
        return refused.value.response

    response = run(ask())
    assert response.status_code == 404
    assert "the Realtime API is at /v1/realtime" in json.loads(response.body)["error"]["message"]
    assert not [record for record in logged if record.levelno >= logging.WARNING]


def test_a_slash_at_the_end_is_no_other_path(slow: Running) -> None:
    async def ask() -> str:
        async with connect(f"ws://{slow.address}/v1/realtime/?model=x") as connection:
            return str(json.loads(await connection.recv())["type"])

    assert run(ask()) == "session.created"


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("/v1/responses", "/v1/chat/completions"),
        ("/v1/responses/resp_1", "/v1/chat/completions"),
        ("/v1/realtime/calls/rtc_1/accept", "SIP is not answered"),
        ("/v1/realtime", "ws://"),
        ("/chat/completions", "end the client's base_url with /v1"),
        ("/responses", "end the client's base_url with /v1"),
    ],
)
def test_paths_of_elsewhere_are_answered_in_a_sentence(slow: Running, path: str, said: str) -> None:
    answer = httpx2.post(f"http://{slow.address}{path}", json={})
    assert answer.status_code == 404
    assert said in answer.json()["error"]["message"]


def test_a_server_without_aiortc_says_what_calls_need(slow: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "find_spec", lambda _: None)
    offer = "v=0\r\nm=audio 9 UDP/TLS/RTP/SAVPF 111\r\nm=application 9 UDP/DTLS/SCTP webrtc-datachannel\r\n"
    url, headers = f"http://{slow.address}/v1/realtime/calls", {"Content-Type": "application/sdp"}
    answer = httpx2.post(url, content=offer, headers=headers)
    assert answer.status_code == 501
    assert "pip install 'anytalk[webrtc]'" in answer.json()["error"]["message"]
    assert httpx2.post(url, json={}).status_code == 415
    assert httpx2.post(f"{url}/rtc_1/hangup").status_code == 404


def test_a_call_is_not_joined_by_a_websocket(slow: Running) -> None:
    async def ask() -> str:
        async with connect(f"ws://{slow.address}/v1/realtime?call_id=rtc_1") as connection:
            return str(json.loads(await connection.recv())["error"]["message"])

    assert "data channel" in run(ask())


# Keys for pages


def test_a_page_is_given_a_key_for_one_kind_of_door() -> None:
    async def talk(server: Running) -> None:
        session = {"type": "realtime", "instructions": "Be brief.", "audio": {"output": {"voice": "bob", "speed": 2}}}
        async with server.client("s3cret") as client:
            made = await client.realtime.client_secrets.create(
                expires_after={"anchor": "created_at", "seconds": 60},
                session=session,  # type: ignore[arg-type]
            )
        assert made.value.startswith("ek_")
        assert 50 < made.expires_at - time.time() <= 61
        assert made.session.instructions == "Be brief."
        async with talking(server, made.value) as client:
            shown = client.events[0].session
            assert (shown.instructions, shown.audio.output.voice) == ("Be brief.", "bob")
        protocols = ["realtime", f"openai-insecure-api-key.{made.value}"]
        async with connect(f"ws://{server.address}/v1/realtime", subprotocols=protocols) as connection:  # type: ignore[arg-type]
            assert json.loads(await connection.recv())["session"]["instructions"] == "Be brief."
        async with server.client(made.value) as client:
            with pytest.raises(openai.AuthenticationError):
                await client.realtime.client_secrets.create()
            with pytest.raises(openai.AuthenticationError):
                await client.models.list()
        with pytest.raises(websockets.InvalidStatus):
            await connect(f"ws://{server.address}/v1/realtime", additional_headers={"Authorization": "Bearer ek_0"})

    with running(make_talker(speakers=("anna", "bob")), api_key="s3cret") as server:
        run(talk(server))


def test_keys_expire_and_are_bounded() -> None:
    now = [0.0]
    keys = ShortKeys(lambda: now[0])
    first, expires_at = keys.make("a", 10)
    assert (keys.find(first), expires_at) == ("a", 10)
    assert keys.find("ek_other") is None
    now[0] = 10.0
    assert keys.find(first) is None
    made = [keys.make(number, 10)[0] for number in range(1_100)]
    assert keys.find(made[0]) is None
    assert keys.find(made[-1]) == 1_099


# Bodies


def test_json_that_unpacks_to_too_much_is_not_unpacked(slow: Running) -> None:
    check_values(b'{"a": "' + b"x" * 1_000_000 + b'"}')
    with pytest.raises(RequestError, match="100000 values"):
        check_values("[" * 100_001)
    body = '{"messages": [' + "[]," * 200_000 + "[]]}"
    answer = httpx2.post(f"http://{slow.address}/v1/chat/completions", content=body)
    assert answer.status_code == 413
    assert "values" in answer.json()["error"]["message"]


def test_a_body_has_an_end() -> None:
    """Each piece comes soon enough, and together they would never end."""
    head = "POST /v1/chat/completions HTTP/1.1\r\nContent-Type: application/json\r\nContent-Length: 99\r\n"

    async def drip(server: Running) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(f"{head}Host: {server.address}\r\n\r\n".encode())
        reading = asyncio.create_task(reader.read())
        while not reading.done():
            writer.write(b" ")
            await asyncio.sleep(0.1)
        writer.close()
        return reading.result()

    with running(make_talker(), body_s=0.5) as server:
        told = run(drip(server))
    assert told.startswith(b"HTTP/1.1 408")
    assert b"the body took more than 0 s" in told or b"the body took more than 1 s" in told


@pytest.mark.parametrize(("proxies", "seen"), [((), "127.0.0.1"), (("127.0.0.1",), "203.0.113.9")])
def test_only_named_proxies_say_where_clients_come_from(proxies: tuple[str, ...], seen: str) -> None:
    with running(make_talker(), proxies=proxies) as server:
        httpx2.get(f"http://{server.address}/v1/models", headers={"X-Forwarded-For": "203.0.113.9"})
        assert list(server.state.rate._buckets) == [seen]
