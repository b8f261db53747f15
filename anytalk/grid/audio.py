"""Reads, checks, resamples and writes sound, which is always mono float32 in [-1, 1], (N,)."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from anytalk.errors import AudioError
from anytalk.files import written_whole
from anytalk.grid.sound_files import read_samples, sound_length_s, sound_name
from anytalk.plugins.contracts import Audio, Sound

__all__ = [
    "check_said",
    "check_speech",
    "joined",
    "read_wave",
    "resample",
    "sound_length_s",
    "sound_name",
    "to_pcm16",
    "write_wave",
]

MIN_DURATION_S = 0.1
"""Shorter questions can't contain a word."""

_SHORTEST_WORD_S = 0.05
"""Shorter answers are only clicks."""

MAX_LETTERS_PER_S = 60
"""Twice as many letters as a synthesizer says at double speed."""

_FREE_LETTERS = 40
"""So few letters aren't checked: they may be an abbreviation, a number or a tone in a test."""

SILENCE_PEAK = 1e-4
"""A lower peak (-80 dBFS) counts as silence."""


def read_wave(audio: Audio | str, sample_rate_hz: int) -> np.ndarray:
    """Read sound, mix it to mono and resample it.

    Args:
        audio: A webm, mp4 or m4a, a file that libsndfile reads (wav, flac, ogg, mp3 ...), or a :class:`Sound`.
        sample_rate_hz: The rate to resample to.

    Returns:
        (N,) float32.

    Raises:
        AudioError: as in :func:`~anytalk.grid.sound_files.read_samples`.
    """
    wave, rate_hz = read_samples(audio if isinstance(audio, Sound) else Path(audio))
    return resample(wave, rate_hz, sample_rate_hz)


def resample(wave: np.ndarray, from_hz: int, to_hz: int) -> np.ndarray:
    """Resample a wave with soxr in high quality, (N,) -> (N',) float32."""
    if from_hz == to_hz:
        return np.asarray(wave, dtype=np.float32)
    # soxr is imported only where it is needed, so that commands without sound start faster.
    import soxr

    return np.asarray(soxr.resample(wave, from_hz, to_hz), dtype=np.float32)


def check_speech(wave: np.ndarray, sample_rate_hz: int, name: str, max_duration_s: float | None = None) -> None:
    """Refuse what can't be a spoken question: too short, silent, or longer than `max_duration_s` (None: any length).

    Raises:
        AudioError: it says how long or loud the sound is, and what was expected.
    """
    duration_s = len(wave) / sample_rate_hz
    if duration_s < MIN_DURATION_S:
        raise AudioError(
            f"'{name}' lasts {duration_s:.3f} s; at least {MIN_DURATION_S} s of speech are expected", "record it again"
        )
    if max_duration_s is not None and duration_s > max_duration_s:
        raise AudioError(
            f"'{name}' lasts {duration_s:.1f} s; a question may last {max_duration_s:g} s",
            "cut it into shorter turns",
        )
    if float(np.abs(wave).max()) < SILENCE_PEAK:
        raise AudioError(f"'{name}' is silent (peak below -80 dBFS)", "check the microphone or the recording level")


def check_said(wave: np.ndarray | None, length_s: float, text: str, name: str) -> None:
    """Refuse sound in which nobody can say `text`: a click, silence, or too little time for its letters.

    Args:
        wave: (N,), or None if only its codes are known.
        length_s: The length of the sound in seconds.
        text: What the sound should say.
        name: What messages call it.

    Raises:
        AudioError: it says what is wrong with the sound.
    """
    if wave is not None and length_s < _SHORTEST_WORD_S:
        raise AudioError(f"{name} lasts {length_s:.3f} s; that is too short for speech", "record it again")
    if wave is not None and float(np.abs(wave).max(initial=0.0)) < SILENCE_PEAK:
        raise AudioError(f"{name} is silent (peak below -80 dBFS)", "record it again")
    letters = sum(character.isalnum() for character in text)
    if letters > _FREE_LETTERS + MAX_LETTERS_PER_S * length_s:
        raise AudioError(f"{name} lasts {length_s:.2f} s, too short for {letters} letters", "record it again")


def write_wave(path: Path | str, wave: np.ndarray, sample_rate_hz: int) -> None:
    """Write (N,) float32 as a wav of clipped 16-bit PCM, completely or not at all.

    Raises:
        AudioError: the folder can't be written to, or the disk is full.
    """
    import soundfile

    path = Path(path)
    try:
        # By its number: libsndfile takes no names that are no UTF-8.
        with written_whole(path) as partial, partial.open("wb") as file:
            clipped = np.clip(wave, -1.0, 1.0)
            soundfile.write(file.fileno(), clipped, sample_rate_hz, subtype="PCM_16", format="WAV", closefd=False)
    except (OSError, soundfile.LibsndfileError) as error:
        raise AudioError(
            f"'{path}' can't be written: {error}", "is the folder writable and the disk not full?"
        ) from None


def joined(pieces: Iterable[np.ndarray]) -> np.ndarray:
    """Join pieces (n,) into one wave (N,) float32; no pieces give an empty one."""
    return np.concatenate([np.zeros(0, dtype=np.float32), *pieces])


def to_pcm16(wave: np.ndarray) -> bytes:
    """Convert (N,) float32 to little-endian 16-bit PCM, clipped so that a sample of +1.0 doesn't wrap to -32768."""
    pcm: bytes = (np.clip(wave, -1.0, 1.0) * 32767.0).round().astype("<i2").tobytes()
    return pcm
