"""A caller: aiortc as a browser would do it, over the loopback of this machine."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from fractions import Fraction
from typing import Any

import httpx2
import numpy as np
import pytest
from clients_lab import optional
from openai.types.realtime import RealtimeServerEvent
from pydantic import TypeAdapter
from serve_lab import PATIENCE_S, Running, pcm

aiortc, av, streams, ice = optional("aiortc", "av", "aiortc.mediastreams", "aioice.ice")
RATE_HZ, FRAME = 48_000, 960
LOUD = 0.003
"""Peak of 20 ms that aren't silence."""
_EVENT: TypeAdapter[Any] = TypeAdapter(RealtimeServerEvent)


@pytest.fixture
def loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    """Calls take no other network; aioice leaves the loopback out."""
    monkeypatch.setattr(ice, "get_host_addresses", lambda use_ipv4, use_ipv6: ["127.0.0.1"])


class Microphone(streams.MediaStreamTrack):  # type: ignore[misc]
    """Silence, and what is said, in real time."""

    kind = "audio"

    def __init__(self) -> None:
        super().__init__()
        self._waiting = np.zeros(0, np.float32)
        self._frames, self._began = 0, 0.0

    def say(self, wave: np.ndarray) -> None:
        """(n,) float32 at 48 kHz, after what is still being said."""
        self._waiting = np.concatenate([self._waiting, wave])

    async def recv(self) -> Any:
        now = time.monotonic()
        self._began = self._began or now
        await asyncio.sleep(max(0.0, self._began + self._frames * FRAME / RATE_HZ - now))
        piece, self._waiting = self._waiting[:FRAME], self._waiting[FRAME:]
        samples = np.frombuffer(pcm(np.pad(piece, (0, FRAME - len(piece)))), dtype="<i2")
        frame = av.AudioFrame.from_ndarray(samples[None], format="s16", layout="mono")
        frame.sample_rate, frame.time_base, frame.pts = RATE_HZ, Fraction(1, RATE_HZ), self._frames * FRAME
        self._frames += 1
        return frame


class Caller:
    """One call; every event is checked against OpenAI's types.

    Attributes:
        heard: (loudness of 20 ms that came, when), as far as the call has come.
    """

    def __init__(self) -> None:
        self.peer = aiortc.RTCPeerConnection(aiortc.RTCConfiguration(iceServers=[]))
        self.microphone = Microphone()
        self.channel = self.peer.createDataChannel("oai-events")
        self.events: list[dict[str, Any]] = []
        self.heard: list[tuple[float, float]] = []
        self.location = ""
        self._read = 0
        self._changed = asyncio.Event()
        self._listening: asyncio.Task[None] | None = None
        self.peer.addTrack(self.microphone)
        self.channel.on("message", self._take)
        self.peer.on("track", self._take_track)

    async def offer(self) -> str:
        await self.peer.setLocalDescription(await self.peer.createOffer())
        return str(self.peer.localDescription.sdp)

    async def accept(self, response: httpx2.Response) -> None:
        """Take the server's answer."""
        assert response.status_code == 201, response.text
        assert response.headers["content-type"] == "application/sdp"
        self.location = response.headers["location"]
        await self.peer.setRemoteDescription(aiortc.RTCSessionDescription(response.text, "answer"))

    def send(self, kind: str, **fields: Any) -> None:
        self.channel.send(json.dumps({"type": kind, **fields}))

    def ask(self, text: str) -> None:
        """A typed question, and its answer."""
        content = [{"type": "input_text", "text": text}]
        self.send("conversation.item.create", item={"type": "message", "role": "user", "content": content})
        self.send("response.create")

    async def until(self, *names: str) -> dict[str, Any]:
        """Read on to the next event of one of these types."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                while self._read == len(self.events):
                    self._changed.clear()
                    await self._changed.wait()
                event = self.events[self._read]
                self._read += 1
                if event["type"] in names:
                    return event
                assert event["type"] != "error", event

    async def wait(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while not condition():
                await asyncio.sleep(0.01)

    def types(self) -> list[str]:
        return [event["type"] for event in self.events]

    def loud_s(self) -> float:
        """Seconds of sound, other than silence, that were heard."""
        return sum(0.02 for loudness, _ in self.heard if loudness > LOUD)

    def _take(self, message: str) -> None:
        event = json.loads(message)
        _EVENT.validate_python(event)
        self.events.append(event)
        self._changed.set()

    def _take_track(self, track: Any) -> None:
        self._listening = asyncio.create_task(self._listen(track))

    async def _listen(self, track: Any) -> None:
        try:
            while True:
                frame = await track.recv()
                wave = frame.to_ndarray().astype(np.float32) / 32768
                self.heard.append((float(np.abs(wave).max()), time.monotonic()))
        except streams.MediaStreamError:
            pass

    async def close(self) -> None:
        await self.peer.close()
        if self._listening is not None:
            self._listening.cancel()
            await asyncio.gather(self._listening, return_exceptions=True)


@asynccontextmanager
async def calling(server: Running, key: str = "any", **session: Any) -> AsyncIterator[Caller]:
    """A call that stands, with the server's greeting; `session` goes along with the offer."""
    caller = Caller()
    try:
        await caller.accept(await post(server, await caller.offer(), key, **session))
        assert (await caller.until("session.created"))["session"]["id"]
        yield caller
    finally:
        await caller.close()


async def post(server: Running, offer: str, key: str = "any", **session: Any) -> httpx2.Response:
    """Send an offer: alone, or with a session in a form."""
    headers, url = {"Authorization": f"Bearer {key}"}, f"http://{server.address}/v1/realtime/calls"
    async with httpx2.AsyncClient(timeout=30) as client:
        if not session:
            return await client.post(url, content=offer, headers={**headers, "Content-Type": "application/sdp"})
        files = {"sdp": (None, offer), "session": (None, json.dumps({"type": "realtime", **session}))}
        return await client.post(url, files=files, headers=headers)
