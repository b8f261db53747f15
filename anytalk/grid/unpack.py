"""Unpacks webm and mp4 in a separate process with limited memory and time: a small file can ask for any amount.

Run it as ``python unpack.py KIND MAX_SAMPLES MAX_SECONDS MIN_HZ MAX_HZ MAX_CHANNELS`` with the file on standard input;
it writes a wav of one channel in float32 to standard output. It uses PyAV, or else the program ffmpeg, and imports
nothing of anytalk.
"""

from __future__ import annotations

import io
import os
import sys
from contextlib import suppress
from typing import Any, NoReturn

DEMUXERS = {"webm": "matroska", "mp4": "mov"}
# ffmpeg has decoders for hundreds of formats; only those that recordings use may run on unknown files.
_CODECS = "aac,aac_fixed,opus,libopus,vorbis,libvorbis,flac,mp3,mp3float"
_MEMORY = 1 << 30
REFUSED = 2
"""The exit status with which standard error says why."""
# The largest chunk size in a wav, which tells readers that the length is unknown.
_ENDLESS = b"\xff" * 4


def _limit(**most: int) -> None:
    """Limit what the process may use; the names are those of `resource`."""
    with suppress(ImportError):  # not on Windows
        import resource

        for name, amount in most.items():
            resource.setrlimit(getattr(resource, f"RLIMIT_{name}"), (amount, amount))


def _refuse(reason: str) -> NoReturn:
    sys.stderr.write(reason)
    raise SystemExit(REFUSED)


def wav_head(rate_hz: int, is_float: bool) -> bytes:
    """Return the head of a wav of one channel and unknown length, in float32 or 16-bit PCM.

    Players accept it for streams.
    """
    kind, width = (3, 4) if is_float else (1, 2)
    numbers = ((16, 4), (kind, 2), (1, 2), (rate_hz, 4), (width * rate_hz, 4), (width, 2), (8 * width, 2))
    body = b"".join(number.to_bytes(size, "little") for number, size in numbers)
    return b"RIFF" + _ENDLESS + b"WAVEfmt " + body + b"data" + _ENDLESS


def _by_library(av: Any, kind: str, most: int, seconds: float, rates_hz: tuple[float, float], channels: float) -> None:
    file = av.open(io.BytesIO(sys.stdin.buffer.read()), format=DEMUXERS[kind], options={"codec_whitelist": _CODECS})
    if not file.streams.audio:
        _refuse("it has no track of sound")
    track = file.streams.audio[0]
    if track.codec_context is None or track.codec_context.name not in _CODECS.split(","):
        _refuse("its sound is neither aac, opus, vorbis, flac nor mp3")
    resampler, left = None, most
    with suppress(av.error.FFmpegError):  # cut off or damaged from here on: what came before is kept
        for frame in file.decode(track):
            if not rates_hz[0] <= frame.sample_rate <= rates_hz[1] or frame.layout.nb_channels > channels:
                _refuse(f"it has {frame.layout.nb_channels} channels at {frame.sample_rate} Hz")
            if resampler is None:
                resampler = av.AudioResampler(format="flt", layout="mono", rate=frame.sample_rate)
                left = min(most, int(seconds * frame.sample_rate))
                sys.stdout.buffer.write(wav_head(frame.sample_rate, is_float=True))
            for mono in resampler.resample(frame):
                sys.stdout.buffer.write(bytes(mono.planes[0])[: 4 * mono.samples])
                left -= mono.samples
            if left < 0:  # one frame too many, from which the reader sees that it is too long
                return
    if resampler is None:
        _refuse("nothing of its sound can be read")


def _by_program(kind: str, most: int, seconds: float) -> NoReturn:
    """Replace this process by ffmpeg; the file is in memory, because ffmpeg must seek in it."""
    number = os.memfd_create("sound")
    os.set_inheritable(number, True)
    with open(number, "wb", closefd=False) as file:
        file.write(sys.stdin.buffer.read())
    # ffmpeg's own messages aren't meant for users.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    asked = ["-protocol_whitelist", "file,pipe", "-codec_whitelist", _CODECS, "-threads", "1", "-f", DEMUXERS[kind]]
    # One second and some bytes too many tell the reader that the sound is too long.
    wanted = ["-map", "0:a:0", "-ac", "1", "-t", str(seconds + 1), "-fs", str(4 * most + 4096)]
    made = ["-c:a", "pcm_f32le", "-f", "wav", "pipe:1"]
    os.execvp("ffmpeg", ["ffmpeg", "-nostdin", *asked, "-i", f"/proc/self/fd/{number}", *wanted, *made])


def main(kind: str, *bounds: str) -> None:
    """Unpack standard input to standard output within the bounds that the module's docstring lists."""
    samples, seconds, least_hz, most_hz, channels = map(float, bounds)
    most = int(samples)
    # CPU seconds: a constant for the start, and a twentieth of the longest sound.
    _limit(AS=_MEMORY, CPU=10 + int(seconds) // 20)
    try:
        import av
    except ImportError:
        _by_program(kind, most, seconds)
    av.logging.set_level(None)
    try:
        _by_library(av, kind, most, seconds, (least_hz, most_hz), channels)
    except (av.error.FFmpegError, MemoryError, ValueError):
        _refuse("nothing of its sound can be read")


if __name__ == "__main__":
    main(*sys.argv[1:])
