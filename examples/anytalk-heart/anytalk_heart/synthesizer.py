"""hibari-tts itself as a synthesizer: what taught the voice, for comparison and for training speech."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np

from anytalk import plugins
from anytalk.errors import AudioError, ConfigError, PluginError, UnknownNameError
from anytalk.plugins.components import BuildContext
from anytalk.plugins.contracts import Synthesizer

__all__ = ["HibariSynthesizer"]

VOICE = "heart"


class HibariSynthesizer(Synthesizer):
    """English in the one voice of hibari-tts 0.2.1, 24 kHz."""

    licence = "Apache-2.0"

    class Options(plugins.Options):
        """``hibari`` has no options."""

    def __init__(self, engine: Any) -> None:
        self._engine = engine
        self.sample_rate_hz = 24_000

    @classmethod
    def build(cls, options: Options, context: BuildContext) -> HibariSynthesizer:
        """Load hibari-tts.

        Raises:
            PluginError: it is not installed.
        """
        try:
            hibari: Any = importlib.import_module("hibari")
        except ImportError as error:
            raise PluginError(
                f"the synthesizer 'hibari' is not installed: {error}", "pip install hibari-tts==0.2.1"
            ) from None
        return cls(hibari.Hibari())

    @property
    def voices(self) -> list[str]:
        """Its one voice."""
        return [VOICE]

    def sentences(self, text: str) -> list[str]:
        """Cut a text into sentences, as hibari-tts speaks them; an unfinished one comes last."""
        return list(self._engine.split_sentences(text))

    def speak(self, text: str, voice: str | None = None, speed: float = 1.0) -> np.ndarray:
        """See :meth:`anytalk.plugins.contracts.Synthesizer.speak`.

        Raises:
            AudioError: nothing of the text can be said.
            UnknownNameError: another voice.
            ConfigError: a speed outside 0.5 to 2.
        """
        if voice not in (None, VOICE):
            raise UnknownNameError(f"unknown voice '{voice}'", f"voices: {VOICE}")
        if not 0.5 <= speed <= 2.0:
            raise ConfigError(f"speed {speed} is out of range", "expected 0.5 to 2; 1 is the voice's own speed")
        if not any(c.isalnum() for c in text):
            raise AudioError(f"{text!r} holds nothing to say", "give a text with at least one word")
        return np.asarray(self._engine(text, speed=speed, seed=0), dtype=np.float32)
