"""Places, times, rates, keys and origins."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from typing import Any

import pytest
import websockets
from serve_lab import MANUAL, Running, begin_answer, forever, is_idle, run, running, slow_down, talking
from talkers import make_talker
from websockets.asyncio.client import connect

from anytalk.serve.limits import Admission


@pytest.fixture(scope="module")
def slow() -> Iterator[Running]:
    """Its answers take seconds; two may be given at a time."""
    with running(make_talker(), max_columns=300, max_sessions=2, max_frame_bytes=1 << 20) as found:
        slow_down(found)
        yield found


def test_a_full_server_says_so_and_a_place_comes_back(slow: Running) -> None:
    async def talk() -> None:
        one, two = await begin_answer(slow), await begin_answer(slow)
        third = await connect(f"ws://{slow.address}/v1/realtime")
        refused = json.loads(await third.recv())
        assert refused["error"]["code"] == "session_limit_reached"
        assert "all 2 places" in refused["error"]["message"]
        with pytest.raises(websockets.ConnectionClosed) as closed:
            await third.recv()
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1013
        async with slow.client() as client:
            import openai

            with pytest.raises(openai.RateLimitError, match="all 2 places"):
                await client.chat.completions.create(model="tiny", messages=[{"role": "user", "content": "x"}])
        await one.close()
        slow.wait_until(lambda: slow.state.admission.taken == 1)
        fourth = await connect(f"ws://{slow.address}/v1/realtime")
        assert json.loads(await fourth.recv())["type"] == "session.created"
        await fourth.close()
        await two.close()

    run(talk())
    slow.wait_until(lambda: is_idle(slow))


def test_who_leaves_a_full_server_may_come_back_at_once() -> None:
    """Whoever closes a connection knows it before the server has cleared up behind it."""

    async def talk(server: Running) -> None:
        for _ in range(10):
            connection = await connect(f"ws://{server.address}/v1/realtime")
            assert json.loads(await connection.recv())["type"] == "session.created"
            await connection.close()
        async with server.client() as client:
            for _ in range(5):
                await client.chat.completions.create(
                    model="tiny", messages=[{"role": "user", "content": "x"}], max_completion_tokens=2
                )

    with running(make_talker(), max_sessions=1) as server:
        run(talk(server))


@pytest.mark.serial
def test_a_newcomer_waits_a_moment_for_one_who_leaves() -> None:
    async def come(admission: Admission) -> float:
        asked = time.monotonic()
        await admission.wait_for_leaving()
        return time.monotonic() - asked

    async def leave(admission: Admission) -> None:
        with admission.place():
            newcomer = asyncio.create_task(come(admission))
            await asyncio.sleep(0.1)
            assert not newcomer.done()
        assert await newcomer < 0.4
        assert admission.taken == 0
        with admission.place():
            assert 0.4 < await come(admission) < 1.5, "who stays is not waited for"
            admission.is_closed = True
            assert await come(admission) < 0.1

    run(leave(Admission(1)))


@pytest.mark.parametrize(
    ("limits", "code"), [({"idle_s": 0.3}, "session_idle"), ({"session_s": 0.3}, "session_expired")]
)
def test_sessions_end_by_time(limits: dict[str, float], code: str) -> None:
    async def talk(server: Running) -> None:
        connection = await connect(f"ws://{server.address}/v1/realtime")
        told = [json.loads(await connection.recv()) for _ in range(2)]
        assert told[1]["error"]["code"] == code
        with pytest.raises(websockets.ConnectionClosedOK):
            await connection.recv()

    with running(make_talker(), **limits) as server:
        run(talk(server))
        server.wait_until(lambda: is_idle(server))


def test_too_many_events_and_requests() -> None:
    async def talk(server: Running) -> None:
        connection = await connect(f"ws://{server.address}/v1/realtime")

        async def clear() -> None:
            await connection.send(json.dumps({"type": "input_audio_buffer.clear"}))
            await connection.recv()

        with pytest.raises(websockets.ConnectionClosed) as closed:
            await forever(clear)
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1008
        statuses = []
        for _ in range(8):
            try:
                await (await connect(f"ws://{server.address}/v1/realtime")).close()
            except websockets.InvalidStatus as error:
                statuses.append(error.response.status_code)
        assert set(statuses) == {429}

    with running(make_talker(), events_per_second=5, requests_per_minute=20) as server:
        run(talk(server))


# Keys and places


def test_the_key_is_asked_for() -> None:
    import httpx2

    async def status(server: Running, **options: Any) -> int:
        try:
            async with connect(f"ws://{server.address}/v1/realtime", **options) as connection:
                assert json.loads(await connection.recv())["type"] == "session.created"
                if "subprotocols" in options:
                    assert connection.subprotocol == "realtime"
                return 101
        except websockets.InvalidStatus as error:
            return int(error.response.status_code)

    async def talk(server: Running) -> None:
        protocols = [websockets.Subprotocol(p) for p in ("realtime", "openai-insecure-api-key.s3cret")]
        wrong = [websockets.Subprotocol(p) for p in ("realtime", "openai-insecure-api-key.s3cre")]
        assert await status(server) == 401
        assert await status(server, additional_headers={"Authorization": "Bearer wrong"}) == 401
        assert await status(server, additional_headers={"Authorization": "Bearer s3cret"}) == 101
        assert await status(server, subprotocols=protocols) == 101
        assert await status(server, subprotocols=wrong) == 401
        page = f"http://{server.address}"
        assert await status(server, subprotocols=protocols, origin=page) == 101
        assert await status(server, subprotocols=protocols, origin="http://evil.example") == 403
        assert await status(server, subprotocols=protocols, origin="https://friend.example") == 101
        async with talking(server, key="s3cret", **MANUAL, max_output_tokens=4) as client:
            await client.type("hello")
            assert (await client.answer())[0].output
        with httpx2.Client(base_url=page) as http:
            assert http.get("/v1/models").status_code == 401
            assert http.get("/v1/models").headers["www-authenticate"] == "Bearer"
            assert http.get("/metrics").status_code == 401
            assert http.get("/health").status_code == 200
            assert http.get("/").status_code == 200
            assert http.get("/v1/models", headers={"Authorization": "Bearer s3cret"}).status_code == 200

    with running(make_talker(), api_key="s3cret", allow_origins=("https://friend.example",)) as server:
        run(talk(server))


def test_pages_that_are_let_in_may_also_read_the_answers() -> None:
    """Browsers ask first, without the key, and give a page nothing that the server doesn't say is for it."""
    import httpx2

    friend, allowed = "https://friend.example", "access-control-allow-origin"
    asking = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization,content-type"}
    with (
        running(make_talker(), api_key="s3cret", allow_origins=(friend,)) as server,
        httpx2.Client(base_url=f"http://{server.address}") as http,
    ):
        asked = http.options("/v1/chat/completions", headers={"Origin": friend, **asking})
        assert (asked.status_code, asked.headers[allowed]) == (200, friend)
        assert {"authorization", "content-type"} <= set(asked.headers["access-control-allow-headers"].split(","))
        refused = http.get("/v1/models", headers={"Origin": friend})
        assert (refused.status_code, refused.headers[allowed]) == (401, friend)
        told = http.get("/v1/models", headers={"Origin": friend, "Authorization": "Bearer s3cret"})
        assert (told.status_code, told.headers[allowed]) == (200, friend)
        evil = http.options("/v1/chat/completions", headers={"Origin": "http://evil.example", **asking})
        assert (evil.status_code, allowed in evil.headers) == (400, False)


def test_a_server_without_a_key_answers_to_this_machine_only(slow: Running) -> None:
    import httpx2

    with httpx2.Client(base_url=f"http://{slow.address}") as http:
        for headers, status in (
            ({}, 200),
            ({"Host": "localhost:80"}, 200),
            ({"Host": "rebound.example"}, 403),
            ({"Origin": "http://evil.example"}, 403),
            ({"Origin": "null"}, 403),
            ({"Origin": f"http://{slow.address}"}, 200),
        ):
            assert http.get("/v1/models", headers=headers).status_code == status, headers
