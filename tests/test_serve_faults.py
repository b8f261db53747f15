"""Clients that vanish, dawdle or send garbage; many at once; limits; the end of the server."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import resource
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
import websockets
from helpers import tiny_talker
from serve_lab import (
    ASK,
    MANUAL,
    Running,
    begin_answer,
    forever,
    is_idle,
    pcm,
    question,
    run,
    running,
    slow_down,
    talking,
)
from talkers import make_talker
from websockets.asyncio.client import connect

from anytalk.decode.engine import DecodeOptions
from anytalk.decode.session import Session
from anytalk.decode.telling import AnswerDone
from anytalk.model.talker import Talker


@pytest.fixture(scope="module")
def slow() -> Iterator[Running]:
    """Its answers take seconds; two may be given at a time."""
    with running(make_talker(), max_columns=300, max_sessions=2, max_frame_bytes=1 << 20) as found:
        slow_down(found)
        yield found


# Faults


def test_a_client_that_is_killed_in_the_middle(slow: Running) -> None:
    async def kill() -> None:
        connection = await begin_answer(slow)
        assert slow.state.admission.taken == 1
        connection.transport.abort()

    run(kill())
    slow.wait_until(lambda: is_idle(slow))


def test_garbage_and_huge_frames_concern_nobody_else(slow: Running) -> None:
    async def talk() -> None:
        async with talking(slow, **MANUAL, max_output_tokens=5) as good:
            bad = await connect(f"ws://{slow.address}/v1/realtime")
            for frame in (b"\xff\xfe", "\x00", "{", '{"type":' * 1000):
                await bad.send(frame)
            with contextlib.suppress(websockets.ConnectionClosed):  # closed while it is still being sent
                await bad.send("x" * (50 << 20))
            with pytest.raises(websockets.ConnectionClosed) as closed:
                await forever(bad.recv)
            assert closed.value.rcvd is None or closed.value.rcvd.code == 1009
            await good.type("still there?")
            response, _ = await good.answer()
            assert response.output

    run(talk())
    slow.wait_until(lambda: is_idle(slow))


def test_bytes_that_are_no_websocket(slow: Running) -> None:
    with socket.create_connection(("127.0.0.1", slow.port)) as plain:
        plain.sendall(os.urandom(4096) + b"\r\n\r\n")
        plain.settimeout(5)
        with contextlib.suppress(ConnectionError):
            assert b"400" in plain.recv(4096)


def handshake(server: Running) -> socket.socket:
    """A WebSocket without a client behind it: it answers no ping and reads nothing."""
    raw = socket.socket()
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    raw.connect(("127.0.0.1", server.port))
    key = base64.b64encode(os.urandom(16)).decode()
    raw.sendall(
        f"GET /v1/realtime HTTP/1.1\r\nHost: {server.address}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
    )
    return raw


def frame(event: dict[str, Any]) -> bytes:
    """A masked text frame."""
    data = json.dumps(event).encode()
    assert len(data) < 65_536
    head = (
        bytes([0x81, 0x80 | 126]) + len(data).to_bytes(2, "big") if len(data) > 125 else bytes([0x81, 0x80 | len(data)])
    )
    return head + bytes(4) + data


def test_half_open_and_slow_clients_lose_their_places() -> None:
    """One never answers pings, one asks and never reads; the third isn't disturbed."""

    async def talk(server: Running) -> None:
        async with talking(server, **MANUAL, max_output_tokens=5) as good:
            for _ in range(3):
                await good.type("still there?")
                response, _ = await good.answer()
                assert response.output
                await asyncio.sleep(0.1)

    limits = {"send_timeout_s": 0.5, "max_unsent_bytes": 400_000}
    with running(make_talker(), max_columns=600, max_sessions=3, **limits) as server:
        half_open, slow = handshake(server), handshake(server)
        slow.sendall(frame(ASK))
        for number in range(40):  # what it is told of itself alone is more than it may leave lying
            slow.sendall(
                frame(
                    {
                        **ASK,
                        "item": {
                            **ASK["item"],
                            "id": f"i{number}",
                            "content": [{"type": "input_text", "text": "x" * 15_000}],
                        },
                    }
                )
            )
        slow.sendall(frame({"type": "response.create"}))
        run(talk(server))
        server.wait_until(lambda: is_idle(server), 8.0)
        assert server.state.metrics.dropped._value.get() == 1
        # Not only their places: their connections are gone, too, though they never closed them.
        server.wait_until(lambda: not server.server.server_state.connections, 8.0)
        half_open.close()
        slow.close()


