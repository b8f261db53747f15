"""Whole answers as sound files, and questions that come as files. Nothing is written to a disk."""

from __future__ import annotations

import io

import numpy as np

from anytalk.grid.audio import resample, to_pcm16
from anytalk.serve.errors import RequestError
from anytalk.serve.sound import PCM_RATE_HZ

MEDIA_TYPES = {
    "mp3": "audio/mpeg",
    "wav": "audio/wav",
    "flac": "audio/flac",
    "opus": "audio/ogg",
    "pcm": "audio/pcm",
    "pcm16": "audio/pcm",
}
_MAX_CHANNELS = 8
_SOUNDFILE = {
    "mp3": ("MP3", "MPEG_LAYER_III"),
    "wav": ("WAV", "PCM_16"),
    "flac": ("FLAC", "PCM_16"),
    "opus": ("OGG", "OPUS"),
}


def check_format(name: str, param: str) -> None:
    """Look whether answers can be written so.

    Raises:
        RequestError: an unknown format.
    """
    if name not in MEDIA_TYPES:
        known = ", ".join(MEDIA_TYPES)
        raise RequestError(f"sound can't be written as {name[:20]!r}; known: {known}", "unsupported_value", param)


def write_sound(wave: np.ndarray, sample_rate_hz: int, name: str) -> bytes:
    """(N,) float32 -> a file at 24 kHz; ``pcm`` has no header."""
    import soundfile

    wave = np.clip(resample(wave, sample_rate_hz, PCM_RATE_HZ), -1.0, 1.0)
    if name in ("pcm", "pcm16"):
        return to_pcm16(wave)
    kind, subtype = _SOUNDFILE[name]
    out = io.BytesIO()
    soundfile.write(out, wave, PCM_RATE_HZ, format=kind, subtype=subtype)
    return out.getvalue()


def read_sound(data: bytes, name: str, sample_rate_hz: int, max_s: float, param: str) -> np.ndarray:
    """A sound file's bytes -> (N,) float32.

    Its length is looked at before it is unpacked: a small file can hold hours of silence.

    Raises:
        RequestError: nothing that can be read, or more than `max_s`.
    """
    import soundfile

    try:
        with soundfile.SoundFile(io.BytesIO(data)) as file:
            rate, channels = file.samplerate, file.channels
            most = int((max_s + 0.5) * rate)
            samples = file.read(most + 1, dtype="float32", always_2d=True) if channels <= _MAX_CHANNELS else None
    except (soundfile.LibsndfileError, RuntimeError, TypeError, ValueError) as error:
        raise RequestError(
            f"'{name[:80]}' is not a sound file that can be read ({error}); send wav, flac, ogg or mp3",
            "invalid_audio",
            param,
        ) from None
    if samples is None:
        raise RequestError(f"'{name[:80]}' has {channels} channels; send mono", "invalid_audio", param)
    if len(samples) > most:
        raise RequestError(f"'{name[:80]}' lasts more than {max_s:.0f} s; cut it", "audio_too_long", param)
    if not len(samples) or not np.isfinite(samples).all():
        raise RequestError(f"'{name[:80]}' holds no sound", "invalid_audio", param)
    return resample(samples.mean(axis=1), rate, sample_rate_hz)
