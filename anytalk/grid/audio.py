"""Sound in and out: read, resample, write. Everything is mono float32 in [-1, 1] (N,)."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import numpy as np

from anytalk.errors import AudioError

MIN_DURATION_S = 0.1
"""Shorter sound can't hold a word."""

MAX_DURATION_S = 30.0
"""Whisper's window; longer questions are refused, not silently cut."""

SILENCE_PEAK = 1e-4
"""A peak below -80 dBFS is silence."""


def read_wave(path: Path | str, sample_rate_hz: int) -> np.ndarray:
    """Read a sound file, mix it to mono and resample it.

    Args:
        path: Any format that libsndfile reads (wav, flac, ogg, mp3 ...).
        sample_rate_hz: Rate wanted.

    Returns:
        (N,) float32.

    Raises:
        AudioError: no such file, not a sound file, no samples, or samples that are not finite.
    """
    import soundfile

    path = Path(path)
    if not path.is_file():
        raise AudioError(f"'{path}' doesn't exist", "give the path of a wav, flac, ogg or mp3 file")
    try:
        samples, rate = soundfile.read(str(path), dtype="float32", always_2d=True)
    except (soundfile.LibsndfileError, RuntimeError, TypeError, ValueError) as error:
        raise AudioError(
            f"'{path}' is not a sound file that can be read: {' '.join(str(error).split())}",
            "expected wav, flac, ogg or mp3; `ffmpeg -i IN OUT.wav` converts others",
        ) from None
    if samples.shape[0] == 0:
        raise AudioError(f"'{path}' holds no samples", "record it again")
    wave = samples.mean(axis=1)
    if not np.isfinite(wave).all():
        raise AudioError(f"'{path}' holds samples that are not finite numbers", "write it again as 16-bit PCM")
    return resample(wave, int(rate), sample_rate_hz)


def resample(wave: np.ndarray, from_hz: int, to_hz: int) -> np.ndarray:
    """(N,) at one rate -> (N',) float32 at another (soxr, high quality)."""
    if from_hz == to_hz:
        return np.asarray(wave, dtype=np.float32)
    import soxr

    return np.asarray(soxr.resample(wave, from_hz, to_hz), dtype=np.float32)


def check_speech(wave: np.ndarray, sample_rate_hz: int, name: str, max_duration_s: float = MAX_DURATION_S) -> None:
    """Refuse what can't be a question: too short, silent or too long.

    Raises:
        AudioError: what it is and what was expected.
    """
    duration_s = len(wave) / sample_rate_hz
    if duration_s < MIN_DURATION_S:
        raise AudioError(
            f"'{name}' lasts {duration_s:.3f} s; at least {MIN_DURATION_S} s of speech are expected", "record it again"
        )
    if duration_s > max_duration_s:
        raise AudioError(
            f"'{name}' lasts {duration_s:.1f} s; a question may last {max_duration_s:.0f} s",
            "cut it into shorter turns",
        )
    if float(np.abs(wave).max()) < SILENCE_PEAK:
        raise AudioError(f"'{name}' is silent (peak below -80 dBFS)", "check the microphone or the recording level")


def write_wave(path: Path | str, wave: np.ndarray, sample_rate_hz: int) -> None:
    """Write (N,) float32 as 16-bit PCM, clipped; beside the target first, then renamed.

    Raises:
        AudioError: the folder can't be written or the disk is full.
    """
    import soundfile

    path = Path(path)
    partial = path.with_name(f".{path.name}.partial.wav")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(str(partial), np.clip(wave, -1.0, 1.0), sample_rate_hz, subtype="PCM_16", format="WAV")
        partial.replace(path)
    except (OSError, soundfile.LibsndfileError) as error:
        with suppress(OSError):  # its folder may be the very thing that can't be made
            partial.unlink()
        raise AudioError(
            f"'{path}' can't be written: {error}", "is the folder writable and the disk not full?"
        ) from None


def to_pcm16(wave: np.ndarray) -> bytes:
    """(N,) float32 -> little-endian 16-bit PCM, clipped (a sample of +1.0 must not wrap to -32768)."""
    pcm: bytes = (np.clip(wave, -1.0, 1.0) * 32767.0).round().astype("<i2").tobytes()
    return pcm
