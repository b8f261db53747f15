"""Reads sound files of any kind to their true end, and refuses bad ones before allocating memory for them."""

from __future__ import annotations

import io
import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from anytalk.errors import AudioError
from anytalk.grid.packed_sound import EXPECTED, PACKED, unpacked
from anytalk.grid.sound_heads import (
    MOST_LINKS,
    empty_data,
    is_longer_than_told,
    is_mp3,
    is_shorter_than_told,
    mp3_length,
    ogg_links,
    sound_kind,
    with_true_size,
    without_count,
    without_tags,
)
from anytalk.plugins.contracts import Audio, Sound

MAX_SAMPLES = 1 << 27
"""How many samples of one channel are read at most: 512 MB."""

MAX_BYTES = 1 << 30
"""How large a file may be."""

LOUDEST = 16.0
"""Samples with a higher peak can't be a recording that is merely too loud: they are integers written as floats."""

_BLOCK = 1 << 16


@dataclass(frozen=True)
class Bounds:
    """Limits what sound is read; the defaults allow any real recording."""

    rates_hz: tuple[int, int] = (
        1_000,
        768_000,
    )  # lowest and highest; others are mistakes, such as kHz for Hz
    channels: int = 64  # at most
    length_s: float = 1800.0  # at most
    kinds: frozenset[str] | None = None  # as `sound_kind` names them; None: all that can be read

    def most_samples(self, rate_hz: int) -> int:
        """Return how many samples of one channel are allowed at a rate."""
        return int(min(self.length_s * rate_hz, MAX_SAMPLES))


ANY = Bounds()


class TooLongError(AudioError):
    """Raised when sound lasts longer than it may."""


def read_samples(audio: Audio, bounds: Bounds = ANY) -> tuple[np.ndarray, int]:
    """Read sound, mix it to one channel and scale it into range.

    PyAV or the program ffmpeg unpacks webm, mp4 and m4a, in a separate process.

    Returns:
        (N,) float32 in [-1, 1], and its rate in Hz.

    Raises:
        TooLongError: it is longer than the bounds allow.
        AudioError: no such file, no sound file or none that can be read here, no samples, samples that aren't
            finite, or a rate or a number of channels out of bounds.
    """
    name = sound_name(audio)
    if isinstance(audio, Sound) and audio.samples is not None:
        samples, rate_hz = np.asarray(audio.samples, dtype=np.float32), int(audio.sample_rate_hz or 0)
        _check_format(name, rate_hz, 1 if samples.ndim == 1 else samples.shape[1], bounds)
        if len(samples) > bounds.most_samples(rate_hz):
            raise _too_long(name, bounds)
        wave = _one_channel(samples)
    else:
        data = _file_of(audio, bounds)
        try:
            wave, rate_hz = _read(data, name, bounds)
        except AudioError:
            if not _is_piped(data):
                raise
            wave, rate_hz = _read(data, name, bounds, piped=False)  # an mp3 that ends in the middle of a frame
    if len(wave) == 0:
        raise AudioError(f"'{name}' holds no samples", "record it again")
    return _in_range(wave, name), rate_hz


def _one_channel(samples: np.ndarray) -> np.ndarray:
    """Mix (N,) or (N, channels) to (N,)."""
    if samples.ndim == 1 or samples.shape[1] == 1:
        return samples.reshape(-1)
    with np.errstate(invalid="ignore", over="ignore"):  # samples that aren't finite are refused later, with a message
        return np.asarray(samples.mean(axis=1))


def sound_length_s(audio: Audio) -> float | None:
    """Return the length of a sound in seconds, from its header where possible, otherwise by reading all of it.

    Returns:
        Seconds; None for sound that would have to be downloaded.

    Raises:
        AudioError: as in :func:`read_samples`, as far as faults show in what is read.
    """
    name = sound_name(audio)
    if isinstance(audio, Sound) and audio.samples is not None:
        _check_format(name, int(audio.sample_rate_hz or 0), 1, ANY)
        return len(audio.samples) / int(audio.sample_rate_hz or 1)
    if isinstance(audio, Sound) and audio.data is None:
        return None
    data = _file_of(audio, ANY)
    try:
        return sum(_length_s(link, name) for link in _links(data, name))
    except AudioError:
        if not _is_piped(data):
            raise
        return _length_s(data, name, piped=False)


