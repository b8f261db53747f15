"""The ``transcript`` ears: Whisper writes down what was said, and the words are typed into the prompt.

They need no training and fit any backbone. The encoder sees at least `window_s` of sound: behind shorter windows the
decoder often repeats itself without end. Where it still runs away, the clip is heard again in Whisper's own 30 s.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import torch
from pydantic import Field
from torch import Tensor
from whisper.audio import SAMPLE_RATE
from whisper.model import Whisper

from anytalk import plugins
from anytalk.plugins.components import BuildContext
from anytalk.plugins.contracts import Ears, Heard
from anytalk_adapters.whisper_encoder import SAMPLES_PER_FRAME, WhisperEncoder, covering_frames
from anytalk_adapters.whisper_weights import PACKAGED_BASE, PACKAGED_TINY_EN, load_for_language
from anytalk_adapters.whisper_writer import WhisperWriter, Written


class TranscriptEars(Ears):
    """Whisper's encoder and decoder, greedy."""

    licence = "MIT"

    class Options(plugins.Options):
        """Options of ``transcript``."""

        weight_sources = ("model",)

        model: str = Field(
            "base",
            description="Whisper name (tiny.en ... turbo), .pt file, CTranslate2 folder or model.bin, or package:...",
        )
        language: str | None = Field("en", description="Language code spoken; null detects it in each clip.")
        window_s: float = Field(
            20.0, ge=12, le=30, description="Sound that is encoded at least, filled up with silence; less is faster."
        )

    def __init__(self, model: Whisper, options: TranscriptEars.Options) -> None:
        super().__init__()
        self.encoder = WhisperEncoder(model.encoder)
        self.writer = WhisperWriter(model, options.language)
        self._window_frames = round(options.window_s * SAMPLE_RATE / SAMPLES_PER_FRAME)

    @classmethod
    def build(cls, options: Any, context: BuildContext) -> Self:
        """Load the model, float32 on the context's device.

        Raises:
            WeightsError: weights that can't be found or read.
            ConfigError: a language that the model doesn't know.
        """
        model = load_for_language(options.model, options.language, context.folder)
        return cls(model.to(context.device), options).to(context.device).eval()

    @classmethod
    def usual_options(cls) -> list[dict[str, Any]]:
        """Whisper base from its package, from the cache or the net; else tiny.en from its package."""
        return [{"model": PACKAGED_BASE}, {}, {"model": PACKAGED_TINY_EN}]

    @property
    def sample_rate_hz(self) -> int:
        """16000."""
        return int(SAMPLE_RATE)

    @property
    def max_duration_s(self) -> float:
        """30: Whisper has no positions beyond."""
        return self.encoder.max_duration_s

    @torch.no_grad()
    def listen(self, waves: Sequence[Tensor]) -> list[Heard]:
        """(N,) of each clip -> its words, and how sure Whisper is of them.

        Raises:
            AudioError: a clip without samples or of more than 30 s.
        """
        written = [self._write(wave) for wave in waves]
        return [Heard(text=clip.text, confidence=clip.confidence) for clip in written]

    def _write(self, wave: Tensor) -> Written:
        duration_s = len(wave) / SAMPLE_RATE
        window = max(self._window_frames, covering_frames(len(wave)))
        written: Written = self.writer(self.encoder.encode_clip(wave, window), duration_s)
        if written.ran_away and window < self.encoder.max_frames:
            written = self.writer(self.encoder.encode_clip(wave, self.encoder.max_frames), duration_s)
        return written
