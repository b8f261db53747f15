"""OpenAI Whisper as the judge of what an answer says."""

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
from anytalk_adapters.whisper_weights import PACKAGED_BASE, load_for_language

__all__ = ["WhisperTranscriber"]


class WhisperTranscriber(Transcriber):
    """Greedy decoding without timestamps or fallbacks, so that the same sound always gives the same text.

    Args:
        model: The whole Whisper.
        language: Code such as ``"en"``, or None: detected in each clip.
    """

    licence = "MIT"

    class Options(plugins.Options):
        """Which Whisper judges, and in which language."""

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
        """Load the model, float32 on the context's device.

        Raises:
            WeightsError: weights that can't be found or read.
            ConfigError: a language that the model doesn't know.
        """
        model = load_for_language(options.model, options.language, context.folder)
        return cls(model.to(context.device), options.language)

    def transcribe(self, wave: np.ndarray, sample_rate_hz: int) -> str:
        """(N,) float32 -> text; ``""`` for silence, for no samples and where Whisper hears no speech.

        Raises:
            AudioError: more than one channel, or samples that are not finite.
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
            # Whisper keeps text where it is sure of it even if it hears no speech; sure words in noise are invented.
            logprob_threshold=None,
        )
        return str(heard["text"]).strip()
