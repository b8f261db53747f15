"""Changes how spoken questions sound: noise, gain, speed, room. All randomness comes from the generator passed in."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, Literal, Self

import numpy as np
import pydantic

from anytalk import plugins
from anytalk.grid.audio import resample
from anytalk.plugins.components import BuildContext
from anytalk.plugins.contracts import Augmentation

MAX_PEAK = 0.999
"""Louder results are scaled down as a whole instead of being clipped."""


class _Options(plugins.Options):
    """Options of every augmentation."""

    probability: float = pydantic.Field(1.0, ge=0, le=1, description="Share of questions to change.")

    @pydantic.model_validator(mode="after")
    def _ordered(self) -> Self:
        """Refuse a ``min_...`` above its ``max_...``."""
        values = self.model_dump()
        for low_name, low in values.items():
            high_name = low_name.replace("min_", "max_", 1)
            if low_name != high_name and low > values[high_name]:
                raise ValueError(f"{low_name} ({low:g}) is above {high_name} ({values[high_name]:g})")
        return self


class _Chance(Augmentation):
    """Applies a change to a random share of the waves."""

    licence = "MIT"

    def __init__(self, options: Any) -> None:
        self._options = options

    @classmethod
    def build(cls, options: plugins.Options, context: BuildContext) -> Self:
        assert isinstance(options, _Options)
        return cls(options)

    def apply(self, wave: np.ndarray, sample_rate_hz: int, generator: np.random.Generator) -> np.ndarray:
        wave = np.array(wave, dtype=np.float32)
        if generator.random() >= self._options.probability or not wave.any():
            return wave
        changed = self._change(wave.astype(np.float64), sample_rate_hz, generator)
        peak = float(np.abs(changed).max())
        # A wave that was louder than MAX_PEAK before may stay as loud.
        limit = max(MAX_PEAK, float(np.abs(wave).max()))
        return (changed * min(1.0, limit / peak)).astype(np.float32) if peak > 0 else wave

    @abstractmethod
    def _change(self, wave: np.ndarray, sample_rate_hz: int, generator: np.random.Generator) -> np.ndarray:
        """Change a wave (N,) float64 that isn't silent; return (N',) float64 with any peak."""


class NoiseAugmentation(_Chance):
    """Adds steady noise. The signal's power is the mean over the whole wave, including its pauses."""

    class Options(_Options):
        colour: Literal["white", "pink"] = pydantic.Field(
            "pink", description="white: the same power in each hertz; pink: in each octave, like fans and traffic."
        )
        min_snr_db: float = pydantic.Field(10.0, ge=-20, le=100, description="Smallest signal-to-noise ratio, in dB.")
        max_snr_db: float = pydantic.Field(
            40.0, ge=-20, le=100, description="Largest, in dB; drawn uniformly in between."
        )

    def _change(self, wave: np.ndarray, sample_rate_hz: int, generator: np.random.Generator) -> np.ndarray:
        snr_db = generator.uniform(self._options.min_snr_db, self._options.max_snr_db)
        noise = generator.standard_normal(len(wave))
        if self._options.colour == "pink":
            noise = pink(noise)
        # 20 dB are a factor of 10 in amplitude.
        gain = np.sqrt(np.mean(wave**2) / np.mean(noise**2)) * 10 ** (-snr_db / 20)
        return np.asarray(wave + gain * noise)


def pink(white: np.ndarray) -> np.ndarray:
    """Filter white noise (N,) so that its power falls by 3 dB per octave, and remove its mean."""
    spectrum = np.fft.rfft(white)
    if len(spectrum) < 2:
        return white
    shape = np.zeros(len(spectrum))
    # Amplitudes are 1 / sqrt(frequency), so power is 1 / frequency.
    shape[1:] = 1.0 / np.sqrt(np.arange(1, len(spectrum)))
    return np.fft.irfft(spectrum * shape, n=len(white))


class GainAugmentation(_Chance):
    """Makes a wave louder or softer; a wave that would clip gets only as loud as possible."""

    class Options(_Options):
        min_gain_db: float = pydantic.Field(-15.0, ge=-60, le=60, description="Smallest gain, in dB.")
        max_gain_db: float = pydantic.Field(
            6.0, ge=-60, le=60, description="Largest, in dB; drawn uniformly in between."
        )

    def _change(self, wave: np.ndarray, sample_rate_hz: int, generator: np.random.Generator) -> np.ndarray:
        gain_db = generator.uniform(self._options.min_gain_db, self._options.max_gain_db)
        return np.asarray(wave * 10 ** (gain_db / 20))


