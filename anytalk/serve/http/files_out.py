"""Write answers as sound files, and read questions from files, without touching a disk."""

from __future__ import annotations

import io

import numpy as np

from anytalk.errors import AudioError
from anytalk.grid.audio import resample, to_pcm16
from anytalk.grid.sound_files import Bounds, TooLongError, read_samples
from anytalk.grid.stretch import Stretcher
from anytalk.grid.unpack import wav_head
from anytalk.plugins.contracts import Sound
from anytalk.serve.errors import RequestError
from anytalk.serve.sound import PCM_RATE_HZ, Resampler

MEDIA_TYPES = {
    "mp3": "audio/mpeg",
    "wav": "audio/wav",
    "flac": "audio/flac",
    "opus": "audio/ogg",
    "pcm": "audio/pcm",
    "pcm16": "audio/pcm",
}
_KINDS = frozenset({"wav", "flac", "ogg", "mp3", "webm", "mp4"})
_MAX_CHANNELS = 8
_RATES_HZ = (4_000, 192_000)
_SPARE_S = 0.5  # tolerance beyond the longest question
_SOUNDFILE = {
    "mp3": ("MP3", "MPEG_LAYER_III"),
    "wav": ("WAV", "PCM_16"),
    "flac": ("FLAC", "PCM_16"),
    "opus": ("OGG", "OPUS"),
}


def check_format(name: str, param: str) -> None:
    """Check that answers can be written in a format; RequestError if it is unknown."""
    if name not in MEDIA_TYPES:
        known = ", ".join(MEDIA_TYPES)
        raise RequestError(f"sound can't be written as {name[:20]!r}; known: {known}", "unsupported_value", param)


def write_sound(wave: np.ndarray, sample_rate_hz: int, name: str) -> bytes:
    """Encode samples (N,) float32 as a file at 24 kHz; ``pcm`` has no header."""
    import soundfile

    wave = np.clip(resample(wave, sample_rate_hz, PCM_RATE_HZ), -1.0, 1.0)
    if name in ("pcm", "pcm16"):
        return to_pcm16(wave)
    kind, subtype = _SOUNDFILE[name]
    out = io.BytesIO()
    soundfile.write(out, wave, PCM_RATE_HZ, format=kind, subtype=subtype)
    return out.getvalue()


class StreamWriter:
    """Writes a file at 24 kHz while its sound is made; the pieces form the file, whose header has no length.

    Args:
        name: A format that :func:`check_format` accepts. All of a ``flac`` file comes with the last piece, because its
            header depends on all samples.
        from_hz: Sample rate of the sound.
        speed: Speaking speed of the file; the pitch stays the same.
    """

    def __init__(self, name: str, from_hz: int, speed: float = 1.0) -> None:
        self._name, self._resampler = name, Resampler(from_hz, PCM_RATE_HZ)
        self._stretcher = Stretcher(from_hz, speed)
        self._out, self._taken, self._file, self._head = io.BytesIO(), 0, None, b""
        if name in _SOUNDFILE and name != "wav":
            import soundfile

            kind, subtype = _SOUNDFILE[name]
            # Players compute the length of a variable-rate file from its beginning, and get it wrong.
            rate = {"bitrate_mode": "CONSTANT", "compression_level": 0.5} if name == "mp3" else {}
            self._file = soundfile.SoundFile(self._out, "w", PCM_RATE_HZ, 1, format=kind, subtype=subtype, **rate)
        elif name == "wav":
            self._head = wav_head(PCM_RATE_HZ, is_float=False)

    def push(self, wave: np.ndarray, is_last: bool = False) -> bytes:
        """Add samples (n,) float32 and return the next bytes of the file; nothing may follow the last piece."""
        wave = np.clip(self._resampler.push(self._stretcher.push(wave, is_last), is_last), -1.0, 1.0)
        if self._file is None:
            head, self._head = self._head, b""
            return head + to_pcm16(wave)
        self._file.write(wave)
        if is_last:
            self._file.close()
        if self._name == "flac" and not is_last:
            return b""
        self._out.seek(self._taken)
        new = self._out.read()
        self._taken += len(new)
        return new


def read_sound(data: bytes, name: str, sample_rate_hz: int, max_s: float, param: str) -> np.ndarray:
    """Decode a sound file to samples (N,) float32 at `sample_rate_hz`.

    The length is limited during decoding, because a small file can hold hours of silence.

    Raises:
        RequestError: the file can't be read, or is longer than `max_s`.
    """
    bounds = Bounds(_RATES_HZ, _MAX_CHANNELS, max_s + _SPARE_S, _KINDS)
    try:
        wave, rate_hz = read_samples(Sound(name=name[:80], data=data), bounds)
    except TooLongError:
        said = f"'{name[:80]}' lasts more than {max_s:.0f} s; cut it into pieces"
        raise RequestError(said, "audio_too_long", param) from None
    except AudioError as error:
        raise RequestError(f"{error.message}; {error.hint}", "invalid_audio", param) from None
    return resample(wave, rate_hz, sample_rate_hz)
