"""Who speaks when: Silero's voice activity detector on the CPU, and the turns that follow from it.

The detector looks at windows of 32 ms at 16 kHz; its ONNX file ships in the package ``silero-vad``. It is run here
rather than through that package's wrapper, because the wrapper keeps one client's state for each loaded model.
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
"""Samples of the window before that the model is shown again."""
_STATE = (2, 1, 128)
_HYSTERESIS = 0.15
"""Speech goes on until the probability is this much below the threshold (Silero's own rule)."""
_ONSET_WINDOWS = 2
"""A click fills one window, the shortest syllable two."""


@dataclass(frozen=True)
class VadSettings:
    """Server VAD as the protocol names it."""

    threshold: float = 0.5  # probability from which a window counts as speech
    prefix_padding_ms: int = 300  # sound before the decision that belongs to the turn
    silence_duration_ms: int = 500  # silence that ends a turn


@dataclass(frozen=True)
class TurnEvent:
    """A turn begins or ends."""

    is_start: bool  # whether it begins
    # Where, in samples at 16 kHz since the detector was made; a start lies `prefix_padding_ms` before the first window
    # of speech.
    sample: int


@lru_cache(maxsize=1)
def _silero() -> Any:
    """Return the shared ONNX session; it keeps no state of its own.

    Raises:
        WeightsError: the package is missing or holds no model.
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
    """Probability of speech, window after window."""

    def __init__(self) -> None:
        self._session = _silero()
        self.reset()

    def reset(self) -> None:
        self._state = np.zeros(_STATE, dtype=np.float32)
        self._context = np.zeros((1, _CONTEXT), dtype=np.float32)

    def probability(self, window: np.ndarray) -> float:
        """(WINDOW,) float32 at 16 kHz -> [0, 1]."""
        sound = np.concatenate([self._context, window[None].astype(np.float32)], axis=1)
        inputs = {"input": sound, "state": self._state, "sr": np.array(VAD_RATE_HZ, dtype=np.int64)}
        found, self._state = self._session.run(None, inputs)
        self._context = sound[:, -_CONTEXT:]
        return float(found[0, 0])


class TurnDetector:
    """Sound in, starts and ends of turns out; its `settings` may be replaced at any time."""

    def __init__(self, settings: VadSettings) -> None:
        self.settings = settings
        self.speaking = False
        self._detector = VoiceDetector()
        self._rest = np.zeros(0, dtype=np.float32)
        self._heard = 0  # samples that were decided about
        self._loud = 0  # windows of speech in a row
        self.quiet_since: int | None = None  # sample where the latest pause of the turn began, also after its end
        self._turn_began = 0

    @property
    def num_samples(self) -> int:
        return self._heard + len(self._rest)

    def push(self, wave: np.ndarray) -> list[TurnEvent]:
        """(n,) float32 at 16 kHz -> what begins and ends in it."""
        sound = np.concatenate([self._rest, wave])
        events: list[TurnEvent] = []
        whole = len(sound) - len(sound) % WINDOW
        for start in range(0, whole, WINDOW):
            events += self._decide(self._detector.probability(sound[start : start + WINDOW]))
        self._rest = sound[whole:]
        return events

    def end_turn(self) -> None:
        """Forget a turn that ended for another reason; the next words begin a new one."""
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
