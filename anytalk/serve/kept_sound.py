"""What a user said, kept so that the client can have it back; as 16 bits, which is what most clients sent."""

from __future__ import annotations

import numpy as np

from anytalk.grid.audio import to_pcm16
from anytalk.serve.sound import WireEncoder, WireFormat


class KeptSound:
    """One spoken turn.

    Args:
        wave: (N,) float32.
        rate_hz: Its rate.
    """

    def __init__(self, wave: np.ndarray, rate_hz: int) -> None:
        self._data, self._rate_hz = to_pcm16(wave), rate_hz

    @property
    def seconds(self) -> float:
        """Its length."""
        return len(self._data) / 2 / self._rate_hz

    def encoded(self, wire: WireFormat) -> bytes:
        """In a client's format."""
        wave = np.frombuffer(self._data, dtype="<i2").astype(np.float32) / 32767
        return WireEncoder(self._rate_hz, wire).push(wave, is_last=True)
