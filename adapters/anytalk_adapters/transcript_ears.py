"""Implements the ears ``transcript``: Whisper transcribes speech, and the words are typed into the prompt.

They need no training and work with any backbone. Whisper hears each clip in its own window of 30 s, in which one frame
stands for several of the silence after the sound. If the decoder then repeats itself without end, the clip is
transcribed again with all frames. Longer clips are cut in pauses, or where they are quietest, and transcribed piece by
piece.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from whisper.audio import SAMPLE_RATE
from whisper.model import Whisper

from anytalk import plugins
from anytalk.plugins.components import BuildContext
from anytalk.plugins.contracts import Arithmetic, Ears, Heard, HeardWord, Hints, Peaks
from anytalk_adapters.whisper_encoder import SAMPLES_PER_FRAME, covering_frames
from anytalk_adapters.whisper_ready import make_int8
from anytalk_adapters.whisper_times import word_times
from anytalk_adapters.whisper_weights import PACKAGED_BASE, PACKAGED_TINY_EN, load_for_language
from anytalk_adapters.whisper_window import WhisperWindow
from anytalk_adapters.whisper_writer import WhisperWriter

_LONGEST_S = 300.0
"""The longest clip accepted, which limits what a stranger can make a server transcribe."""
_SOONEST_CUT_S, _LONGEST_PIECE_S = 6.0, 14.0
"""When a clip is cut: in windows of 20 or 30 s Whisper often stops at a pause and loses what comes after it."""
_QUIETEST = 1e-6
"""Mean square of -60 dBFS: if no 20 ms are louder, a clip counts as silent. Recorded voices are 30 dB louder."""
_PAUSE_FRAMES, _PAUSE_SHARE = 20, 10**-2.5
_QUIETEST_FRAMES = 15
"""How many frames (0.3 s) are averaged to find the quietest place of a clip without pauses."""


class TranscriptEars(Ears):
    """Transcribes with Whisper's encoder and decoder, greedily."""

    licence = "MIT"

    class Options(plugins.Options):
        """Options of ``transcript``."""

        weight_sources = ("model",)

        model: str = Field(
            "base",
            description="Whisper name (tiny.en ... turbo), .pt file, CTranslate2 folder or model.bin, or package:...",
        )
        language: str | None = Field("en", description="Code of the spoken language; null detects it in each clip.")
        silence_step: int = Field(
            2,
            ge=1,
            le=64,
            description="Frames of the silence after a clip for which one stands; 1: all, as in Whisper; 4 is faster.",
        )

        @model_validator(mode="before")
        @classmethod
        def _without_window(cls, data: Any) -> Any:
            """Read talkers that were saved with a window's length, `window_s`: it always is Whisper's own now."""
            if not isinstance(data, dict):
                return data
            return {name: value for name, value in data.items() if name != "window_s"}

    def __init__(self, model: Whisper, options: TranscriptEars.Options) -> None:
        super().__init__()
        self.encoder = WhisperWindow(model.encoder)
        self.writer = WhisperWriter(model, options.language)
        self._step = options.silence_step

    @classmethod
    def build(cls, options: Any, context: BuildContext) -> Self:
        """Load the model in float32 on the context's device.

        Raises:
            WeightsError: The weights can't be found or read.
            ConfigError: The model doesn't know the language.
        """
        model = load_for_language(options.model, options.language, context.folder)
        return cls(model.to(context.device), options).to(context.device).eval()

    @classmethod
    def usual_options(cls) -> list[dict[str, Any]]:
        """Prefer the installed package of Whisper base, then base from the cache or the net, then packaged tiny.en."""
        return [{"model": PACKAGED_BASE}, {}, {"model": PACKAGED_TINY_EN}]

    @property
    def sample_rate_hz(self) -> int:
        """Return 16000, Whisper's only rate."""
        return int(SAMPLE_RATE)

    @property
    def max_duration_s(self) -> float:
        """Return 300: clips longer than a window are transcribed in pieces."""
        return _LONGEST_S

    @torch.no_grad()
    def listen(self, waves: Sequence[Tensor]) -> list[Heard]:
        """Transcribe clips (N,), each with Whisper's confidence.

        Raises:
            AudioError: A clip has no samples.
        """
        return [Heard.joined([self._write(piece) for piece in cut(wave)]) for wave in waves]

    def make_ready(self, arithmetic: Arithmetic, peaks: Peaks) -> None:
        """Multiply in 8 bits if `arithmetic` is ``int8``; with any other nothing changes.

        This implements :class:`anytalk.plugins.contracts.MakesReady`.
        """
        if arithmetic == "int8":
            make_int8(self.encoder)
            self.writer.make_int8()

    def hinted(self, hints: Hints) -> TranscriptEars:
        """Return these ears with a writer that is told the language, and reads the prompt before each piece of a clip.

        Raises:
            ConfigError: a language that the model doesn't know.
        """
        told = copy.copy(self)
        told._modules = {**self._modules, "writer": self.writer.hinted(hints)}
        return told

    def first_cut(self, wave: Tensor) -> int:
        """Cut in the first pause after 6 s, or at the quietest place before 14 s; see :func:`first_cut`."""
        return first_cut(wave)

    def word_times(self, wave: Tensor, text: str) -> list[HeardWord]:
        """Return when each word of a clip (N,) of at most 30 s was said; this encodes the clip again."""
        return word_times(self.writer, self.encoder(wave, self._step), covering_frames(len(wave)), text)

    def _write(self, wave: Tensor) -> Heard:
        # Of silence Whisper writes "you" or "Thank you." The padding makes one whole frame of a shorter clip.
        if len(wave) and float(_loudness(nn.functional.pad(wave, (0, SAMPLES_PER_FRAME))).max()) < _QUIETEST:
            return Heard(text="", confidence=1.0)
        duration_s = len(wave) / SAMPLE_RATE
        written = self.writer(self.encoder(wave, self._step), duration_s)
        if written.ran_away and self._step > 1:
            written = self.writer(self.encoder(wave, 1), duration_s)
        return Heard(text=written.text, confidence=written.confidence)


