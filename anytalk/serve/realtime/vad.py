"""Detect who speaks when, with Silero's voice activity detector on the CPU, and derive the turns.

The detector processes windows of 32 ms at 16 kHz; its ONNX file is part of the package ``silero-vad``. That package's
wrapper isn't used, because it keeps the state of one client in each loaded model.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from anytalk.errors import WeightsError

VAD_RATE_HZ = 16_000
WINDOW = 512
"""Samples per decision."""
_CONTEXT = 64
"""Samples of the previous window that the model gets again."""
_STATE = (2, 1, 128)
_HYSTERESIS = 0.15
"""Speech continues until the probability is this much below the threshold, which is Silero's own rule."""
_ONSET_WINDOWS = 2
"""Windows of speech that start a turn: a click fills one, the shortest syllable two."""


@dataclass(frozen=True)
class VadSettings:
    """Holds the settings of server VAD, as the protocol names them."""

    threshold: float = 0.5  # least probability for a window to count as speech
    prefix_padding_ms: int = 300  # sound before the first speech that belongs to the turn
    silence_duration_ms: int = 500  # silence that ends a turn


@dataclass(frozen=True)
class TurnEvent:
    """Marks the start or the end of a turn."""

    is_start: bool  # whether the turn starts
    # Position in samples at 16 kHz since the detector was made; a start is `prefix_padding_ms` before the first speech.
    sample: int


@lru_cache(maxsize=1)
def _silero() -> Any:
    """Load the shared ONNX session, which keeps no state of its own.

    Raises:
        WeightsError: the package is missing or contains no model.
    """
    found = importlib.util.find_spec("silero_vad")
    folders = list(found.submodule_search_locations or []) if found else []
    path = Path(folders[0]) / "data" / "silero_vad.onnx" if folders else None
    if path is None or not path.is_file():
        raise WeightsError("server VAD needs the package silero-vad, whose model is missing", "pip install silero-vad")
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(path), sess_options=options, providers=["CPUExecutionProvider"])


class VoiceDetector:
    """Computes the probability of speech, window by window."""

    def __init__(self) -> None:
        self._session = _silero()
        self.reset()

    def reset(self) -> None:
        self._state = np.zeros(_STATE, dtype=np.float32)
        self._context = np.zeros((1, _CONTEXT), dtype=np.float32)

    def probability(self, window: np.ndarray) -> float:
        """Return the probability of speech in a window (WINDOW,) float32 at 16 kHz."""
        sound = np.concatenate([self._context, window[None].astype(np.float32)], axis=1)
        inputs = {"input": sound, "state": self._state, "sr": np.array(VAD_RATE_HZ, dtype=np.int64)}
        found, self._state = self._session.run(None, inputs)
        self._context = sound[:, -_CONTEXT:]
        return float(found[0, 0])


class TurnDetector:
    """Detects starts and ends of turns in a stream of sound; its `settings` may be replaced at any time."""

    def __init__(self, settings: VadSettings) -> None:
        self.settings = settings
        self.speaking = False
        self._detector = VoiceDetector()
        self._rest = np.zeros(0, dtype=np.float32)
        self._heard = 0  # samples that were decided about
        self._loud = 0  # consecutive windows of speech
        self.quiet_since: int | None = None  # start of the turn's latest pause in samples, also after its end
        self._turn_began = 0

    @property
    def num_samples(self) -> int:
        return self._heard + len(self._rest)

    def push(self, wave: np.ndarray) -> list[TurnEvent]:
        """Add samples (n,) float32 at 16 kHz and return the starts and ends of turns in them."""
        sound = np.concatenate([self._rest, wave])
        events: list[TurnEvent] = []
        whole = len(sound) - len(sound) % WINDOW
        for start in range(0, whole, WINDOW):
            events += self._decide(self._detector.probability(sound[start : start + WINDOW]))
        self._rest = sound[whole:]
        return events

    def end_turn(self) -> None:
        """Forget a turn that ended for another reason; further speech starts a new one."""
        self.speaking, self._loud = False, 0
        self._turn_began = self.num_samples

    def _decide(self, probability: float) -> list[TurnEvent]:
        self._heard += WINDOW
        if not self.speaking:
            self._loud = self._loud + 1 if probability >= self.settings.threshold else 0
            if self._loud < _ONSET_WINDOWS:
                return []
            self.speaking, self.quiet_since = True, None
            padding = self.settings.prefix_padding_ms * VAD_RATE_HZ // 1000
            # A turn can't start before the end of the previous one.
            start = max(self._turn_began, self._heard - _ONSET_WINDOWS * WINDOW - padding)
            return [TurnEvent(True, start)]
        if probability >= self.settings.threshold - _HYSTERESIS:
            self.quiet_since = None
            return []
        if self.quiet_since is None:
            self.quiet_since = self._heard - WINDOW
        if (self._heard - self.quiet_since) * 1000 < self.settings.silence_duration_ms * VAD_RATE_HZ:
            return []
        self.end_turn()
        return [TurnEvent(False, self._heard)]
