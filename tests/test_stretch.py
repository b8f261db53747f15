"""Faster and slower sound has the same pitch, exactly its length, and is the same however it is cut."""

from __future__ import annotations

import numpy as np
import pytest
from serve_lab import SPOKEN

from anytalk.grid.audio import read_wave
from anytalk.grid.stretch import Stretcher

RATE_HZ = 24_000
SPEEDS = [0.25, 0.6, 0.9, 1.1, 1.5, 2.0, 4.0]


def stretched(wave: np.ndarray, speed: float, piece: int | None = None) -> np.ndarray:
    stretcher, size = Stretcher(RATE_HZ, speed), piece or max(len(wave), 1)
    starts = range(0, max(len(wave), 1), size)
    return np.concatenate([stretcher.push(wave[start : start + size], start + size >= len(wave)) for start in starts])


@pytest.mark.parametrize("speed", SPEEDS)
def test_a_tone_keeps_its_pitch_and_loudness(speed: float) -> None:
    tone = (0.3 * np.sin(2 * np.pi * 220 * np.arange(2 * RATE_HZ) / RATE_HZ)).astype(np.float32)
    found = stretched(tone, speed)
    assert len(found) == round(len(tone) / speed)
    assert np.abs(np.fft.rfft(found)).argmax() * RATE_HZ / len(found) == pytest.approx(220, abs=2)
    assert np.abs(found).max() <= 0.31
    assert np.abs(np.diff(found)).max() < 1.2 * np.abs(np.diff(tone)).max(), "no clicks"


@pytest.mark.parametrize("speed", SPEEDS)
@pytest.mark.parametrize("piece", [100, 4_321])
def test_speech_is_the_same_however_it_is_cut(speed: float, piece: int) -> None:
    wave = read_wave(SPOKEN[2], RATE_HZ)
    whole = stretched(wave, speed)
    assert np.array_equal(stretched(wave, speed, piece), whole)
    assert len(whole) == round(len(wave) / speed)
    assert np.sqrt(np.mean(whole**2)) == pytest.approx(np.sqrt(np.mean(wave**2)), rel=0.05)


def test_sound_comes_while_it_is_made() -> None:
    wave, stretcher = read_wave(SPOKEN[2], RATE_HZ), Stretcher(RATE_HZ, 1.5)
    came = sum(len(stretcher.push(wave[start : start + 480])) for start in range(0, len(wave), 480))
    assert came > len(wave) / 1.5 - 0.06 * RATE_HZ


@pytest.mark.parametrize("size", [0, 1, 100, 2_000])
@pytest.mark.parametrize("speed", [0.25, 1.0, 4.0])
def test_clicks_and_nothing_have_their_length_too(size: int, speed: float) -> None:
    found = stretched(np.full(size, 0.1, np.float32), speed)
    assert len(found) == round(size / speed)
    assert found.dtype == np.float32
