"""Reads sound of any make to its true end, and refuses what can't be sound before room is made for it."""

from __future__ import annotations

import io
import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from anytalk.errors import AudioError
from anytalk.plugins.contracts import Audio, Sound

MIN_RATE_HZ, MAX_RATE_HZ = 1_000, 768_000
"""Rates outside these are lies or mistakes, such as a rate in kHz."""

MAX_CHANNELS = 64
MAX_LENGTH_S = 1800.0
MAX_SAMPLES = 1 << 27
"""Longest sound that is read, in seconds and in samples of one channel: 512 MB."""

MAX_BYTES = 1 << 30
"""Largest file that is read."""

LOUDEST = 16.0
"""A peak above it can't be a recording that was only made too loud: the samples are integers written as floats."""

_BLOCK = 1 << 16
_EXPECTED = "expected wav, flac, ogg or mp3; `ffmpeg -i IN OUT.wav` converts others"


def read_samples(audio: Audio) -> tuple[np.ndarray, int]:
    """Read sound as one channel, in range.

    Returns:
        (N,) float32 in [-1, 1], and its rate in Hz.

    Raises:
        AudioError: no such file, not a sound file, no samples, samples that aren't numbers, or a rate, a length or a
            number of channels that no recording has.
    """
    name = sound_name(audio)
    if isinstance(audio, Sound) and audio.samples is not None:
        samples, rate_hz = np.asarray(audio.samples, dtype=np.float32), int(audio.sample_rate_hz or 0)
        _check_format(name, rate_hz, 1 if samples.ndim == 1 else samples.shape[1])
        if len(samples) > _most_samples(rate_hz):
            raise _too_long(name)
        wave = samples if samples.ndim == 1 else samples.mean(axis=1)
    else:
        data = _data_of(audio)
        try:
            wave, rate_hz = _read(data, name)
        except AudioError:
            if not _is_piped(data):
                raise
            wave, rate_hz = _read(data, name, piped=False)  # an mp3 that is cut off in the middle of a frame
    if len(wave) == 0:
        raise AudioError(f"'{name}' holds no samples", "record it again")
    return _in_range(wave, name), rate_hz


def sound_length_s(audio: Audio) -> float | None:
    """Length of a sound, by its header where that tells it, else by reading it.

    Returns:
        Seconds; None for sound that would have to be fetched.

    Raises:
        AudioError: as :func:`read_samples`, as far as it shows without reading all.
    """
    name = sound_name(audio)
    if isinstance(audio, Sound) and audio.samples is not None:
        _check_format(name, int(audio.sample_rate_hz or 0), 1)
        return len(audio.samples) / int(audio.sample_rate_hz or 1)
    if isinstance(audio, Sound) and audio.data is None:
        return None
    data = _data_of(audio)
    with _opened(data, name) as file:
        is_told = 0 < file.frames <= _most_samples(file.samplerate) and not _is_piped(data)
        frames = file.frames if is_told else sum(len(block) for block in _blocks(file, name))
        return float(frames / file.samplerate)


def sound_name(audio: Audio | str) -> str:
    """What messages call it."""
    return audio.name if isinstance(audio, Sound) else str(audio)


def _data_of(audio: Audio) -> Path | bytes:
    if isinstance(audio, Sound):
        return _fetch(audio) if audio.data is None else audio.data
    try:
        size = audio.stat().st_size if audio.is_file() else None
    except (OSError, ValueError):  # a name that no file can have
        size = None
    if size is None:
        raise AudioError(f"'{str(audio)[:200]}' doesn't exist", "give the path of a wav, flac, ogg or mp3 file")
    if size > MAX_BYTES:
        raise AudioError(f"'{audio}' has {size:,} bytes; at most {MAX_BYTES:,} are read", "cut it into pieces")
    return audio


def _fetch(sound: Sound) -> bytes:
    import fsspec

    try:
        with fsspec.open(sound.url, "rb") as file:
            data: bytes = file.read(MAX_BYTES + 1)
    except Exception as error:  # each filesystem has errors of its own
        raise AudioError(
            f"'{sound.name}' can't be fetched from {sound.url}: {' '.join(str(error).split())}",
            "check the address and the credentials",
        ) from None
    if len(data) > MAX_BYTES:
        raise AudioError(f"'{sound.name}' has more than {MAX_BYTES:,} bytes", "cut it into pieces")
    return data


def _read(source: Path | bytes, name: str, piped: bool = True) -> tuple[np.ndarray, int]:
    with _opened(source, name, piped) as file:
        blocks = [block if block.shape[1] == 1 else block.mean(axis=1) for block in _blocks(file, name)]
        rate_hz = int(file.samplerate)
    return np.concatenate([np.zeros(0, np.float32), *(block.reshape(-1) for block in blocks)]), rate_hz


@contextmanager
def _opened(source: Path | bytes, name: str, piped: bool = True) -> Iterator[Any]:
    """A sound file that is read to its end, whatever its header says of its length; errors as AudioError."""
    import soundfile

    class Stream(soundfile.SoundFile):  # type: ignore[misc]
        """Reads on until nothing comes; a seekable one would stop where the header says."""

        def seekable(self) -> bool:
            return False

    try:
        with _source(source, piped) as given, Stream(given) as file:
            _check_format(name, int(file.samplerate), int(file.channels))
            yield file
    except (soundfile.LibsndfileError, RuntimeError, TypeError, ValueError) as error:
        reason = re.sub(r"^Error opening .*?: ", "", " ".join(str(error).split()))
        raise AudioError(f"'{name}' is not a sound file that can be read: {reason}", _EXPECTED) from None


