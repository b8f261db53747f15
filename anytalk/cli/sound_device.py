"""Play and record sound through the optional package sounddevice."""

from __future__ import annotations

from typing import Any, Self

import numpy as np

from anytalk.errors import AudioError, PluginError
from anytalk.grid.audio import joined


def load_sounddevice() -> Any:
    """Import sounddevice; PluginError if the package or the PortAudio library it needs isn't installed."""
    try:
        import sounddevice
    except ImportError:
        raise PluginError(
            "microphone and loudspeaker need the package sounddevice", "pip install 'anytalk[mic]'"
        ) from None
    except OSError as error:  # raised when the PortAudio library is missing
        raise PluginError(f"sounddevice finds no PortAudio: {error}", "apt install libportaudio2") from None
    return sounddevice


class Loudspeaker:
    """Plays pieces of sound as they arrive, inside a ``with`` block.

    Raises:
        AudioError: no loudspeaker accepts this sample rate.
    """

    def __init__(self, sample_rate_hz: int) -> None:
        device = load_sounddevice()
        try:
            self._stream = device.OutputStream(samplerate=sample_rate_hz, channels=1, dtype="float32")
        except device.PortAudioError as error:
            raise AudioError(
                f"no loudspeaker can be opened: {error}", "leave out --speaker and write a file: -o"
            ) from None

    def __enter__(self) -> Self:
        self._stream.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Wait until everything has been played."""
        self._stream.stop()
        self._stream.close()

    def play(self, wave: np.ndarray) -> None:
        """Play samples (N,) in -1 to 1; return as soon as the device has accepted them."""
        self._stream.write(np.clip(wave, -1.0, 1.0).astype(np.float32)[:, None])


def record(sample_rate_hz: int) -> np.ndarray:
    """Record until Enter is pressed and return the samples, (N,) float32; AudioError if no microphone has this rate."""
    device = load_sounddevice()
    pieces: list[np.ndarray] = []

    def take(block: np.ndarray, *_: object) -> None:
        pieces.append(block[:, 0].copy())

    try:
        with device.InputStream(samplerate=sample_rate_hz, channels=1, dtype="float32", callback=take):
            input()
    except device.PortAudioError as error:
        raise AudioError(f"no microphone can be opened: {error}", "ask with a wav file or --text") from None
    return joined(pieces)
