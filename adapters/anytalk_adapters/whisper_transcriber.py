"""Implements the transcriber ``whisper``, by which evaluation judges what an answer says."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from pydantic import Field
from whisper.audio import SAMPLE_RATE
from whisper.model import Whisper

from anytalk import plugins
from anytalk.errors import AudioError
from anytalk.grid.audio import SILENCE_PEAK, resample
from anytalk.plugins.components import BuildContext
from anytalk.plugins.contracts import Transcriber
from anytalk_adapters.whisper_weights import PACKAGED_BASE, load_for_language, size_name

__all__ = ["WhisperTranscriber"]


class WhisperTranscriber(Transcriber):
    """Decodes greedily without timestamps or fallbacks, so that the same sound always gives the same text.

    Args:
        model: A whole Whisper model.
        language: A code such as ``"en"``; None detects the language of each clip.
    """

    licence = "MIT"

    class Options(plugins.Options):
        weight_sources = ("model",)

        model: str = Field(
            default=PACKAGED_BASE,
            description="Whisper name (tiny.en ... turbo), .pt file, CTranslate2 folder or model.bin, or package:...",
        )
        language: str | None = Field(
            default="en", description="Code of the spoken language; null detects it in each clip."
        )

    def __init__(self, model: Whisper, language: str | None = "en") -> None:
        self.model = model
        self.language = language

    @classmethod
    def build(cls, options: Any, context: BuildContext) -> Self:
        """Load the model in float32 on the context's device.

        Raises:
            WeightsError: The weights can't be found or read.
            ConfigError: The model doesn't know the language.
        """
        model = load_for_language(options.model, options.language, context.folder)
        return cls(model.to(context.device), options.language)

    @property
    def title(self) -> str:
        """Return ``"Whisper base"`` and the like, or "" for a model of unknown size."""
        size = size_name(self.model.dims)
        return size and f"Whisper {size}"

    def transcribe(self, wave: np.ndarray, sample_rate_hz: int) -> str:
        """Transcribe (N,) float32; return ``""`` for silence, no samples, or sound in which Whisper finds no speech.

        Raises:
            AudioError: There is more than one channel, or a sample isn't finite.
        """
        if wave.ndim != 1 or not np.isfinite(wave).all():
            raise AudioError(
                f"samples of shape {wave.shape} can't be transcribed: one channel of finite numbers is expected",
                "mix to mono; look for a division by zero where the sound was made",
            )
        if wave.size == 0 or float(np.abs(wave).max()) < SILENCE_PEAK:
            return ""
        heard = self.model.transcribe(
            resample(wave, sample_rate_hz, SAMPLE_RATE),
            language=self.language,
            temperature=0.0,
            fp16=False,
            without_timestamps=True,
            condition_on_previous_text=False,
            # By default Whisper keeps text that it is sure of, even without speech; in noise such text is made up.
            logprob_threshold=None,
        )
        return str(heard["text"]).strip()
