"""Collect the input sound of a session and detect where turns begin and end."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from anytalk.grid.audio import joined
from anytalk.serve.errors import RequestError
from anytalk.serve.realtime.vad import VAD_RATE_HZ, WINDOW, TurnDetector, VadSettings
from anytalk.serve.sound import WireDecoder, WireFormat

MIN_TURN_MS = 100
_DROPPED_AT_ONCE = 5 * VAD_RATE_HZ
"""How many samples a full held turn drops at once; its readers have to start again after each drop."""


@dataclass(frozen=True)
class Boundary:
    """Marks the start or the end of a turn."""

    is_start: bool  # whether the turn starts
    at_ms: int  # time since the session's first sound


class InputBuffer:
    """Holds sound at 16 kHz until it becomes a turn.

    Args:
        vad: Settings of the turn detection; None if the client ends turns.
        max_turn_s: A detected turn ends after this time; a turn that the client ends can't grow longer.
        keeps_latest: Whether a full turn of that kind drops its beginning instead, for sound that never pauses.
    """

    def __init__(
        self, wire: WireFormat, vad: VadSettings | None, max_turn_s: float, keeps_latest: bool = False
    ) -> None:
        self._keeps_latest = keeps_latest
        self._max_samples = int(max_turn_s * VAD_RATE_HZ)
        self._pieces: list[np.ndarray] = []
        self._rest = b""  # of a sample whose bytes haven't all arrived
        self._first = 0  # samples of the session before the buffer
        self._held = 0
        self._turn_began: int | None = None
        self._detector: TurnDetector | None = None
        self._detector_first = 0
        self.configure(wire, vad)

    def configure(self, wire: WireFormat, vad: VadSettings | None) -> None:
        """Change the format or the turn detection; the buffered sound stays."""
        self.wire, self._rest = wire, b""
        self._decoder = WireDecoder(wire, VAD_RATE_HZ)
        if vad is None:
            self._detector, self._turn_began = None, None
        elif self._detector is None:
            self._detector, self._detector_first = TurnDetector(vad), self._first + self._held
        else:
            self._detector.settings = vad

    @property
    def is_in_turn(self) -> bool:
        return self._turn_began is not None

    @property
    def is_held(self) -> bool:
        """Tell whether the buffer holds a turn that the client will end."""
        return self._detector is None and self._held > 0

    @property
    def first(self) -> int:
        """Return the number of samples of the session before the buffer."""
        return self._first

    @property
    def num_samples(self) -> int:
        return self._held

    @property
    def pause(self) -> tuple[int, int] | None:
        """Return the start of the latest pause, in samples of the session, and its length in ms; None if there is none.

        It stays available when the pause ends the turn.
        """
        if self._detector is None or self._detector.quiet_since is None:
            return None
        began = self._detector.quiet_since + self._detector_first
        return began, _ms(self._first + self._held - began)

    @property
    def length_ms(self) -> int:
        """Return the length of the buffered sound."""
        return _ms(self._held)

    @property
    def end_ms(self) -> int:
        """Return the length of all sound of the session."""
        return _ms(self._first + self._held)

    def push(self, data: bytes) -> list[Boundary]:
        """Add bytes in the client's format; return where turns begin and end.

        A finished turn stays in the buffer until :meth:`take`, so call this with little sound at a time. Sound may be
        split anywhere, even between the bytes of a sample.

        Raises:
            RequestError: a turn that the client has to end is too long; the new sound isn't kept.
        """
        data = self._rest + data
        whole = len(data) - len(data) % self.wire.bytes_per_sample
        self._rest = data[whole:]
        wave = self._decoder.push(data[:whole])
        surplus = self._held + len(wave) - self._max_samples
        if self._detector is None and surplus > 0 and self._keeps_latest:
            self._drop_before(self._first + surplus + _DROPPED_AT_ONCE)
        elif self._detector is None and surplus > 0:
            raise RequestError(
                f"the buffer holds {self._held / VAD_RATE_HZ:.1f} s; a turn may last"
                f" {self._max_samples / VAD_RATE_HZ:.0f} s; commit or clear it",
                "input_audio_buffer_full",
                "audio",
            )
        self._pieces.append(wave)
        self._held += len(wave)
        if self._detector is None:
            return []
        found: list[Boundary] = []
        for event in self._detector.push(wave):
            at = event.sample + self._detector_first
            if event.is_start:
                self._drop_before(at)
                self._turn_began = self._first
                found.append(Boundary(True, _ms(self._first)))
            elif self._turn_began is not None:
                self._turn_began = None
                found.append(Boundary(False, _ms(at)))
        if self._turn_began is not None and self._held >= self._max_samples:
            self._turn_began = None
            self._detector.end_turn()
            found.append(Boundary(False, self.end_ms))
        if self._turn_began is None and not found:
            # Outside of turns, keep only the padding and the few windows that the next turn may begin with.
            padding = self._detector.settings.prefix_padding_ms * VAD_RATE_HZ // 1000
            self._drop_before(self._first + self._held - padding - 4 * WINDOW)
        return found

    def take(self) -> np.ndarray:
        """Return all buffered sound, (N,) float32 at 16 kHz, and empty the buffer.

        Raises:
            RequestError: there is too little sound for a turn.
        """
        if self._held * 1000 < MIN_TURN_MS * VAD_RATE_HZ:
            raise RequestError(
                f"the buffer holds {self.length_ms} ms of sound; a turn needs at least {MIN_TURN_MS} ms",
                "input_audio_buffer_commit_empty",
            )
        wave = joined([*self._pieces, self._decoder.flush()])
        # With turn detection the sound is one stream, so a split sample continues in the next turn.
        rest = b"" if self._detector is None else self._rest
        self.clear()
        self._rest = rest
        return wave

    def so_far(self) -> np.ndarray:
        """Return the buffered sound, (N,) float32 at 16 kHz, and keep it."""
        return joined(self._pieces)

    def clear(self) -> None:
        self._first += self._held
        self._pieces, self._held, self._turn_began, self._rest = [], 0, None, b""
        self._decoder = WireDecoder(self.wire, VAD_RATE_HZ)
        if self._detector is not None:
            self._detector.end_turn()

    def _drop_before(self, sample: int) -> None:
        surplus = sample - self._first
        while surplus > 0 and self._pieces:
            piece = self._pieces[0]
            if len(piece) > surplus:
                self._pieces[0] = piece[surplus:]
                dropped = surplus
            else:
                dropped = len(self._pieces.pop(0))
            surplus -= dropped
            self._first += dropped
            self._held -= dropped


def _ms(samples: int) -> int:
    return samples * 1000 // VAD_RATE_HZ
