"""Run one call over WebRTC: sound uses an audio track, events a data channel. Needs aiortc."""

from __future__ import annotations

import asyncio
import logging
from fractions import Fraction
from typing import Any

import numpy as np
from aiortc import RTCConfiguration, RTCDataChannel, RTCPeerConnection, RTCSessionDescription
from aiortc.exceptions import InvalidStateError
from aiortc.mediastreams import MediaStreamError, MediaStreamTrack
from aiortc.rtcconfiguration import RTCBundlePolicy
from av import AudioFrame

from anytalk.errors import AnytalkError
from anytalk.grid.audio import to_pcm16
from anytalk.serve.errors import RequestError, of_ours
from anytalk.serve.questions import new_id
from anytalk.serve.realtime.playing import FRAME, TRACK_RATE_HZ, PlayingOutbox
from anytalk.serve.realtime.session import RealtimeSession
from anytalk.serve.realtime.transport import ClientGoneError, Transport
from anytalk.serve.settings import ServeSettings
from anytalk.serve.sound import WireEncoder

log = logging.getLogger("anytalk.serve")
_FRAME_S = FRAME / TRACK_RATE_HZ
_LATE_S = 0.1
"""If playback is later than this, its clock is reset, so that it doesn't catch up by playing faster."""
_MAX_MESSAGES = 1_000
"""Limit of unread messages; a client that sends more is cut off."""
_MAX_BUFFERED_BYTES = 256 << 10  # in the data channel, before sending waits
_LOOK_S = 0.01