def _length_s(source: Path | bytes, name: str, piped: bool = True) -> float:
    with _opened(source, name, ANY, piped) as file:
        # Streams write impossible lengths (0, or the largest number), so those are counted.
        is_told = 0 < file.frames <= ANY.most_samples(file.samplerate)
        if is_told and not _is_piped(source) and not is_shorter_than_told(_head(source), _size(source)):
            return float(file.frames / file.samplerate)
        return float(sum(len(block) for block in _blocks(file, name, ANY)) / file.samplerate)


def sound_name(audio: Audio | str) -> str:
    """Return what messages call a sound."""
    return audio.name if isinstance(audio, Sound) else str(audio)


def _file_of(audio: Audio, bounds: Bounds) -> Path | bytes:
    """Return a file that libsndfile can read, unpacked if need be."""
    data, name = _data_of(audio), sound_name(audio)
    if _head(data)[:3] == b"ID3":
        data = without_tags(_bytes(data))
    kind = sound_kind(_head(data))
    if bounds.kinds is not None and kind not in bounds.kinds:
        raise AudioError(f"'{name}' is not a sound file of a known kind", EXPECTED)
    if kind is None or kind not in PACKED:
        return data
    return unpacked(_bytes(data), kind, name, (MAX_SAMPLES, bounds.length_s, *bounds.rates_hz, bounds.channels))


def _data_of(audio: Audio) -> Path | bytes:
    if isinstance(audio, Sound):
        return _fetch(audio) if audio.data is None else audio.data
    try:
        size = audio.stat().st_size if audio.is_file() else None
    except (OSError, ValueError):  # for example a name that is too long
        size = None
    if size is None:
        raise AudioError(f"'{str(audio)[:200]}' doesn't exist", "give the path of a sound file")
    try:
        with audio.open("rb") as file:
            file.read(1)
    except OSError as error:
        raise AudioError(
            f"'{audio}' can't be read: {error.strerror}", "are you allowed to? chmod +r gives it"
        ) from None
    if size > MAX_BYTES:
        raise AudioError(f"'{audio}' has {size:,} bytes; at most {MAX_BYTES:,} are read", "cut it into pieces")
    return audio


def _fetch(sound: Sound) -> bytes:
    import fsspec

    try:
        with fsspec.open(sound.url, "rb") as file:
            data: bytes = file.read(MAX_BYTES + 1)
    except Exception as error:  # each filesystem has its own errors
        raise AudioError(
            f"'{sound.name}' can't be fetched from {sound.url}: {' '.join(str(error).split())}",
            "check the address and the credentials",
        ) from None
    if len(data) > MAX_BYTES:
        raise AudioError(f"'{sound.name}' has more than {MAX_BYTES:,} bytes", "cut it into pieces")
    return data


def _read(source: Path | bytes, name: str, bounds: Bounds, piped: bool = True) -> tuple[np.ndarray, int]:
    blocks, rates_hz, left = [np.zeros(0, np.float32)], set[int](), bounds
    for link in _links(source, name):
        with _opened(link, name, left, piped) as file:
            found = [_one_channel(block) for block in _blocks(file, name, left)]
            rates_hz.add(int(file.samplerate))
        left = replace(left, length_s=left.length_s - sum(map(len, found)) / max(rates_hz))
        blocks += found
    if len(rates_hz) > 1:
        raise AudioError(f"'{name}' changes its sample rate in the middle", "`ffmpeg -i IN OUT.wav` converts it")
    return np.concatenate(blocks), rates_hz.pop()


def _links(source: Path | bytes, name: str) -> list[Path | bytes]:
    """Return the streams that lie one after another in a file: of Ogg there may be several, as in recorded radio."""
    if sound_kind(_head(source)) != "ogg":
        return [source]
    links = ogg_links(_bytes(source))
    if len(links) > MOST_LINKS:
        raise AudioError(f"'{name}' holds more than {MOST_LINKS:,} streams", "cut it into pieces")
    return [*links]


class _Memory(io.BytesIO):
    """Accepts seeks to before the first byte, as a file does: damaged headers lead there."""

    def seek(self, offset: int, whence: int = 0) -> int:
        """Seek; nothing happens where there is no such place (``BytesIO`` would go to the beginning)."""
        start = (0, self.tell(), self.getbuffer().nbytes)[whence]
        return super().seek(start + offset) if start + offset >= 0 else self.tell()