# Many


def test_each_of_eight_gets_the_answer_to_its_own_question() -> None:
    talker = make_talker(prompt="raw", merge="mean")
    questions = ["one", "seven?", "the sea", "A", "zebra crossing", "why not", "42", "good night"]
    expected = [alone(talker, text) for text in questions]
    assert len(set(expected)) >= 4

    async def one(server: Running, text: str) -> list[str]:
        async with talking(server, **MANUAL) as client:
            found = []
            for _ in range(2):
                item = await client.type(text)
                response, sound = await client.answer()
                assert sound
                found.append(response.output[0].content[0].transcript)
                items = client.connection.conversation.item
                for old in (item.id, response.output[0].id):
                    await items.delete(item_id=old)
                    await client.until("conversation.item.deleted")
            return found

    async def all_of_them(server: Running) -> list[list[str]]:
        return await asyncio.gather(*(one(server, text) for text in questions))

    with running(talker) as server:
        found = run(all_of_them(server))
        columns, rounds = server.state.metrics.columns._value.get(), server.state.metrics.rounds._value.get()
    assert found == [[text, text] for text in expected]
    assert columns / rounds > 2, "they were not answered together"


def alone(talker: Talker, text: str) -> str:
    *_, done = Session(talker).ask(text=text, options=DecodeOptions(max_columns=24))
    assert isinstance(done, AnswerDone)
    return done.text


def test_a_backbone_that_raises_for_one_row_ends_one_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where a row runs out of positions: the others, who share its steps, hear what they would hear alone."""
    talker = make_talker(prompt="raw", merge="mean")
    expected = [alone(talker, text) for text in ("seven?", "the sea")]
    backbone, limit = talker.model.backbone, 150
    forward, raised = backbone.forward, []

    def short_of_positions(embeds: Any, cache: Any = None) -> Any:
        if cache is not None and cache.length + embeds.shape[1] > limit:
            raised.append(len(embeds))
            raise IndexError("index out of range in self")
        return forward(embeds, cache)

    monkeypatch.setattr(backbone, "forward", short_of_positions)

    async def one(server: Running, text: str) -> Any:
        async with talking(server, **MANUAL) as client:
            await client.type(text)
            response, _ = await client.answer()
            return response

    async def all_of_them(server: Running) -> list[Any]:
        return await asyncio.gather(*(one(server, text) for text in ("x" * (limit - 10), "seven?", "the sea")))

    with running(talker) as server:
        slow_down(server)
        long, *others = run(all_of_them(server))
        assert long.status == "failed"
        assert "the model failed: IndexError" in str(long.status_details.error)
        assert [response.output[0].content[0].transcript for response in others] == expected
        assert max(raised) > 2, "it was not alone when it failed"
        server.wait_until(lambda: is_idle(server))
        assert run(one(server, "seven?")).output[0].content[0].transcript == expected[0]


def test_memory_is_flat_over_many_turns() -> None:
    async def talk(server: Running) -> list[int]:
        sizes = []
        async with talking(server, **MANUAL, output_modalities=["text"], max_output_tokens=3) as client:
            for turn in range(200):
                await client.type(f"turn {turn}")
                await client.answer()
                if turn % 50 == 49:
                    sizes.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
                client.events.clear()
        return sizes

    with running(make_talker(), max_items=20, max_context_columns=300, events_per_second=10_000) as server:
        sizes = run(talk(server))
    assert sizes[-1] - sizes[0] < 20_000, f"kilobytes after 50, 100, 150, 200 turns: {sizes}"


# The end


def test_running_answers_end_before_the_server_does() -> None:
    async def talk(server: Running) -> None:
        async with talking(server, **MANUAL, max_output_tokens=30) as client:
            await client.type("last words")
            await client.connection.response.create()
            await client.until("response.output_audio.delta")
            server.server.drain()
            refused = await connect(f"ws://{server.address}/v1/realtime")
            assert json.loads(await refused.recv())["error"]["code"] == "server_shutting_down"
            done = await client.until("response.done")
            assert done.response.status == "incomplete"
            with pytest.raises(websockets.ConnectionClosed) as closed:
                await forever(client.next)
            assert closed.value.rcvd is not None
            assert closed.value.rcvd.code == 1001

    with running(make_talker(), max_columns=300) as server:
        slow_down(server)
        run(talk(server))
        server.wait_until(lambda: server.server.should_exit)


def test_answers_that_take_too_long_are_ended_in_words() -> None:
    """When the time for running answers is over, nobody's answer just breaks off."""

    async def stream(server: Running) -> None:
        async with server.client() as client:
            asked = [{"role": "user", "content": "a long story"}]
            async for _ in await client.chat.completions.create(model="tiny", messages=asked, stream=True):  # type: ignore[arg-type,union-attr]
                pass

    async def talk(server: Running) -> None:
        async with talking(server, **MANUAL) as client:
            await client.type("a long story")
            await client.connection.response.create()
            await client.until("response.output_audio.delta")
            streaming = asyncio.create_task(stream(server))
            await asyncio.sleep(0.3)
            server.server.drain()
            done = await client.until("response.done")
            assert done.response.status == "failed"
            assert "shutting down" in str(done.response.status_details.error)
            with pytest.raises(websockets.ConnectionClosed) as closed:
                await forever(client.next)
            assert closed.value.rcvd is not None
            assert closed.value.rcvd.code == 1001
            with pytest.raises(openai.APIError, match="shutting down"):
                await streaming

    with running(make_talker(), max_columns=3000, drain_s=0.5) as server:
        slow_down(server, 0.05)
        run(talk(server))
        server.wait_until(lambda: server.server.should_exit)


