"""Run a session of the Realtime protocol with one client: client events in, server events out.

Three tasks work for it: one reads, one sends (so that a slow client delays no other), and one watches the time. The
model runs in a thread of its own, and nothing here waits for it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from anytalk.decode.memory import Memory
from anytalk.errors import AnytalkError
from anytalk.grid.audio import joined
from anytalk.serve.errors import RequestError, of_ours
from anytalk.serve.limits import TokenBucket
from anytalk.serve.questions import SILENCE, check_unheard, from_base64, new_id, speech_of
from anytalk.serve.realtime import events as e
from anytalk.serve.realtime.hearing_ahead import HearingAhead
from anytalk.serve.realtime.input_buffer import InputBuffer
from anytalk.serve.realtime.items import Conversation, Item, read_item
from anytalk.serve.realtime.outbox import SlowClientError
from anytalk.serve.realtime.planning import transcript_question
from anytalk.serve.realtime.response import Response
from anytalk.serve.realtime.responses import Responses
from anytalk.serve.realtime.session_options import SessionOptions
from anytalk.serve.realtime.transcribing import Transcripts
from anytalk.serve.realtime.transport import ClientGoneError, Transport
from anytalk.serve.realtime.updates import LeftOut, told, updated
from anytalk.serve.realtime.vad import VAD_RATE_HZ
from anytalk.serve.sound import KeptSound, WireDecoder
from anytalk.serve.state import ServerState

log = logging.getLogger("anytalk.serve")
_TICK_S = 0.1
_PIECE_MS = 100
"""Sound is processed in pieces of this length, so that a long append doesn't delay other clients."""
_SHOWN_S_PER_S = 10.0
"""Seconds of the user's sound that may be retrieved per second; a burst may be twice what is kept."""

GOING_AWAY, TOO_SLOW, POLICY, TRY_LATER = 1001, 1008, 1008, 1013


