"""Unpacks webm and mp4, which libsndfile can't read, by PyAV or ffmpeg in a process with tight limits."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Sequence
from importlib.util import find_spec
from shutil import which

from anytalk.errors import AudioError
from anytalk.grid import unpack

PACKED = frozenset(unpack.DEMUXERS)
"""The kinds of files that are unpacked here."""
EXPECTED = "expected wav, flac, ogg, mp3, webm, mp4 or m4a; `ffmpeg -i IN OUT.wav` converts others"
_AT_ONCE = threading.BoundedSemaphore(2)
"""How many files are unpacked at once, since each process may take a gigabyte."""
# Starting the process may take this long, in seconds, before the sound itself counts.
_STARTS_S = 20.0


def unpacked(data: bytes, kind: str, name: str, limits: Sequence[float]) -> bytes:
    """Unpack a file's first audio track.

    Args:
        data: The file's content.
        kind: ``webm`` or ``mp4`` (m4a is one).
        name: What messages call it.
        limits: Samples, seconds, lowest and highest rate in Hz, channels. Longer sound is cut shortly after the limit.

    Returns:
        A wav of one channel at the file's own rate, in float32.

    Raises:
        AudioError: no unpacker is installed, or the sound is missing, out of bounds, or damaged from its start.
    """
    if find_spec("av") is None and not (which("ffmpeg") and hasattr(os, "memfd_create")):
        raise AudioError(
            f"'{name}' is a {kind} file, and nothing that can decode it is installed",
            "pip install 'anytalk[formats]' (PyAV), install ffmpeg, or give wav, flac, ogg or mp3",
        )
    # -P keeps the script's own folder off the path, whose modules could shadow others.
    command = [sys.executable, "-P", unpack.__file__, kind, *map(str, limits)]
    try:
        with _AT_ONCE:
            done = subprocess.run(
                command, input=data, capture_output=True, timeout=_STARTS_S + limits[1] / 10, check=False
            )
    except subprocess.TimeoutExpired:
        raise _unreadable(name, "it takes too long to unpack") from None
    if done.returncode or not done.stdout:
        told = done.stderr.decode(errors="replace")[:200] if done.returncode == unpack.REFUSED else ""
        raise _unreadable(name, told or "nothing of its sound can be unpacked")
    return done.stdout


def _unreadable(name: str, reason: str) -> AudioError:
    return AudioError(f"'{name}' is not a sound file that can be read: {reason}", EXPECTED)
