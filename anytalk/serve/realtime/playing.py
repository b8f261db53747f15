"""Play the sound of a call's answers on the server, which therefore knows how much of each was heard."""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from anytalk.serve.realtime.outbox import Cut, Outbox
from anytalk.serve.sound import WireDecoder, WireFormat

TRACK_RATE_HZ = 48_000
FRAME = TRACK_RATE_HZ // 50
"""Samples per frame of 20 ms."""
_MAX_WAITING_S = 240.0
"""Limit of sound that waits to be played: several of the longest answers."""


@dataclass
class _Answer:
    response_id: str
    item_id: str
    decoder: WireDecoder
    waves: deque[np.ndarray] = field(default_factory=deque)  # waiting to be played
    waiting: int = 0  # samples in them
    played: int = 0  # samples played
    is_told: bool = False  # whether the client knows that it plays
    is_whole: bool = False  # whether no more sound follows

    def push(self, wave: np.ndarray) -> None:
        if len(wave):
            self.waves.append(wave)
            self.waiting += len(wave)

    def take(self, most: int) -> list[np.ndarray]:
        """Return the next samples in pieces, at most `most` in all."""
        found: list[np.ndarray] = []
        while self.waves and most:
            piece, rest = self.waves[0][:most], self.waves[0][most:]
            found.append(piece)
            most -= len(piece)
            self.waiting -= len(piece)
            self.played += len(piece)
            if len(rest):
                self.waves[0] = rest
            else:
                self.waves.popleft()
        return found


class PlayingOutbox(Outbox):
    """Plays sound instead of sending it in events, one answer after another."""

    plays = True

    def __init__(self, send: Callable[[str], Awaitable[None]], max_unsent_bytes: int, send_timeout_s: float) -> None:
        super().__init__(send, max_unsent_bytes, send_timeout_s)
        self._answers: deque[_Answer] = deque()
        self._cuts: list[Cut] = []

    def put_sound(self, place: dict[str, Any], data: bytes, wire: WireFormat, length_ms: float) -> None:
        response_id = place["response_id"]
        answer = next((one for one in self._answers if one.response_id == response_id), None)
        if answer is None:
            answer = _Answer(response_id, place["item_id"], WireDecoder(wire, TRACK_RATE_HZ))
            self._answers.append(answer)
        answer.push(answer.decoder.push(data))
        waiting_s = sum(one.waiting for one in self._answers) / TRACK_RATE_HZ
        if waiting_s > _MAX_WAITING_S:
            self.overflow(f"{waiting_s:.0f} s of sound were waiting to be played; {_MAX_WAITING_S:.0f} s are allowed")

    def end_sound(self, response_id: str) -> None:
        for answer in self._answers:
            if answer.response_id == response_id and not answer.is_whole:
                answer.is_whole = True
                answer.push(answer.decoder.flush())

    def drop_sound(self, response_id: str) -> float:
        dropped_ms = 0.0
        for answer in [one for one in self._answers if one.response_id == response_id]:
            self._answers.remove(answer)
            dropped_ms += answer.waiting * 1000 / TRACK_RATE_HZ
            if answer.is_told:
                self._cuts.append(Cut(answer.item_id, answer.played * 1000 // TRACK_RATE_HZ))
                self.put("output_audio_buffer.cleared", response_id=response_id)
        return dropped_ms

    def drop_all_sound(self) -> None:
        for answer in list(self._answers):
            self.drop_sound(answer.response_id)

    def take_cuts(self) -> list[Cut]:
        cuts, self._cuts = self._cuts, []
        return cuts

    def frame(self) -> np.ndarray:
        """Return the next frame (FRAME,) float32 at 48 kHz, filled up with silence."""
        wave, filled = np.zeros(FRAME, dtype=np.float32), 0
        while self._answers and filled < FRAME:
            answer = self._answers[0]
            pieces = answer.take(FRAME - filled)
            for piece in pieces:
                wave[filled : filled + len(piece)] = piece
                filled += len(piece)
            if pieces and not answer.is_told:
                answer.is_told = True
                self.put("output_audio_buffer.started", response_id=answer.response_id)
            # The next answer must wait: sound of this one may only be late.
            if not answer.is_whole or answer.waves:
                break
            self._answers.popleft()
            if answer.is_told:
                self.put("output_audio_buffer.stopped", response_id=answer.response_id)
        return wave