class SpeedAugmentation(_Chance):
    """Makes a wave faster or slower by resampling, which shifts pitch and formants, too.

    A wave isn't slowed down beyond ``max_duration_s``, so that encoders with a limit still accept it.
    """

    class Options(_Options):
        min_speed: float = pydantic.Field(0.9, ge=0.5, le=2, description="Slowest; 1 is the speaker's own speed.")
        max_speed: float = pydantic.Field(1.1, ge=0.5, le=2, description="Fastest; drawn uniformly in between.")
        max_duration_s: float = pydantic.Field(
            30,
            gt=0,
            description="Do not slow clips down beyond this length: the longest sound that the encoder accepts.",
        )

    def _change(self, wave: np.ndarray, sample_rate_hz: int, generator: np.random.Generator) -> np.ndarray:
        speed = generator.uniform(self._options.min_speed, self._options.max_speed)
        # At this speed the wave would just reach the limit.
        slowest = len(wave) / (self._options.max_duration_s * sample_rate_hz)
        speed = max(speed, min(1.0, slowest))
        changed = resample(wave.astype(np.float32), int(np.ceil(sample_rate_hz * speed)), sample_rate_hz)
        return changed.astype(np.float64)


class RoomAugmentation(_Chance):
    """Adds a synthetic room: exponentially decaying noise after the unchanged direct sound, without early reflections.

    The impulse response is a unit pulse and, after a short gap, white noise whose level falls by 60 dB in RT60. The
    wave keeps its length: reverberation after its end is cut off.
    """

    class Options(_Options):
        min_rt60_s: float = pydantic.Field(0.15, gt=0, le=5, description="Shortest time to decay by 60 dB, in seconds.")
        max_rt60_s: float = pydantic.Field(
            0.6, gt=0, le=5, description="Longest, in seconds; drawn uniformly in between."
        )
        min_direct_db: float = pydantic.Field(
            0.0,
            ge=-20,
            le=60,
            description="Smallest ratio of direct sound to reverberation, in dB (far from the microphone).",
        )
        max_direct_db: float = pydantic.Field(15.0, ge=-20, le=60, description="Largest, in dB (close to it).")
        gap_s: float = pydantic.Field(
            0.004, ge=0, le=0.1, description="Gap between direct sound and reverberation, in seconds."
        )

    def _change(self, wave: np.ndarray, sample_rate_hz: int, generator: np.random.Generator) -> np.ndarray:
        options = self._options
        rt60_s = generator.uniform(options.min_rt60_s, options.max_rt60_s)
        direct_db = generator.uniform(options.min_direct_db, options.max_direct_db)
        response = impulse_response(rt60_s, direct_db, options.gap_s, sample_rate_hz, generator)
        # A power of two makes the FFT fast, and one this long keeps the circular convolution from wrapping around.
        size = 1 << (len(wave) + len(response) - 2).bit_length()
        ringing = np.fft.irfft(np.fft.rfft(wave, size) * np.fft.rfft(response, size), size)
        return np.asarray(ringing[: len(wave)])


def impulse_response(
    rt60_s: float, direct_db: float, gap_s: float, sample_rate_hz: int, generator: np.random.Generator
) -> np.ndarray:
    """Return a room's impulse response, (M,) float64: 1 at sample 0, then decaying noise.

    Args:
        rt60_s: Time in seconds in which the noise decays by 60 dB.
        direct_db: Energy of the direct sound relative to the noise, in dB.
        gap_s: Silence between them, in seconds.
    """
    gap = 1 + round(gap_s * sample_rate_hz)
    time_s = np.arange(max(1, round(rt60_s * sample_rate_hz))) / sample_rate_hz
    tail = generator.standard_normal(len(time_s)) * 10 ** (-3.0 * time_s / rt60_s)
    tail *= 10 ** (-direct_db / 20) / np.sqrt(np.sum(tail**2))
    response = np.zeros(gap + len(tail))
    response[0] = 1.0
    response[gap:] = tail
    return response
