"""Hear a turn while it is spoken, so that little is left to do at its end.

This needs transcribing ears; the columns of other ears depend on the sound that follows. Pieces that the ears cut off
are final and heard once; the rest after the last cut is heard in pauses that may be the end of the turn.
"""

from __future__ import annotations

import itertools
from contextlib import suppress

import numpy as np
import torch

from anytalk.decode.jobs import Speech
from anytalk.plugins.contracts import Ears, Heard
from anytalk.serve.errors import RequestError
from anytalk.serve.questions import speech_of
from anytalk.serve.realtime.input_buffer import InputBuffer
from anytalk.serve.realtime.vad import VAD_RATE_HZ
from anytalk.serve.state import ServerState

_PAUSE_MS = 160
"""After a pause of this length a turn may have ended; pauses within words are shorter."""
_PAUSES_AT_ONCE, _S_PER_PAUSE = 4, 2.0
"""Number of pauses that are heard in any turn, and seconds of a turn for each further one."""
_CUT_EVERY = VAD_RATE_HZ // 2
"""Samples between two searches for a cut."""


class HearingAhead:
    """Hears the current turn ahead of its end.

    Args:
        state: State of the server, whose ears hear.
        buffer: Input buffer of the session.
        told: Ears that hear in place of the talker's, where something is known of what they will hear.

    Attributes:
        told: As above; it may be changed.
    """

    def __init__(self, state: ServerState, buffer: InputBuffer, told: Ears | None = None) -> None:
        self._state, self._buffer, self.told = state, buffer, told
        self.drop()

    def drop(self) -> None:
        """Forget the turn; its speech that waits to be heard is dropped."""
        self._first: int | None = None  # first sample of the turn in the session
        self._pieces: list[Speech] = []
        self._cut = self._looked = self._pauses = 0  # samples in pieces, samples searched for cuts, and pauses heard
        self._ahead: tuple[int, Speech] | None = None  # start of a pause, and the turn up to it

    def look(self) -> None:
        """Hear as much as possible; called after each piece of sound."""
        ears, buffer = self._state.talker.model.ears, self._buffer
        if ears is None or not (buffer.is_in_turn or buffer.is_held):
            return
        if self._first != buffer.first:
            self.drop()
            self._first = buffer.first
        # Pieces are cut from the buffer's sound, which must have the rate of the ears.
        if buffer.num_samples - self._looked >= _CUT_EVERY and ears.sample_rate_hz == VAD_RATE_HZ:
            self._looked = buffer.num_samples
            rest = torch.from_numpy(buffer.so_far()[self._cut :])
            while at := ears.first_cut(rest):
                self._hear(Speech(rest[:at].numpy().copy(), ears=self.told), is_piece=True)
                rest = rest[at:]
        self._look_at_pause()

    def _look_at_pause(self) -> None:
        pause = self._buffer.pause
        if self._ahead is not None and (pause is None or pause[0] != self._ahead[0]):
            self._ahead = None
        if self._ahead is not None or pause is None or pause[1] < _PAUSE_MS:
            return
        if self._pauses < _PAUSES_AT_ONCE + self._buffer.num_samples / VAD_RATE_HZ / _S_PER_PAUSE:
            with suppress(RequestError):  # the end of the turn reports it
                speech = self._whole()
                self._pauses += 1
                self._hear(speech)
                self._ahead = pause[0], speech

    def _hear(self, speech: Speech, is_piece: bool = False) -> None:
        if is_piece:
            self._pieces.append(speech)
            self._cut += speech.num_samples
            self._ahead = None  # its pieces are outdated
        self._state.model.hear_ahead(speech)

    def _whole(self, wave: np.ndarray | None = None) -> Speech:
        wave = self._buffer.so_far() if wave is None else wave
        return speech_of(wave, VAD_RATE_HZ, self._state.ear_rate_hz, self._state.max_turn_s, self._pieces, self.told)

    def take(self) -> tuple[np.ndarray, Speech]:
        """Empty the buffer; return the turn's sound (N,) float32 at 16 kHz, and its speech, which may be heard already.

        Raises:
            RequestError: the turn is too short, too long or silent, or the talker has no ears.
        """
        ahead, pause, first = self._ahead, self._buffer.pause, self._buffer.first
        _ = self._state.ear_rate_hz  # raises for a talker without ears, before the buffer is emptied
        wave = self._buffer.take()
        if first != self._first:
            self.drop()
        try:
            # The pause became the end of the turn, so nothing is left to hear.
            if ahead is not None and pause is not None and pause[0] == ahead[0]:
                return wave, ahead[1]
            return wave, self._whole(wave)
        finally:
            self.drop()

    def certain(self) -> str:
        """Return the start of the turn's transcript that further sound can't change."""
        heard = itertools.takewhile(lambda text: text is not None, (piece.text for piece in self._pieces))
        return Heard.joined([Heard(text=text) for text in heard]).text or ""