class RealtimeSession:
    """Serves one client.

    Args:
        transport: Connection to the client.
        options: Options of the session until the client changes them.
        left_out: Options that the client requested with the connection and doesn't get.
    """

    def __init__(
        self, state: ServerState, transport: Transport, options: SessionOptions, left_out: Sequence[LeftOut] = ()
    ) -> None:
        self.state, self.transport, self.settings = state, transport, state.settings
        self.id = new_id("sess")
        self.options, self._left_out = options, left_out
        self.conversation = Conversation(self.settings.max_items, self.settings.max_sound_s)
        self.memory = Memory()
        self.outbox = transport.outbox
        self.transcripts = Transcripts(state, self.outbox)
        self.buffer = InputBuffer(
            self.options.input_format(), self._vad(), state.max_turn_s, keeps_latest=transport.has_track
        )
        self.ahead = HearingAhead(state, self.buffer, self.options.ears(state.talker))
        self.responses = Responses(state, self.outbox, self.conversation, self.memory, self._response_is_over)
        self._answers_next = False
        self._turn_item = new_id("item")
        self._began = self._last_word = time.monotonic()
        self._quiet_since = time.monotonic()
        self._rate = TokenBucket(self.settings.events_per_second, 10 * self.settings.events_per_second)
        self._shown_s = TokenBucket(_SHOWN_S_PER_S, 2 * self.settings.max_sound_s)
        self._handlers: dict[type[e.ClientEvent], Callable[[Any], None]] = {
            e.SessionUpdate: self._update,
            e.Commit: lambda _: self._commit(),
            e.Clear: self._clear,
            e.OutputClear: self._output_clear,
            e.ItemCreate: self._create_item,
            e.ItemTruncate: self._truncate,
            e.ItemDelete: self._delete,
            e.ItemRetrieve: self._retrieve,
            e.ResponseCreate: lambda event: self._respond(event.response or e.ResponseOptions()),
            e.ResponseCancel: self._cancel,
        }

    async def run(self) -> None:
        """Serve the client until one side ends the session."""
        self.outbox.put("session.created", session=self._shown(), **told(self._left_out))
        sender = asyncio.create_task(self.outbox.run())
        others = [asyncio.create_task(self._read()), asyncio.create_task(self._watch())]
        code, reason = 1000, ""
        try:
            done, _ = await asyncio.wait([sender, *others], return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                error = task.exception()
                if isinstance(error, _End):
                    code, reason = error.code, str(error)
                    if error.error is not None:
                        self.complain(error.error)
                elif isinstance(error, SlowClientError):
                    code, reason = TOO_SLOW, "the client takes too slowly"
                    self.state.metrics.dropped.inc()
                elif error is not None and not isinstance(error, ClientGoneError):
                    log.error("a session failed", exc_info=error)
                    code, reason = 1011, "internal error"
        finally:
            self.responses.abandon()
            for task in others:
                task.cancel()
            await self.transcripts.close()
            await self._say_goodbye(sender, code, reason)
            await asyncio.gather(sender, *others, return_exceptions=True)
            self.memory.close()

    async def _say_goodbye(self, sender: asyncio.Task[None], code: int, reason: str) -> None:
        """Send what is queued and close the connection, without waiting long for a client that is slow or gone."""
        self.outbox.close()
        if not sender.done():
            await asyncio.wait([sender], timeout=1.0)
            sender.cancel()
        with suppress(TimeoutError):
            await asyncio.wait_for(self.transport.close(code, reason[:120]), 1.0)  # WebSocket allows 123 bytes

    # ---- the three tasks

    async def _read(self) -> None:
        while True:
            text = await self.transport.receive()
            self._last_word = time.monotonic()
            if not self._rate.take():
                said = f"more than {self.settings.events_per_second} events a second"
                raise _End(POLICY, said, RequestError(said, "rate_limit_exceeded", status=429))
            if text is None:
                self.complain(RequestError("binary messages are not part of the protocol; send JSON", "invalid_json"))
                continue
            await self._handle(text)

    async def _handle(self, text: str) -> None:
        try:
            event = e.read_event(text)
        except e.EventError as error:
            self.complain(error.error, error.event_id)
            return
        try:
            if isinstance(event, e.Append):
                await self._append(event)
            else:
                self._handlers[type(event)](event)
        except RequestError as error:
            self.complain(error, event.event_id)
        except AnytalkError as error:
            self.complain(of_ours(error), event.event_id)
        except Exception as error:
            # A bug of the server; the session continues, so that the conversation isn't lost.
            log.error("the event %s failed", event.type, exc_info=error)
            said = f"the server failed: {type(error).__name__}"
            self.complain(RequestError(said, "internal_error", status=500), event.event_id)

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(_TICK_S)
            now = time.monotonic()
            self._tell_certain()
            busy = self.responses.is_busy
            if self.state.admission.is_closed and not busy:
                raise _End(GOING_AWAY, "the server is shutting down")
            if now - self._began > self.settings.session_s:
                self._end_by_time("session_expired", f"a session lasts {self.settings.session_s:.0f} s at most")
            if now - self._last_word > self.settings.idle_s and not busy:
                self._end_by_time("session_idle", f"nothing was heard for {self.settings.idle_s:.0f} s")
            detection = self.options.audio.input.turn_detection
            if detection is not None and detection.idle_timeout_ms is not None and not busy:
                if self.buffer.is_in_turn:
                    self._quiet_since = now
                elif (now - self._quiet_since) * 1000 > detection.idle_timeout_ms:
                    self._break_silence()

    def _end_by_time(self, code: str, said: str) -> None:
        raise _End(1000, said, RequestError(said, code))

    # ---- sound

    async def _append(self, event: e.Append) -> None:
        if self.transport.has_track:
            said = "a call sends sound over its audio track; input_audio_buffer.append is for WebSockets"
            raise RequestError(said, "unsupported_event", "type")
        await self.hear(from_base64(event.audio, "audio"))

    async def hear(self, data: bytes) -> None:
        """Take sound in the session's input format; RequestError if a turn that the client has to end is too long."""
        self._last_word = time.monotonic()
        wire = self.buffer.wire
        step = wire.rate_hz * _PIECE_MS // 1000 * wire.bytes_per_sample
        for start in range(0, len(data), step):
            for boundary in self.buffer.push(data[start : start + step]):
                if boundary.is_start:
                    self._speech_started(boundary.at_ms)
                else:
                    self._speech_stopped(boundary.at_ms)
            self.ahead.look()
            self._tell_certain()
            await asyncio.sleep(0)  # lets other clients run

    def _tell_certain(self) -> None:
        """Send the final part of a running turn's transcript to clients that requested transcripts."""
        if self.buffer.is_in_turn and self.options.audio.input.transcription is not None:
            self.transcripts.tell(self._turn_item, self.ahead.certain())

    def _speech_started(self, at_ms: int) -> None:
        detection = self.options.audio.input.turn_detection
        self.transcripts.forget(self._turn_item)
        self._turn_item = new_id("item")
        self.outbox.put("input_audio_buffer.speech_started", audio_start_ms=at_ms, item_id=self._turn_item)
        if detection is not None and detection.interrupt_response:
            self._interrupt("turn_detected")

    def _speech_stopped(self, at_ms: int) -> None:
        detection = self.options.audio.input.turn_detection
        self._quiet_since = time.monotonic()
        self.outbox.put("input_audio_buffer.speech_stopped", audio_end_ms=at_ms, item_id=self._turn_item)
        try:
            self._commit()
            if detection is not None and detection.create_response and self.options.answers:
                self._answer_turn()
        except RequestError as error:
            self.complain(error)
        except AnytalkError as error:
            self.complain(of_ours(error))

    def _commit(self) -> None:
        certain = self.ahead.certain()
        wave, speech = self.ahead.take()
        item = Item("user", id=self._turn_item, speech=speech, sound=KeptSound(wave, VAD_RATE_HZ))
        self._turn_item = new_id("item")
        previous = self._add(item)
        self.outbox.put("input_audio_buffer.committed", item_id=item.id, previous_item_id=previous)
        self._tell_item(item, previous)
        if self.options.audio.input.transcription is not None:
            self.transcripts.tell(item.id, certain)
            question = transcript_question(self.state, item)
            self.transcripts.write_down(item, question, len(wave) / VAD_RATE_HZ)

    def _clear(self, _: e.Clear) -> None:
        self.buffer.clear()
        self.ahead.drop()
        self.transcripts.forget(self._turn_item)
        self.outbox.put("input_audio_buffer.cleared")

    def _output_clear(self, _: e.OutputClear) -> None:
        if self.outbox.plays:
            self._interrupt("client_cancelled")
            return
        raise RequestError(
            "output_audio_buffer.clear is for WebRTC; over WebSocket the client plays: drop what you hold, then send"
            " conversation.item.truncate",
            "unsupported_event",
            "type",
        )

    def _break_silence(self) -> None:
        """Answer silence after the idle timeout."""
        self._quiet_since = time.monotonic()
        if not self.options.answers:
            return
        end_ms = self.buffer.end_ms
        item = Item("user", text=SILENCE)
        previous = self.conversation.add(item)
        self.outbox.put(
            "input_audio_buffer.timeout_triggered", audio_start_ms=end_ms, audio_end_ms=end_ms, item_id=item.id
        )
        self._tell_item(item, previous)
        with suppress(RequestError):
            self._respond(e.ResponseOptions())

    # ---- conversation

    def _update(self, event: e.SessionUpdate) -> None:
        before = self.options.audio.input
        self.options, left_out = updated(self.options, event.session, self.state.talker, self.settings.max_text_chars)
        # Configuring drops a sample of which only a part has come, so do it only if needed.
        if self.options.audio.input != before:
            self.buffer.configure(self.options.input_format(), self._vad())
            self.ahead.told = self.options.ears(self.state.talker)
        self._quiet_since = time.monotonic()
        self.outbox.put("session.updated", session=self._shown(), **told(left_out))

    def _create_item(self, event: e.ItemCreate) -> None:
        def decode(data: str, param: str) -> Any:
            wire, rate_hz = self.options.input_format(), self.state.ear_rate_hz
            decoder = WireDecoder(wire, rate_hz)
            wave = joined([decoder.push(from_base64(data, param)), decoder.flush()])
            limit_s = self.state.max_turn_s
            return speech_of(wave, rate_hz, rate_hz, limit_s, ears=self.ahead.told), KeptSound(wave, rate_hz)

        item = read_item(event.item, decode, self.settings.max_text_chars)
        self._tell_item(item, self._add(item, event.previous_item_id))

    def _add(self, item: Item, after: str | None = None) -> str | None:
        check_unheard(self.state, (known.said() for known in (*self.conversation.items, item)))
        return self.conversation.add(item, after)

    def _tell_item(self, item: Item, previous: str | None) -> None:
        self.outbox.put("conversation.item.added", previous_item_id=previous, item=item.shown())
        self.outbox.put("conversation.item.done", previous_item_id=previous, item=item.shown())

    def _truncate(self, event: e.ItemTruncate) -> None:
        running = self.responses.active
        if running is not None and running.item.id == event.item_id:
            # Clients whose user interrupts send only this event.
            self.responses.interrupt("client_cancelled")
        self._cut(event.item_id, event.content_index, event.audio_end_ms)

    def _cut(self, item_id: str, content_index: int, audio_end_ms: int) -> None:
        self.conversation.truncate(item_id, content_index, audio_end_ms)
        place: dict[str, Any] = {"item_id": item_id, "content_index": content_index}
        self.outbox.put("conversation.item.truncated", **place, audio_end_ms=audio_end_ms)

    def _delete(self, event: e.ItemDelete) -> None:
        self.conversation.delete(event.item_id)
        self.outbox.put("conversation.item.deleted", item_id=event.item_id)

    def _retrieve(self, event: e.ItemRetrieve) -> None:
        item = self.conversation.find(event.item_id, code="item_retrieve_invalid_item_id")
        # Encoding delays all other clients, so its rate is limited.
        if item.sound is not None and not self._shown_s.take(item.sound.seconds):
            raise RequestError("too much sound was asked for in so short a time; wait a moment", "rate_limit_exceeded")
        self.outbox.put("conversation.item.retrieved", item=item.shown(sound_as=self.options.input_format()))

    # ---- responses

    def _respond(self, wanted: e.ResponseOptions) -> None:
        self.responses.begin(self.options, wanted)

    def _cancel(self, event: e.ResponseCancel) -> None:
        self.responses.cancel(event.response_id)
        self._tell_cuts()

    def _interrupt(self, reason: str) -> None:
        """Cancel the answer and, if the server plays sound, also the playback of complete answers."""
        self.responses.interrupt(reason)
        self.outbox.drop_all_sound()
        self._tell_cuts()

    def _tell_cuts(self) -> None:
        for cut in self.outbox.take_cuts():
            with suppress(RequestError):  # the answer isn't in the conversation
                self._cut(cut.item_id, 0, cut.heard_ms)

    def _answer_turn(self) -> None:
        """Answer the turn that has just ended, or wait for the running answer if answers can't be interrupted."""
        if self.responses.active is not None:
            self._answers_next = True
        else:
            self._respond(e.ResponseOptions())

    def _response_is_over(self, response: Response) -> None:
        self._last_word = self._quiet_since = time.monotonic()
        if response.plan.spoken and response.item.audio_ms:
            # Sound is sent faster than it is played; the silence starts when the client has played all of it.
            self._quiet_since += response.item.audio_ms / 1000
        if self._answers_next:
            self._answers_next = False
            try:
                self._respond(e.ResponseOptions())
            except RequestError as error:
                self.complain(error)

    # ---- small things

    def _vad(self) -> Any:
        detection = self.options.audio.input.turn_detection
        return None if detection is None else detection.vad()

    def _shown(self) -> dict[str, Any]:
        kind = "realtime.session" if self.options.answers else "realtime.transcription_session"
        head = {"id": self.id, "object": kind, "expires_at": self._expires_at()}
        return {**self.options.shown(), **head}

    def _expires_at(self) -> int:
        return int(time.time() + self.settings.session_s - (time.monotonic() - self._began))

    def complain(self, error: RequestError, event_id: str | None = None) -> None:
        """Send an error event; the session continues."""
        self.outbox.put("error", error={**error.body(), "event_id": event_id})


class _End(Exception):  # noqa: N818
    """Ends the session for a reason that isn't a bug."""

    def __init__(self, code: int, reason: str, error: RequestError | None = None) -> None:
        super().__init__(reason)
        self.code, self.error = code, error
