"""Hearing a turn while it is spoken, so that little is left to do when it is over.

Only with ears that write: the columns of others change with the sound after them. Pieces that the ears cut off for good
are heard once, when they are complete; what follows the last cut is heard in pauses that may be the turn's end.
"""

from __future__ import annotations

import itertools
from contextlib import suppress

import numpy as np
import torch

from anytalk.decode.jobs import Speech
from anytalk.plugins.contracts import Heard
from anytalk.serve.errors import RequestError
from anytalk.serve.questions import speech_of
from anytalk.serve.realtime.input_buffer import InputBuffer
from anytalk.serve.realtime.vad import VAD_RATE_HZ
from anytalk.serve.state import ServerState

_PAUSE_MS = 160
"""After a pause of this length a turn may be over; within words pauses are shorter."""
_PAUSES_AT_ONCE, _S_PER_PAUSE = 4, 2.0
"""Pauses that are heard in any turn, and seconds of a turn for one more."""
_CUT_EVERY = VAD_RATE_HZ // 2
"""Samples between looks for a cut."""


class HearingAhead:
    """What has been heard of the turn that is being spoken or held.

    Args:
        state: Whose ears hear.
        buffer: Where its sound arrives.
    """

    def __init__(self, state: ServerState, buffer: InputBuffer) -> None:
        self._state, self._buffer = state, buffer
        self.drop()

    def drop(self) -> None:
        """Forget the turn; what waits to be heard of it isn't heard."""
        self._first: int | None = None  # sample of the session at which the turn begins
        self._pieces: list[Speech] = []
        self._cut = self._looked = self._pauses = 0  # samples in pieces, and looked at for cuts; pauses heard
        self._ahead: tuple[int, Speech] | None = None  # where a pause began, and the turn until then

    def look(self) -> None:
        """Have heard what can be; after each piece of sound that came."""
        ears, buffer = self._state.talker.model.ears, self._buffer
        if ears is None or not (buffer.is_in_turn or buffer.is_held):
            return
        if self._first != buffer.first:
            self.drop()
            self._first = buffer.first
        if buffer.num_samples - self._looked >= _CUT_EVERY and ears.sample_rate_hz == VAD_RATE_HZ:
            self._looked = buffer.num_samples
            rest = torch.from_numpy(buffer.so_far()[self._cut :])
            while at := ears.first_cut(rest):
                self._hear(Speech(rest[:at].numpy().copy()), is_piece=True)
                rest = rest[at:]
        self._look_at_pause()

    def _look_at_pause(self) -> None:
        pause = self._buffer.pause
        if self._ahead is not None and (pause is None or pause[0] != self._ahead[0]):
            self._ahead = None
        if self._ahead is not None or pause is None or pause[1] < _PAUSE_MS:
            return
        if self._pauses < _PAUSES_AT_ONCE + self._buffer.num_samples / VAD_RATE_HZ / _S_PER_PAUSE:
            with suppress(RequestError):  # told at the turn's end
                speech = self._whole()
                self._pauses += 1
                self._hear(speech)
                self._ahead = pause[0], speech

    def _hear(self, speech: Speech, is_piece: bool = False) -> None:
        if is_piece:
            self._pieces.append(speech)
            self._cut += speech.num_samples
            self._ahead = None  # it has other pieces
        self._state.model.hear_ahead(speech)

    def _whole(self, wave: np.ndarray | None = None) -> Speech:
        wave = self._buffer.so_far() if wave is None else wave
        return speech_of(wave, VAD_RATE_HZ, self._state.ear_rate_hz, self._state.max_turn_s, self._pieces)

    def take(self) -> tuple[np.ndarray, Speech]:
        """Empty the buffer: the turn's sound, (N,) float32 at 16 kHz, and its speech, as far heard as it is.

        Raises:
            RequestError: too short, too long or silent, or a talker without ears.
        """
        ahead, pause, first = self._ahead, self._buffer.pause, self._buffer.first
        _ = self._state.ear_rate_hz  # refuses a talker without ears, before the buffer is empty
        wave = self._buffer.take()
        if first != self._first:
            self.drop()
        try:
            if ahead is not None and pause is not None and pause[0] == ahead[0]:
                return wave, ahead[1]
            return wave, self._whole(wave)
        finally:
            self.drop()

    def certain(self) -> str:
        """Return the words that will be at the beginning of the turn's transcript, whatever comes."""
        heard = itertools.takewhile(lambda text: text is not None, (piece.text for piece in self._pieces))
        return Heard.joined([Heard(text=text) for text in heard]).text or ""
