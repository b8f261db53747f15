"""Calls by WebRTC: offers, a spoken turn, sound in real time, speaking over an answer, hanging up, refusals."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator
from typing import Any

import numpy as np
import pytest
from call_lab import LOUD, Caller, calling, loopback, post
from clients_lab import HEARD, STORY, stock_server
from openai import AsyncOpenAI
from serve_lab import MANUAL, Running, question, run, running
from tools_lab import scripted_talker

from anytalk.decode.jobs import Ended, Started
from anytalk.decode.telling import AnswerDone, AudioDelta, TextDelta

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.usefixtures("loopback")]
_ = loopback


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    with stock_server(max_columns=30) as found:
        yield found


def test_a_spoken_turn(server: Running) -> None:
    """Events as over a WebSocket, but for the sound, which comes by the track and is told in its own events."""

    async def talk() -> None:
        async with calling(server, audio={"input": {"transcription": {}}}) as caller:
            caller.microphone.say(question(rate_hz=48_000))
            await caller.until("input_audio_buffer.speech_started")
            await caller.until("input_audio_buffer.speech_stopped")
            assert "".join((await caller.until("response.done"))["response"]["output"][0]["content"][0]["transcript"])
            await caller.until("output_audio_buffer.stopped")
            await caller.wait(lambda: any(kind.endswith("transcription.completed") for kind in caller.types()))
            names = [name for name in caller.types() if "delta" not in name]
            order = ["response.content_part.added", "output_audio_buffer.started", "output_audio_buffer.stopped"]
            assert [name for name in names if name in order] == order
            assert names.index("response.done") < names.index("output_audio_buffer.stopped")
            assert "response.output_audio.delta" not in caller.types()
            completed = [event for event in caller.events if event["type"].endswith("transcription.completed")]
            assert [event["transcript"] for event in completed] == [HEARD]

    run(talk())


@pytest.fixture
def fast(server: Running, monkeypatch: pytest.MonkeyPatch) -> Running:
    """Its answers are a story, and three seconds of a tone, and both are there at once."""

    async def answer(*_: Any) -> AsyncGenerator[Any, None]:
        rate_hz = server.state.talker.codec.sample_rate_hz
        yield Started(1, 0)
        yield TextDelta(STORY)
        yield AudioDelta(np.sin(np.arange(3 * rate_hz) * 2 * np.pi * 440 / rate_hz).astype(np.float32) / 4)
        yield Ended(AnswerDone(STORY, "stop", 1, 1, 0.1, 0.1, 3.0), 1)

    monkeypatch.setattr(server.state.model, "answer", answer)
    return server


def test_sound_comes_in_real_time(fast: Running) -> None:
    """Though it is made at once: what is heard lasts as long as the answer."""

    async def talk() -> None:
        async with calling(fast) as caller:
            caller.ask("Tell me a story")
            await caller.until("response.done")
            assert caller.loud_s() < 1.0
            await caller.until("output_audio_buffer.stopped")
            await caller.wait(lambda: caller.loud_s() > 2.9)
            at = [when for loudness, when in caller.heard if loudness > LOUD]
            assert 2.5 < at[-1] - at[0] < 5.0

    run(talk())


def test_answers_are_played_one_after_another(fast: Running) -> None:
    async def talk() -> None:
        async with calling(fast, audio={"output": {"format": {"type": "audio/pcmu"}}}) as caller:
            caller.ask("Tell me a story")
            await caller.until("response.done")
            caller.ask("Another")
            for _ in range(2):
                await caller.until("output_audio_buffer.started")
                await caller.until("output_audio_buffer.stopped")
            await caller.wait(lambda: caller.loud_s() > 5.8)

    run(talk())


def test_speaking_over_an_answer_that_is_made_but_still_played(fast: Running) -> None:
    async def talk() -> None:
        async with calling(fast) as caller:
            caller.ask("Tell me a story")
            item = (await caller.until("response.done"))["response"]["output"][0]
            assert item["content"][0]["transcript"].strip() == STORY
            caller.microphone.say(question(rate_hz=48_000))
            await caller.until("input_audio_buffer.speech_started")
            await caller.until("output_audio_buffer.cleared")
            cut = await caller.until("conversation.item.truncated")
            assert cut["item_id"] == item["id"]
            caller.send("conversation.item.retrieve", item_id=item["id"])
            kept = (await caller.until("conversation.item.retrieved"))["item"]["content"][0]["transcript"]
            assert STORY.startswith(kept.strip())
            assert len(kept) < len(STORY) / 2
            await caller.until("output_audio_buffer.stopped")

    run(talk())


def test_speaking_over_an_answer_that_is_being_made(server: Running) -> None:
    async def talk() -> None:
        async with calling(server) as caller:
            caller.ask("Tell me a story")
            await caller.until("output_audio_buffer.started")
            caller.send("output_audio_buffer.clear")
            await caller.until("output_audio_buffer.cleared")
            assert (await caller.until("response.done"))["response"]["status"] == "cancelled"
            assert (await caller.until("conversation.item.truncated"))["audio_end_ms"] < 2_000
            caller.ask("Hello")
            assert (await caller.until("response.done"))["response"]["status"] != "cancelled"
            await caller.until("output_audio_buffer.stopped")

    run(talk())


def test_a_held_turn_is_what_was_said_last(server: Running) -> None:
    """The microphone never pauses: what came before the button was pressed is cleared."""

    async def talk() -> None:
        async with calling(server, **MANUAL) as caller:
            await asyncio.sleep(0.2)
            caller.send("input_audio_buffer.clear")
            await caller.until("input_audio_buffer.cleared")
            caller.microphone.say(question(rate_hz=48_000))
            await asyncio.sleep(1.0)
            caller.send("input_audio_buffer.commit")
            caller.send("response.create")
            await caller.until("input_audio_buffer.committed")
            text = (await caller.until("response.output_audio_transcript.done"))["transcript"]
            assert text.strip() == "You said it."
            caller.send("input_audio_buffer.append", audio="AAAA")
            assert "audio track" in (await caller.until("error"))["error"]["message"]

    run(talk())


def test_the_official_client_sends_the_offer(server: Running) -> None:
    async def talk() -> None:
        caller = Caller()
        async with AsyncOpenAI(api_key="any", base_url=f"http://{server.address}/v1") as client:
            session = {"type": "realtime", "model": "gpt-realtime", "instructions": "Be brief.", "tracing": "auto"}
            made = await client.realtime.calls.create(sdp=await caller.offer(), session=session)
            await caller.accept(made.response)
            greeting = await caller.until("session.created")
            assert greeting["session"]["instructions"] == "Be brief."
            assert greeting["anytalk"]["left_out"][0]["param"] == "session.tracing"
            await client.realtime.calls.hangup(caller.location.rpartition("/")[2])
        await caller.wait(lambda: caller.peer.connectionState == "closed")
        server.wait_until(lambda: server.state.admission.taken == 0)
        await caller.close()

    run(talk())


def test_who_may_call() -> None:
    """A page's short key opens one call, with the session that it was made for; the place is free when it is over."""

    async def talk(server: Running) -> None:
        assert (await post(server, "v=0", "wrong")).status_code == 401
        async with server.client("secret") as client:
            session = {"type": "realtime", "instructions": "Hi."}
            key = (await client.realtime.client_secrets.create(session=session)).value
            async with calling(server, key) as caller:
                assert caller.events[0]["session"]["instructions"] == "Hi."
                other = Caller()
                refused = await post(server, await other.offer(), key)
                await other.close()
                assert refused.status_code == 429
                assert refused.json()["error"]["code"] == "session_limit_reached"
            server.wait_until(lambda: server.state.admission.taken == 0)

    with running(scripted_talker(lambda _: "Yes."), "scripted", api_key="secret", max_sessions=1) as server:
        run(talk(server))