@contextmanager
def _opened(source: Path | bytes, name: str, bounds: Bounds, piped: bool = True) -> Iterator[Any]:
    """Open a sound file that is read to its end, whatever length its header claims; errors become AudioError."""
    import soundfile

    class Stream(soundfile.SoundFile):  # type: ignore[misc]
        """Reads until nothing comes; a seekable file would stop where the header says."""

        def seekable(self) -> bool:
            return False

    try:
        # A number of a file is closed where it was opened: closed twice, it may be another thread's by then.
        with _source(source, piped) as given, Stream(given, closefd=not isinstance(given, int)) as file:
            _check_format(name, int(file.samplerate), int(file.channels), bounds)
            yield file
    except (soundfile.LibsndfileError, RuntimeError, TypeError, ValueError) as error:
        # libsndfile's message begins with the name, which ours has already.
        reason = re.sub(r"^Error opening .*?: ", "", " ".join(str(error).split()))
        raise AudioError(f"'{name}' is not a sound file that can be read: {reason}", EXPECTED) from None


@contextmanager
def _source(source: Path | bytes, piped: bool) -> Iterator[Any]:
    """Yield what libsndfile must be given so that it reads to the end."""
    head = _head(source)
    place = empty_data(head)
    if piped and _is_piped(source):
        # libsndfile estimates a seekable mp3's length from the first frame's bit rate, and stops there.
        data = _bytes(source)
        with _pipe(without_count(data) if is_longer_than_told(head, len(data)) else data) as end:
            yield end
    elif place is not None:
        yield _Memory(with_true_size(_bytes(source), place))
    elif isinstance(source, bytes):
        yield _Memory(source)
    elif source.suffix.lower() == ".mp3":  # with its name, it may have anything in front of its frames
        yield str(source)
    else:  # without its name, or what has no head would be read as noise where that ends in .snd or .vox
        with source.open("rb") as file:
            yield file.fileno()


def _head(source: Path | bytes) -> bytes:
    if isinstance(source, bytes):
        return source[:_BLOCK]
    with source.open("rb") as file:
        return file.read(_BLOCK)


def _bytes(source: Path | bytes) -> bytes:
    return source.read_bytes() if isinstance(source, Path) else source


def _size(source: Path | bytes) -> int:
    return len(source) if isinstance(source, bytes) else source.stat().st_size


def _is_piped(source: Path | bytes) -> bool:
    head = _head(source)
    return is_mp3(head) and (mp3_length(head) is None or is_longer_than_told(head, _size(source)))


@contextmanager
def _pipe(data: bytes) -> Iterator[int]:
    # A pipe can't be seeked in, so libsndfile reads an mp3 to its end; a thread must feed it meanwhile.
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
        os.close(reading)
        thread.join()


def _blocks(file: Any, name: str, bounds: Bounds) -> Iterator[np.ndarray]:
    """Yield pieces (n, channels) float32 up to the end of the file."""
    # The length is checked while reading, since headers can't be trusted with it.
    left = bounds.most_samples(int(file.samplerate))
    while len(block := file.read(_BLOCK, dtype="float32", always_2d=True)):
        left -= len(block)
        if left < 0:
            raise _too_long(name, bounds)
        yield block


def _too_long(name: str, bounds: Bounds) -> TooLongError:
    said = f"{bounds.length_s / 60:.0f} minutes" if bounds.length_s > 120 else f"{bounds.length_s:g} seconds"
    return TooLongError(f"'{name}' is longer than {said}", "cut it into pieces")


def _check_format(name: str, rate_hz: int, channels: int, bounds: Bounds) -> None:
    least, most = bounds.rates_hz
    if not least <= rate_hz <= most:
        raise AudioError(
            f"'{name}' has a sample rate of {rate_hz} Hz; {least} to {most} are possible",
            "is the rate given in kHz, or the header damaged? Write the file again",
        )
    if not 1 <= channels <= bounds.channels:
        raise AudioError(f"'{name}' has {channels} channels; 1 to {bounds.channels} are possible", "mix it to one")


def _in_range(wave: np.ndarray, name: str) -> np.ndarray:
    """Scale samples into [-1, 1]: too loud ones by their peak, 16-bit integers written as floats by 32768."""
    peak = float(np.abs(wave).max())
    if not np.isfinite(peak):
        raise AudioError(f"'{name}' holds samples that are not finite numbers", "write it again as 16-bit PCM")
    if peak <= 1.0:
        return np.asarray(wave, dtype=np.float32)
    # The samples are 16-bit integers that were written as floats.
    if LOUDEST < peak <= 32768.0:
        return np.asarray(wave / 32768.0, dtype=np.float32)
    if peak > 32768.0:
        raise AudioError(
            f"'{name}' holds samples up to {peak:.3g}; between -1 and 1 are expected", "write it again as 16-bit PCM"
        )
    return np.asarray(wave / peak, dtype=np.float32)