class Call(Transport):
    """Connects a session to a client that calls.

    Attributes:
        id: Id of the call, which its address contains.
        sdp: The answer to the client's offer.
    """

    outbox: PlayingOutbox
    has_track = True

    def __init__(self, settings: ServeSettings) -> None:
        self.id, self.sdp = new_id("rtc"), ""
        self.outbox = PlayingOutbox(self._send, settings.max_unsent_bytes, settings.send_timeout_s)
        self._max_message_bytes = settings.max_frame_bytes
        # Without STUN servers, nobody but the client learns of a call.
        configuration = RTCConfiguration(iceServers=[], bundlePolicy=RTCBundlePolicy.MAX_BUNDLE)
        self._peer = RTCPeerConnection(configuration)
        self._channel: asyncio.Future[RTCDataChannel] = asyncio.get_running_loop().create_future()
        self._messages: asyncio.Queue[str | None] = asyncio.Queue(_MAX_MESSAGES)
        self._gone = asyncio.Event()
        self._heard: Any = None  # the client's track, if it has one
        self._peer.on("connectionstatechange", self._look_at_state)
        self._peer.on("track", self._take_track)
        self._peer.on("datachannel", self._take_channel)

    async def answer(self, offer: str) -> None:
        """Answer an offer; RequestError if it can't be answered."""
        try:
            await self._peer.setRemoteDescription(RTCSessionDescription(offer, "offer"))
            self._peer.addTrack(_Track(self.outbox))
            await self._peer.setLocalDescription(await self._peer.createAnswer())
        except Exception as error:  # the SDP parser may raise anything
            await self._peer.close()
            said = f"the offer can't be answered ({type(error).__name__}); it must be an offer as browsers make it"
            raise RequestError(said, "invalid_sdp", "sdp") from None
        self.sdp = self._peer.localDescription.sdp

    async def run(self, session: RealtimeSession) -> None:
        """Serve the client until one side ends the call."""
        listening = asyncio.create_task(self._listen(session))
        try:
            await session.run()
        finally:
            listening.cancel()
            await asyncio.gather(listening, return_exceptions=True)
            await self._peer.close()

    def hang_up(self) -> None:
        """End the call; must be called from the event loop."""
        self._gone.set()

    # ---- the session's side

    async def receive(self) -> str | None:
        getting = asyncio.create_task(self._messages.get())
        leaving = asyncio.create_task(self._gone.wait())
        try:
            await asyncio.wait([getting, leaving], return_when=asyncio.FIRST_COMPLETED)
            if not getting.done():
                raise ClientGoneError
            return getting.result()
        finally:
            getting.cancel()
            leaving.cancel()

    async def close(self, code: int, reason: str) -> None:
        if not self._gone.is_set() and self._channel.done():
            channel = self._channel.result()
            while channel.bufferedAmount and channel.readyState == "open":
                await asyncio.sleep(_LOOK_S)
        await self._peer.close()

    async def _send(self, text: str) -> None:
        # A send that times out must not cancel the future that all sends wait for.
        channel = await asyncio.shield(self._channel)
        while channel.bufferedAmount > _MAX_BUFFERED_BYTES and channel.readyState == "open":
            await asyncio.sleep(_LOOK_S)
        try:
            channel.send(text)
        except InvalidStateError:
            raise ClientGoneError from None
        except ValueError:  # larger than the client accepts; browsers would close the channel
            name = text.partition(",")[0].partition(":")[2].strip('"{ ')
            log.warning("an event %s of %d bytes is too large for a call's data channel", name, len(text))

    # ---- the client's side

    def _look_at_state(self) -> None:
        if self._peer.connectionState in ("failed", "closed"):
            self._gone.set()

    def _take_track(self, track: Any) -> None:
        self._heard = track

    def _take_channel(self, channel: RTCDataChannel) -> None:
        if self._channel.done():  # only the first channel counts, whatever its name
            return
        channel.on("message", self._take_message)
        channel.on("close", self._gone.set)
        self._channel.set_result(channel)

    def _take_message(self, message: str | bytes) -> None:
        if self._messages.full() or len(message) > self._max_message_bytes:
            self._gone.set()
        else:
            # None stands for a binary message.
            self._messages.put_nowait(message if isinstance(message, str) else None)

    async def _listen(self, session: RealtimeSession) -> None:
        """Pass the sound of the client's track to the session until the track ends."""
        made_for, encoder = None, None
        try:
            while self._heard is not None:
                frame = await self._heard.recv()
                wanted = frame.sample_rate, session.buffer.wire
                # The client may change the format during the call.
                if encoder is None or made_for != wanted:
                    made_for, encoder = wanted, WireEncoder(*wanted)
                try:
                    await session.hear(encoder.push(_mono(frame)))
                except RequestError as error:
                    session.complain(error)
                except AnytalkError as error:
                    session.complain(of_ours(error))
        except MediaStreamError:
            pass
        except Exception as error:
            log.error("a call's sound can't be heard", exc_info=error)
            self.hang_up()


class _Track(MediaStreamTrack):
    """Plays the sound that the client hears, as a frame every 20 ms, with silence if there is no sound."""

    kind = "audio"

    def __init__(self, outbox: PlayingOutbox) -> None:
        super().__init__()
        self._outbox = outbox
        self._due, self._frames = 0.0, 0

    async def recv(self) -> AudioFrame:
        if self.readyState != "live":
            raise MediaStreamError
        now = asyncio.get_running_loop().time()
        # Skip lost time instead of catching up.
        if now - self._due > _LATE_S:
            self._due = now
        await asyncio.sleep(max(0.0, self._due - now))
        self._due += _FRAME_S
        samples = np.frombuffer(to_pcm16(self._outbox.frame()), dtype="<i2")
        frame = AudioFrame.from_ndarray(samples[None], format="s16", layout="mono")
        frame.sample_rate, frame.time_base = TRACK_RATE_HZ, Fraction(1, TRACK_RATE_HZ)
        frame.pts = self._frames * FRAME
        self._frames += 1
        return frame


def _mono(frame: AudioFrame) -> np.ndarray:
    """Convert an interleaved 16-bit frame to mono samples (n,) float32."""
    samples = frame.to_ndarray().reshape(-1, len(frame.layout.channels))
    return np.asarray(samples.mean(axis=1) / 32768, dtype=np.float32)
