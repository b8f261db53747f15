"""Convert between a client's bytes and samples, and resample streams piece by piece."""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
import soxr

from anytalk.errors import AudioError
from anytalk.grid.audio import to_pcm16
from anytalk.grid.stretch import Stretcher

PCM_RATE_HZ = 24_000
G711_RATE_HZ = 8_000
_G711 = {"audio/pcmu": "ULAW", "audio/pcma": "ALAW"}
FORMAT_NAMES = ("audio/pcm", *_G711)


@dataclass(frozen=True)
class WireFormat:
    """Describes a mono sound format of the Realtime protocol."""

    name: str = "audio/pcm"  # `"audio/pcm"` (16-bit little-endian), `"audio/pcmu"` or `"audio/pcma"` (G.711)
    rate_hz: int = PCM_RATE_HZ  # samples per second

    @property
    def bytes_per_sample(self) -> int:
        """Return 2 for PCM and 1 for G.711."""
        return 1 if self.name in _G711 else 2

    def decode(self, data: bytes) -> np.ndarray:
        """Decode bytes to samples (n,) float32; AudioError for half a sample."""
        if self.name in _G711:
            import soundfile

            if not data:
                return np.zeros(0, dtype=np.float32)
            samples, _ = soundfile.read(
                io.BytesIO(data), dtype="float32", format="RAW", subtype=_G711[self.name], channels=1, samplerate=8000
            )
            return np.asarray(samples, dtype=np.float32)
        if len(data) % 2:
            raise AudioError(
                f"{len(data)} bytes of audio/pcm were given; samples are 2 bytes each", "cut the sound between samples"
            )
        return np.frombuffer(data, dtype="<i2").astype(np.float32) / 32768.0

    def encode(self, wave: np.ndarray) -> bytes:
        """Encode samples (n,) float32 to bytes, clipped."""
        if self.name not in _G711:
            return to_pcm16(wave)
        import soundfile

        out = io.BytesIO()
        clipped = np.clip(wave, -1.0, 1.0).astype(np.float32)
        soundfile.write(out, clipped, self.rate_hz, format="RAW", subtype=_G711[self.name])
        return out.getvalue()


class Resampler:
    """Resamples a stream piece by piece, with the same result as resampling all of it at once."""

    def __init__(self, from_hz: int, to_hz: int) -> None:
        self._stream = None if from_hz == to_hz else soxr.ResampleStream(from_hz, to_hz, 1, dtype="float32")

    def push(self, wave: np.ndarray, is_last: bool = False) -> np.ndarray:
        """Resample (n,) float32 to (m,) float32; `is_last` also returns the samples that the filter holds back."""
        if self._stream is None:
            return np.asarray(wave, dtype=np.float32)
        found = self._stream.resample_chunk(np.ascontiguousarray(wave, dtype=np.float32), last=is_last)
        return np.asarray(found, dtype=np.float32)


class WireDecoder:
    """Decodes a client's bytes to samples at the rate of the model."""

    def __init__(self, wire: WireFormat, to_hz: int) -> None:
        self.wire = wire
        self._resampler = Resampler(wire.rate_hz, to_hz)

    def push(self, data: bytes) -> np.ndarray:
        """Decode and resample bytes to (m,) float32; AudioError for half a sample."""
        return self._resampler.push(self.wire.decode(data))

    def flush(self) -> np.ndarray:
        """Return the samples (m,) that the filter held back; the decoder can't be used afterwards."""
        return self._resampler.push(np.zeros(0, dtype=np.float32), is_last=True)


class WireEncoder:
    """Encodes samples of the codec for a client, optionally at another speaking speed."""

    def __init__(self, from_hz: int, wire: WireFormat, speed: float = 1.0) -> None:
        self.wire = wire
        self._stretcher = Stretcher(from_hz, speed)
        self._resampler = Resampler(from_hz, wire.rate_hz)

    def push(self, wave: np.ndarray, is_last: bool = False) -> bytes:
        """Encode samples (n,) float32; `is_last` also returns what the filters held back."""
        return self.wire.encode(self._resampler.push(self._stretcher.push(wave, is_last), is_last))


class KeptSound:
    """Keeps a user's sound (N,) for retrieval, as 16-bit samples, which most clients sent."""

    def __init__(self, wave: np.ndarray, rate_hz: int) -> None:
        self._data, self._rate_hz = to_pcm16(wave), rate_hz

    @property
    def seconds(self) -> float:
        return len(self._data) / 2 / self._rate_hz

    def encoded(self, wire: WireFormat) -> bytes:
        wave = np.frombuffer(self._data, dtype="<i2").astype(np.float32) / 32767  # the scale of `to_pcm16`
        return WireEncoder(self._rate_hz, wire).push(wave, is_last=True)
