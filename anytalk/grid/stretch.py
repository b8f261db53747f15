"""Makes speech faster or slower at the same pitch, piece by piece: WSOLA (Verhelst and Roelands, 1993)."""

from __future__ import annotations

import numpy as np

MIN_SPEED, MAX_SPEED = 0.25, 4.0
_HOP_S, _REACH_S = 0.012, 0.010
"""Half a frame, and how far a frame may move to continue the one before it: a period of the lowest voices."""


class Stretcher:
    """Overlaps frames of the sound more closely or widely; the joined pieces equal the whole sound stretched at once.

    Args:
        rate_hz: The sample rate of the sound.
        speed: From 0.25 to 4; 1 changes nothing.
    """

    def __init__(self, rate_hz: int, speed: float) -> None:
        self._speed, self._hop, self._reach = speed, round(_HOP_S * rate_hz), round(_REACH_S * rate_hz)
        # Squared sines add up to one where two frames overlap, so the loudness stays.
        self._fade_in = np.sin(np.arange(self._hop) * np.pi / 2 / self._hop).astype(np.float32) ** 2
        self._sound = np.zeros(0, np.float32)  # samples that frames may still be taken from
        self._first = self._length = 0  # samples that came before `_sound`, and all that came
        self._made = 0  # samples returned so far
        self._next = 0  # where the latest frame would continue, in samples of the input

    def push(self, wave: np.ndarray, is_last: bool = False) -> np.ndarray:
        """Stretch a piece, (n,) -> (m,) float32; `is_last` returns the rest too. N samples give N / speed in all."""
        if self._speed == 1:
            return np.asarray(wave, dtype=np.float32)
        self._sound = np.concatenate([self._sound, np.asarray(wave, dtype=np.float32)])
        self._length += len(wave)
        end, whole = self._length, round(self._length / self._speed)
        if is_last:
            # With silence after the end, the last frames overlap like all others; the excess is cut off below.
            silence = np.zeros(2 * (self._hop + self._reach) + round(self._hop * self._speed), np.float32)
            self._sound, end = np.concatenate([self._sound, silence]), end + len(silence)
        made = []
        while self._made + (1 if is_last else self._hop) <= whole:
            wanted = round(self._made * self._speed)
            # The sound that the candidates are compared on hasn't arrived yet.
            if max(wanted + self._reach, self._next) + 2 * self._hop > end:
                break
            made.append(self._lay(wanted))
        sound = np.concatenate([np.zeros(0, np.float32), *made])
        return sound[: len(sound) - max(self._made - whole, 0)] if is_last else sound

    def _lay(self, wanted: int) -> np.ndarray:
        """Return the next (hop,) samples: the end of the latest frame, faded into the best match near `wanted`."""
        goes_on = self._sound[self._next - self._first :][: self._hop]
        start = max(wanted - self._reach - self._first, 0)
        near = self._sound[start : wanted + self._reach - self._first + self._hop]
        # The match is a correlation that is normalised by the energy, so that loud places aren't preferred.
        likeness = np.correlate(near, goes_on, mode="valid")
        energy = np.concatenate([[0.0], np.cumsum(near.astype(np.float64) ** 2)])
        chosen = start + int(np.argmax(likeness / np.sqrt(energy[self._hop :] - energy[: -self._hop] + 1e-6)))
        made = goes_on + self._fade_in * (self._sound[chosen : chosen + self._hop] - goes_on)
        self._made += self._hop
        self._next = chosen + self._first + self._hop
        # Nothing before this sample can be needed again.
        keep = min(round(self._made * self._speed) - self._reach, self._next) - self._first
        if keep > 0:
            self._sound, self._first = self._sound[keep:], self._first + keep
        return made