def cut(wave: Tensor) -> list[Tensor]:
    """Split (N,) into pieces of at most 14 s that together are the wave."""
    pieces = []
    while at := first_cut(wave):
        pieces.append(wave[:at])
        wave = wave[at:]
    return [*pieces, wave]


def first_cut(wave: Tensor) -> int:
    """Return the first sample after the first piece of (N,), or 0 if there is no cut (yet).

    The cut is in the middle of the first pause after 6 s; a pause is 0.4 s in which every 20 ms are 25 dB softer than
    the loudest before them. Without a pause within 14 s, the cut is where the sound is quietest. More samples never
    move a cut that was found, so a turn can be transcribed while it is spoken: a pause counts once speech follows it.
    """
    soonest, longest = (
        int(seconds * SAMPLE_RATE // SAMPLES_PER_FRAME) for seconds in (_SOONEST_CUT_S, _LONGEST_PIECE_S)
    )
    loudness = _loudness(wave[: longest * SAMPLES_PER_FRAME])
    if len(loudness) <= soonest:
        return 0
    speaks = loudness >= _PAUSE_SHARE * loudness.cummax(dim=0).values
    words = speaks.nonzero()[:, 0]
    for before, after in zip(words.tolist(), words[1:].tolist(), strict=False):
        middle = (before + 1 + after) // 2
        if after - before > _PAUSE_FRAMES and middle >= soonest:
            return int(middle * SAMPLES_PER_FRAME)
    if len(wave) <= longest * SAMPLES_PER_FRAME:
        return 0
    quietest = int(loudness[soonest:].unfold(0, _QUIETEST_FRAMES, 1).mean(dim=1).argmin())
    return (soonest + quietest + _QUIETEST_FRAMES // 2) * SAMPLES_PER_FRAME


def _loudness(wave: Tensor) -> Tensor:
    """Return (F,), the mean square of each whole frame of 20 ms."""
    whole = len(wave) - len(wave) % SAMPLES_PER_FRAME
    return wave[:whole].reshape(-1, SAMPLES_PER_FRAME).square().mean(dim=1)
