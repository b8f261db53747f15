"""What one session can't do to the server, and what a mistake of the server doesn't do to a session."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import socket
import threading
from collections.abc import Iterator
from contextlib import suppress

import httpx2
import pytest
import serve_lab
from serve_lab import MANUAL, SMALL, Running, is_idle, num_answers, pcm, question, run, running, slow_down, talking
from talkers import make_talker
from websockets.asyncio.client import connect

from anytalk.serve.realtime import session
from anytalk.serve.settings import ServeSettings, open_socket

SPOKEN = pcm(question()[12_000 : 12_000 + 24_000])
EVENT = "conversation.item.input_audio_transcription"


class Complaints(logging.Handler):
    """What operators are told; uvicorn's loggers let nothing through to others'."""

    def __init__(self) -> None:
        super().__init__()
        self.of: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.of.append(record.getMessage())

    def begin(self) -> None:
        """A server sets its loggers up when it is made."""
        logging.getLogger("uvicorn.error").addHandler(self)


@pytest.fixture
def complaints() -> Iterator[Complaints]:
    found = Complaints()
    yield found
    logging.getLogger("uvicorn.error").removeHandler(found)


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    with running(make_talker(), max_unheard_s=3.0) as found:
        yield found


def test_transcripts_are_written_one_after_another() -> None:
    """However fast a client commits turns: they are rows of the batch that everybody shares."""
    at_once: list[int] = []

    async def talk(server: Running) -> None:
        heard = {"turn_detection": None, "transcription": {}}
        async with talking(server, audio={"input": heard}) as client:
            ids = []
            for _ in range(20):
                await client.say(SPOKEN)
                await client.connection.input_audio_buffer.commit()
                ids.append((await client.until("input_audio_buffer.committed")).item_id)
                at_once.append(num_answers(server.state.model))
            over = [e for e in client.events if e.type in (f"{EVENT}.completed", f"{EVENT}.failed")]
            while len(over) < 20:
                over.append(await client.until(f"{EVENT}.completed", f"{EVENT}.failed"))
            assert {event.item_id for event in over} == set(ids)
            failed = [event.error for event in over if event.type == f"{EVENT}.failed"]
            assert {error.code for error in failed} == {"rate_limit_exceeded"}
            assert "wait for their transcripts" in failed[0].message
            done = [event.item_id for event in over if event.type == f"{EVENT}.completed"]
            assert len(done) >= 16
            assert done == [item for item in ids if item in done], "in the order in which they were spoken"

    with running(make_talker(), max_columns=6) as server:
        slow_down(server, 0.05)
        run(talk(server))
        server.wait_until(lambda: num_answers(server.state.model) == 0)
    assert max(at_once) == 1


def test_transcripts_end_with_their_session(server: Running) -> None:
    async def talk() -> None:
        async with talking(server, audio={"input": {"turn_detection": None, "transcription": {}}}) as client:
            for _ in range(2):
                await client.say(SPOKEN)
                await client.connection.input_audio_buffer.commit()
                await client.until("input_audio_buffer.committed")

    run(talk())
    server.wait_until(lambda: server.state.admission.taken == 0 and num_answers(server.state.model) == 0)


def test_a_mistake_of_the_server_is_told_and_the_session_goes_on(
    server: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def talk() -> None:
        async with talking(server, **MANUAL, **SMALL) as client:
            with monkeypatch.context() as broken:
                broken.setattr(session, "read_item", lambda *_: 1 / 0)
                item = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "x"}]}
                await client.connection.conversation.item.create(item=item)
                error = await client.error()
                assert (error.type, error.code) == ("server_error", "internal_error")
                assert "ZeroDivisionError" in error.message
            await client.type("still there? \U0001f600")
            response, _ = await client.answer()
            assert response.output

    run(talk())


def test_speech_that_nobody_asks_about_has_a_limit(server: Running) -> None:
    part = {"type": "input_audio", "audio": base64.b64encode(SPOKEN).decode()}
    item = {"type": "message", "role": "user", "content": [part]}

    async def talk() -> None:
        async with talking(server, **MANUAL, **SMALL) as client:
            items = client.connection.conversation.item
            for _ in range(3):
                await items.create(item=item)
                await client.until("conversation.item.done")
            await items.create(item=item)
            assert (await client.error()).code == "audio_too_long"
            await client.say(SPOKEN)
            await client.connection.input_audio_buffer.commit()
            assert "more than 3 s of speech wait for an answer" in (await client.error()).message
            # What was listened to takes little room.
            response, _ = await client.answer()
            assert response.output
            await items.create(item=item)
            await client.until("conversation.item.done")

    run(talk())


def test_an_answer_stands_behind_what_it_answers(server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """Though the next question is there before the answer begins; and the next question is answered, too."""
    prepare, may_begin = server.state.model._rounds._prepare, threading.Event()
    monkeypatch.setattr(server.state.model._rounds, "_prepare", lambda: (may_begin.wait(10), prepare()))

    async def talk() -> None:
        async with talking(server, **MANUAL, **SMALL) as client:
            first = await client.type("one")
            await client.connection.response.create()
            await client.until("response.created")
            await client.type("two")
            may_begin.set()
            added = await client.until("conversation.item.added")
            assert (added.item.role, added.previous_item_id) == ("assistant", first.id)
            await client.until("response.done")
            response, _ = await client.answer()
            assert response.output, "the second question is the last turn"

    run(talk())


def test_a_model_thread_that_ends_tells_everybody(monkeypatch: pytest.MonkeyPatch) -> None:
    async def talk(server: Running) -> None:
        async with talking(server, **MANUAL) as client:
            await client.type("hello")
            monkeypatch.setattr(server.state.model._heap, "give_back", lambda **_: 1 / 0)
            monkeypatch.setattr(server.state.model._rounds, "_drop_cancelled", lambda: 1 / 0)
            for _ in range(2):
                response, _ = await client.answer()
                assert response.status == "failed"
                assert "thread failed: ZeroDivisionError" in str(response.status_details.error)

    with running(make_talker()) as server:
        run(talk(server))
        health = httpx2.get(f"http://{server.address}/health")
        assert (health.status_code, health.json()["status"]) == (503, "failed")


def test_who_reads_nothing_of_an_http_answer_loses_its_place(
    monkeypatch: pytest.MonkeyPatch, complaints: Complaints
) -> None:
    """What the system buffers for it must be less than the answer."""

    def narrow(settings: ServeSettings) -> socket.socket:
        listening = open_socket(settings)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        return listening

    monkeypatch.setattr(serve_lab, "open_socket", narrow)
    asked = {"messages": [{"role": "user", "content": "a long story"}], "modalities": ["text", "audio"]}
    body = json.dumps({**asked, "audio": {"format": "pcm16"}, "stream": True}).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
    with running(make_talker(), max_columns=400, send_timeout_s=0.3) as server, socket.socket() as raw:
        complaints.begin()
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        raw.connect(("127.0.0.1", server.port))
        raw.sendall(f"{head}Host: {server.address}\r\n\r\n".encode() + body)
        server.wait_until(lambda: server.state.admission.taken == 1)
        server.wait_until(lambda: is_idle(server), 10.0)
        cancelled = server.state.metrics.answers.labels("cancelled")._value.get()
        server.wait_until(lambda: not server.server.server_state.connections)
    assert cancelled == 1, "it was not sent to its end"
    assert complaints.of == [], "nothing that an operator should be told"


def test_who_asks_nothing_is_not_waited_for(complaints: Complaints) -> None:
    with running(make_talker(), send_timeout_s=0.3) as server:
        complaints.begin()
        for begun in (b"", b"GET /health HTT"):
            with socket.create_connection(("127.0.0.1", server.port), timeout=5) as raw:
                raw.sendall(begun)
                with suppress(ConnectionResetError):
                    assert raw.recv(1) == b""
        # Not so a WebSocket, which is quiet for longer and answers pings.
        run(quietly(server, 0.8))
    assert complaints.of == []


def test_a_body_that_does_not_come_is_not_waited_for() -> None:
    head = "POST /v1/chat/completions HTTP/1.1\r\nContent-Type: application/json\r\nContent-Length: 99\r\n"
    with (
        running(make_talker(), send_timeout_s=0.3) as server,
        socket.create_connection(("127.0.0.1", server.port), timeout=5) as raw,
    ):
        raw.sendall(f'{head}Host: {server.address}\r\n\r\n{{"messages"'.encode())
        told = b""
        while piece := raw.recv(4096):
            told += piece
    assert told.startswith(b"HTTP/1.1 408")
    assert b"connection: close" in told.lower(), "or it would wait for another request behind half a body"
    assert b"request_timeout" in told


async def quietly(server: Running, seconds: float) -> None:
    async with talking(server, **SMALL) as client:
        await asyncio.sleep(seconds)
        await client.type("still there?")


def test_who_is_refused_and_does_not_wait_for_it_is_no_failure(complaints: Complaints) -> None:
    async def talk(server: Running) -> None:
        with server.state.admission.place():
            hasty = await connect(f"ws://{server.address}/v1/realtime")
            hasty.transport.abort()
            await asyncio.sleep(0.8)

    with running(make_talker(), max_sessions=1) as server:
        complaints.begin()
        run(talk(server))
    assert complaints.of == []
