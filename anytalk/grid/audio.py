"""Sound in and out: read, resample, write. Everything is mono float32 in [-1, 1] (N,)."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np

from anytalk.errors import AudioError
from anytalk.files import written_whole
from anytalk.plugins.contracts import Audio, Sound

MIN_DURATION_S = 0.1
"""Shorter sound can't hold a word."""

SILENCE_PEAK = 1e-4
"""A peak below -80 dBFS is silence."""


def read_wave(audio: Audio | str, sample_rate_hz: int) -> np.ndarray:
    """Read sound, mix it to mono and resample it.

    Args:
        audio: A file in any format that libsndfile reads (wav, flac, ogg, mp3 ...), or sound from elsewhere.
        sample_rate_hz: Rate wanted.

    Returns:
        (N,) float32.

    Raises:
        AudioError: no such file, not a sound file, no samples, or samples that are not finite.
    """
    samples, rate = _open(audio if isinstance(audio, Sound) else Path(audio))
    name = sound_name(audio)
    if samples.shape[0] == 0:
        raise AudioError(f"'{name}' holds no samples", "record it again")
    wave = samples if samples.ndim == 1 else samples.mean(axis=1)
    if not np.isfinite(wave).all():
        raise AudioError(f"'{name}' holds samples that are not finite numbers", "write it again as 16-bit PCM")
    return resample(wave, rate, sample_rate_hz)


def sound_name(audio: Audio | str) -> str:
    """What messages call it."""
    return audio.name if isinstance(audio, Sound) else str(audio)


def _open(audio: Audio) -> tuple[np.ndarray, int]:
    """(N,) or (N, channels) float32 and its rate."""
    import soundfile

    if isinstance(audio, Path):
        if not audio.is_file():
            raise AudioError(f"'{audio}' doesn't exist", "give the path of a wav, flac, ogg or mp3 file")
        source: str | io.BytesIO = str(audio)
    elif audio.samples is not None:
        return np.asarray(audio.samples, dtype=np.float32), int(audio.sample_rate_hz or 0)
    else:
        source = io.BytesIO(_fetch(audio) if audio.data is None else audio.data)
    try:
        samples, rate = soundfile.read(source, dtype="float32", always_2d=True)
    except (soundfile.LibsndfileError, RuntimeError, TypeError, ValueError) as error:
        raise AudioError(
            f"'{sound_name(audio)}' is not a sound file that can be read: {' '.join(str(error).split())}",
            "expected wav, flac, ogg or mp3; `ffmpeg -i IN OUT.wav` converts others",
        ) from None
    return samples, int(rate)


def _fetch(sound: Sound) -> bytes:
    import fsspec

    try:
        with fsspec.open(sound.url, "rb") as file:
            data: bytes = file.read()
            return data
    except (OSError, ImportError, ValueError) as error:
        raise AudioError(
            f"'{sound.name}' can't be fetched from {sound.url}: {' '.join(str(error).split())}",
            "check the address and the credentials",
        ) from None


def resample(wave: np.ndarray, from_hz: int, to_hz: int) -> np.ndarray:
    """(N,) at one rate -> (N',) float32 at another (soxr, high quality)."""
    if from_hz == to_hz:
        return np.asarray(wave, dtype=np.float32)
    import soxr

    return np.asarray(soxr.resample(wave, from_hz, to_hz), dtype=np.float32)


def check_speech(wave: np.ndarray, sample_rate_hz: int, name: str, max_duration_s: float | None = None) -> None:
    """Refuse what can't be a question: too short, silent, or longer than `max_duration_s` (None: any length).

    Raises:
        AudioError: what it is and what was expected.
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


def write_wave(path: Path | str, wave: np.ndarray, sample_rate_hz: int) -> None:
    """Write (N,) float32 as 16-bit PCM, clipped; whole or not at all.

    Raises:
        AudioError: the folder can't be written or the disk is full.
    """
    import soundfile

    path = Path(path)
    try:
        with written_whole(path) as partial:
            soundfile.write(str(partial), np.clip(wave, -1.0, 1.0), sample_rate_hz, subtype="PCM_16", format="WAV")
    except (OSError, soundfile.LibsndfileError) as error:
        raise AudioError(
            f"'{path}' can't be written: {error}", "is the folder writable and the disk not full?"
        ) from None


def to_pcm16(wave: np.ndarray) -> bytes:
    """(N,) float32 -> little-endian 16-bit PCM, clipped (a sample of +1.0 must not wrap to -32768)."""
    pcm: bytes = (np.clip(wave, -1.0, 1.0) * 32767.0).round().astype("<i2").tobytes()
    return pcm
