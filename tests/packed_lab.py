"""webm and mp4 files made on the spot, by PyAV or by the program ffmpeg, whichever is there."""

from __future__ import annotations

import importlib.util
import io
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from anytalk.grid.audio import to_pcm16

HAS_AV, HAS_FFMPEG = importlib.util.find_spec("av") is not None, shutil.which("ffmpeg") is not None
NEEDED = pytest.mark.skipif(not (HAS_AV or HAS_FFMPEG), reason="needs PyAV (`pip install av`) or ffmpeg")
CODECS = {"webm": ("libopus", "libvpx"), "mp4": ("aac", "mpeg4")}
SIZE, FRAMES = 64, 10


def packed(kind: str, wave: np.ndarray | None, rate_hz: int, picture: bool = False) -> bytes:
    """A file with sound, (N,) or (N, channels) float32, or a picture, or both."""
    return (_by_av if HAS_AV else _by_ffmpeg)(kind, wave, rate_hz, picture)


def _by_av(kind: str, wave: np.ndarray | None, rate_hz: int, picture: bool) -> bytes:
    import av

    out = io.BytesIO()
    with av.open(out, "w", format=kind) as file:
        streams: list[tuple[Any, list[Any]]] = []
        if picture:
            shown: Any = file.add_stream(CODECS[kind][1], rate=10)
            shown.width = shown.height = SIZE
            shown.pix_fmt = "yuv420p"
            images = np.random.default_rng(0).integers(0, 255, (FRAMES, SIZE, SIZE, 3), dtype=np.uint8)
            streams.append((shown, [av.VideoFrame.from_ndarray(image, format="rgb24") for image in images]))
        if wave is not None:
            samples = np.atleast_2d(wave.T)
            layout = "mono" if len(samples) == 1 else f"{len(samples)} channels" if len(samples) > 2 else "stereo"
            sound: Any = file.add_stream(CODECS[kind][0], rate=rate_hz, layout=layout)
            frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples, np.float32), format="fltp", layout=layout)
            frame.sample_rate = rate_hz
            streams.append((sound, [frame]))
        for stream, frames in streams:
            for frame in [*frames, None]:
                file.mux(stream.encode(frame))
    return out.getvalue()


def _by_ffmpeg(kind: str, wave: np.ndarray | None, rate_hz: int, picture: bool) -> bytes:
    given = b"" if wave is None else to_pcm16(wave)
    channels = "1" if wave is None or wave.ndim == 1 else str(wave.shape[1])
    source, chosen = [], []
    if picture:
        source += ["-f", "lavfi", "-i", f"testsrc=duration=1:size={SIZE}x{SIZE}:rate={FRAMES}"]
        chosen += ["-c:v", CODECS[kind][1]]
    if wave is not None:
        source += ["-f", "s16le", "-ar", str(rate_hz), "-ac", channels, "-i", "pipe:0"]
        chosen += ["-c:a", CODECS[kind][0]]
    # mp4 can't be written to a pipe.
    path = Path(subprocess.check_output(["mktemp", "-u", f"--suffix=.{kind}"], text=True).strip())
    try:
        command = ["ffmpeg", "-v", "error", *source, *chosen, str(path)]
        subprocess.run(command, input=given, check=True, capture_output=True)
        return path.read_bytes()
    finally:
        path.unlink(missing_ok=True)


def with_endless_table(data: bytes) -> bytes:
    """An mp4 whose table of samples says that there are a hundred million of one byte, all in one piece."""
    made, many = bytearray(data), (100_000_000).to_bytes(4, "big")
    place = made.index(b"stsz")
    made[place + 8 : place + 16] = (1).to_bytes(4, "big") + many
    place = made.index(b"stsc")
    made[place + 16 : place + 20] = many
    return bytes(made)


def with_endless_time(data: bytes) -> bytes:
    """The same file, which says that it lasts for years: mp4 in two places, webm in one."""
    made = bytearray(data)
    for name in (b"mvhd", b"mdhd"):
        if name in made:
            place = made.index(name) + 4 + 16
            made[place : place + 4] = b"\x7f" + b"\xff" * 3
    if b"\x44\x89\x88" in made:
        place = made.index(b"\x44\x89\x88") + 3
        made[place : place + 8] = np.array(1e15, ">f8").tobytes()
    return bytes(made)