AUDIO = "m=audio 9 UDP/TLS/RTP/SAVPF 111\r\n"
CANDIDATE = "a=candidate:1 1 udp 1 10.0.0.1 1 typ host\r\n"
DATA = "m=application 9 UDP/DTLS/SCTP webrtc-datachannel\r\n"


@pytest.mark.parametrize(
    ("offer", "status", "said"),
    [
        ("hello", 400, "begin with v=0"),
        ("v=0\r\n", 400, "one audio track and one data channel"),
        (f"v=0\r\n{AUDIO}", 400, "createDataChannel"),
        (f"v=0\r\n{AUDIO}{DATA}m=video 9 UDP/TLS/RTP/SAVPF 96\r\n", 400, "has audio, application, video"),
        (f"v=0\r\n{AUDIO}a=sendonly\r\n{DATA}", 400, "sendrecv"),
        (f"v=0\r\n{AUDIO}{DATA}", 400, "can't be answered"),
        (f"v=0\r\n{AUDIO}{CANDIDATE * 65}{DATA}", 400, "64 candidates"),
        ("v=0\r\n" + "a" * 70_000, 413, "64 KiB"),
    ],
)
def test_offers_that_are_refused(server: Running, offer: str, status: int, said: str) -> None:
    async def talk() -> None:
        for session in ({}, {"instructions": "x"}):
            response = await post(server, offer, **session)
            assert (response.status_code, said in response.json()["error"]["message"]) == (status, True), response.text
        assert server.state.admission.taken == 0

    run(talk())