def test_sigterm_and_the_command(tmp_path: Path) -> None:
    tiny_talker(tmp_path / "tiny", "grid.prompt=chat")
    command = [sys.executable, "-W", "error::ResourceWarning", "-m", "anytalk", "serve", str(tmp_path / "tiny")]
    process = subprocess.Popen(
        [*command, "--port", "0", "--max-columns", "300", "--threads", "1"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        page, api = process.stdout.readline(), process.stdout.readline()
        assert page.startswith("page  http://127.0.0.1:")
        assert api.strip().endswith("/v1")
        address = api.split()[1].removeprefix("http://").removesuffix("/v1")

        async def talk() -> list[str]:
            types = []
            async with connect(f"ws://{address}/v1/realtime") as connection:
                await connection.send(json.dumps(ASK))
                await connection.send(json.dumps({"type": "response.create"}))
                with contextlib.suppress(websockets.ConnectionClosed):
                    while True:
                        types.append(json.loads(await connection.recv())["type"])
                        if types.count("response.output_audio.delta") == 1 and types[-1].endswith("audio.delta"):
                            process.send_signal(signal.SIGTERM)
                assert connection.close_code in (1001, 1012)
            return types

        assert run(talk())[-1] == "response.done"
        assert process.wait(timeout=20) in (0, -signal.SIGTERM)
        errors = process.stderr.read() if process.stderr else ""
        assert "Traceback" not in errors
        assert "microphone" in errors
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        for pipe in (process.stdout, process.stderr):
            if pipe is not None:
                pipe.close()


def test_spoken_questions_side_by_side() -> None:
    """Ears, voices and turn detection of several clients at once."""

    async def one(server: Running, number: int) -> str:
        async with talking(server, max_output_tokens=10) as client:
            await client.say(pcm(question(number)), piece_ms=40)
            done = await client.until("response.done")
            return str(done.response.output[0].content[0].transcript)

    async def all_of_them(server: Running) -> list[str]:
        return await asyncio.gather(*(one(server, number) for number in (1, 2, 3, 1, 2, 3)))

    with running(make_talker(prompt="raw", merge="mean")) as server:
        found = run(all_of_them(server))
    assert found[:3] == found[3:]