@contextmanager
def _source(source: Path | bytes, piped: bool) -> Iterator[Any]:
    """What libsndfile is given so that it reads all there is."""
    place = _empty_data(_head(source))
    if piped and _is_piped(source):
        # libsndfile reckons the length of an mp3 that it can seek in from the first frame's bit rate, and stops there.
        with _pipe(_bytes(source)) as end:
            yield end
    elif place is not None:
        yield io.BytesIO(_with_true_size(_bytes(source), place))
    else:
        yield str(source) if isinstance(source, Path) else io.BytesIO(source)


def _head(source: Path | bytes) -> bytes:
    if isinstance(source, bytes):
        return source[:_BLOCK]
    with source.open("rb") as file:
        return file.read(_BLOCK)


def _bytes(source: Path | bytes) -> bytes:
    return source.read_bytes() if isinstance(source, Path) else source


def _is_piped(source: Path | bytes) -> bool:
    head = _head(source)
    return _is_mp3(head) and not _tells_length(head)


def _is_mp3(head: bytes) -> bool:
    return head[:3] == b"ID3" or (len(head) > 1 and head[0] == 0xFF and head[1] & 0xE6 in (0xE2, 0xE4, 0xE6))


def _tells_length(head: bytes) -> bool:
    """Whether an mp3 begins with a count of its frames."""
    for mark in (b"Xing", b"Info"):
        place = head.find(mark)
        if place >= 0:
            flags, frames = (int.from_bytes(head[place + i : place + i + 4], "big") for i in (4, 8))
            return bool(flags & 1) and frames > 0
    return b"VBRI" in head


@contextmanager
def _pipe(data: bytes) -> Iterator[int]:
    reading, writing = os.pipe()

    def write() -> None:
        with os.fdopen(writing, "wb") as file:
            try:
                file.write(data)
            except OSError:  # the reader has closed its end
                return

    thread = threading.Thread(target=write, daemon=True)
    thread.start()
    try:
        yield reading
    finally:
        with suppress(OSError):  # libsndfile closes it itself
            os.close(reading)
        thread.join()


def _empty_data(head: bytes) -> int | None:
    """Where a wav's chunk of samples begins that says it were empty: what writes to a pipe can't know its length."""
    if head[:4] != b"RIFF" or head[8:12] != b"WAVE":
        return None
    place = 12
    while place + 8 <= len(head):
        size = int.from_bytes(head[place + 4 : place + 8], "little")
        if head[place : place + 4] == b"data":
            return place if size == 0 and not _is_chunk(head[place + 8 :]) else None
        place += 8 + size + size % 2
    return None


def _with_true_size(data: bytes, place: int) -> bytes:
    left = len(data) - place - 8
    return data[: place + 4] + left.to_bytes(4, "little") + data[place + 8 :]


def _is_chunk(data: bytes) -> bool:
    name, size = data[:4], int.from_bytes(data[4:8], "little")
    return len(data) >= 8 and name.isascii() and name.decode().isprintable() and size <= len(data) - 8


def _blocks(file: Any, name: str) -> Iterator[np.ndarray]:
    """(n, channels) float32 pieces up to the end."""
    left = _most_samples(int(file.samplerate))
    while len(block := file.read(_BLOCK, dtype="float32", always_2d=True)):
        left -= len(block)
        if left < 0:
            raise _too_long(name)
        yield block


def _most_samples(rate_hz: int) -> int:
    return int(min(MAX_LENGTH_S * rate_hz, MAX_SAMPLES))


def _too_long(name: str) -> AudioError:
    return AudioError(f"'{name}' is longer than {MAX_LENGTH_S / 60:.0f} minutes", "cut it into pieces")


def _check_format(name: str, rate_hz: int, channels: int) -> None:
    if not MIN_RATE_HZ <= rate_hz <= MAX_RATE_HZ:
        raise AudioError(
            f"'{name}' has a sample rate of {rate_hz} Hz; {MIN_RATE_HZ} to {MAX_RATE_HZ} are possible",
            "is the rate given in kHz, or the header damaged? Write the file again",
        )
    if not 1 <= channels <= MAX_CHANNELS:
        raise AudioError(f"'{name}' has {channels} channels; 1 to {MAX_CHANNELS} are possible", "write the file again")


def _in_range(wave: np.ndarray, name: str) -> np.ndarray:
    """Samples within [-1, 1]: too loud ones are made quieter, 16-bit integers written as floats are scaled."""
    peak = float(np.abs(wave).max())
    if not np.isfinite(peak):
        raise AudioError(f"'{name}' holds samples that are not finite numbers", "write it again as 16-bit PCM")
    if peak <= 1.0:
        return np.asarray(wave, dtype=np.float32)
    if LOUDEST < peak <= 32768.0:
        return np.asarray(wave / 32768.0, dtype=np.float32)
    if peak > 32768.0:
        raise AudioError(
            f"'{name}' holds samples up to {peak:.3g}; between -1 and 1 are expected", "write it again as 16-bit PCM"
        )
    return np.asarray(wave / peak, dtype=np.float32)
