"""Implements the speech encoder ``whisper``: Whisper's encoder runs on sound of its real length instead of 30 s."""

from __future__ import annotations

from typing import Any, Self

import torch
from pydantic import Field
from torch import Tensor, nn
from whisper.audio import HOP_LENGTH, SAMPLE_RATE, log_mel_spectrogram

from anytalk import plugins
from anytalk.errors import AudioError, ConfigError
from anytalk.plugins.components import BuildContext
from anytalk.plugins.contracts import Arithmetic, Peaks, SpeechEncoder, torch_dtype
from anytalk_adapters.whisper_ready import make_int8
from anytalk_adapters.whisper_weights import load_whisper

__all__ = ["SAMPLES_PER_FRAME", "WhisperEncoder", "cast_layers", "check_samples", "covering_frames", "mini_omni_frames"]

SAMPLES_PER_FRAME: int = 2 * HOP_LENGTH
"""320 samples, 20 ms: the second convolution halves the rate of the mel spectrogram, which has 10 ms steps."""


def covering_frames(num_samples: int) -> int:
    """Return how many frames cover so many samples: ``ceil(num_samples / 320)``."""
    return -(-num_samples // SAMPLES_PER_FRAME)


def check_samples(num_samples: int, max_frames: int) -> int:
    """Return the number of samples, if they fit into the frames.

    Raises:
        AudioError: The clip has no samples, or more than the frames hold.
    """
    longest = max_frames * SAMPLES_PER_FRAME
    if not 0 < num_samples <= longest:
        raise AudioError(
            f"a clip of {num_samples / SAMPLE_RATE:.2f} s can't be encoded; Whisper hears up to "
            f"{longest / SAMPLE_RATE:.0f} s",
            "cut it into shorter turns" if num_samples else "record it again",
        )
    return num_samples


def mini_omni_frames(num_samples: int) -> int:
    """Return how many frames the original Mini-Omni counts, in its floating point.

    They are the whole 20 ms steps plus one. For 9 of the exact multiples of 320 below 30 s (64320 samples, for example)
    rounding makes it one less, and its adapters were trained with that.
    """
    return int(((num_samples / SAMPLE_RATE) * 1000) / 20) + 1


class WhisperEncoder(SpeechEncoder):
    """Returns Whisper's features after its last layer norm, 50 per second.

    By default each clip is padded only to a whole frame and takes the first positions, so that its time depends on its
    length. With `pad_to_30s` the encoder sees 30 s, as in Whisper's training and in the original Mini-Omni, and
    :func:`mini_omni_frames` of them count.

    Rows don't affect one another: the mel spectrogram is normalised per clip, and only rows with the same number of
    frames run together.

    Args:
        encoder: A ``whisper.model.AudioEncoder``.
        pad_to_30s: Whether to pad clips to 30 s.
    """

    licence = "MIT"

    class Options(plugins.Options):
        weight_sources = ("model",)

        model: str = Field(
            default="small",
            description="Whisper name (tiny.en ... turbo), .pt file, CTranslate2 folder or model.bin, or package:...",
        )
        num_blocks: int = Field(
            default=0,
            ge=0,
            description="Run only the first so many blocks, without the last norm, for an input adapter that trains "
            "the others (its option `whisper_blocks`); 0: all.",
        )
        pad_to_30s: bool = Field(
            default=False, description="Always encode 30 s, as the original Mini-Omni; slower, for its weights."
        )

    def __init__(self, encoder: nn.Module, pad_to_30s: bool = False) -> None:
        super().__init__()
        self.encoder: Any = encoder
        self.pad_to_30s = pad_to_30s

    @classmethod
    def build(cls, options: Any, context: BuildContext) -> Self:
        """Load the model and keep its encoder; the decoder is dropped.

        Raises:
            WeightsError: The weights can't be found or read.
            ConfigError: It has fewer blocks than `num_blocks`.
        """
        encoder = load_whisper(options.model, context.folder).encoder
        if options.num_blocks:
            _keep_first(encoder, options.num_blocks)
        cast_layers(encoder, torch_dtype(context.dtype))
        return cls(encoder, options.pad_to_30s).to(context.device).eval()

    @property
    def sample_rate_hz(self) -> int:
        """Return 16000, Whisper's only rate."""
        return int(SAMPLE_RATE)

    @property
    def frame_rate_hz(self) -> float:
        """Return 50."""
        return float(SAMPLE_RATE / SAMPLES_PER_FRAME)

    @property
    def width(self) -> int:
        """Return E: 384 (tiny), 512 (base), 768 (small) ..."""
        return int(self.encoder.positional_embedding.shape[1])

    @property
    def max_frames(self) -> int:
        """Return the number of frames of the longest clip: 1500, which is 30 s."""
        return int(self.encoder.positional_embedding.shape[0])

    @property
    def max_duration_s(self) -> float:
        """Return 30: Whisper has no more positions."""
        return float(self.max_frames * SAMPLES_PER_FRAME / SAMPLE_RATE)

    def forward(self, wave: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Encode (B,N) float32 at 16 kHz, right-padded, with (B,) lengths: (B,F,E) float32, zero in padding, and (B,).

        Raises:
            AudioError: A row has no samples, or more than 30 s.
        """
        samples = [check_samples(int(n), self.max_frames) for n in lengths]
        encoded = [self.max_frames if self.pad_to_30s else covering_frames(n) for n in samples]
        count = mini_omni_frames if self.pad_to_30s else covering_frames
        counted = [min(count(n), self.max_frames) for n in samples]
        features = wave.new_zeros(len(samples), max(counted), self.width)
        # Rows are grouped by length, so no row is padded to a longer one.
        for num_frames in sorted(set(encoded)):
            rows = [row for row, frames in enumerate(encoded) if frames == num_frames]
            mel = torch.stack([self._mel(wave[row, : samples[row]], num_frames) for row in rows])
            for row, feature in zip(rows, self._encode(mel), strict=True):
                features[row, : counted[row]] = feature[: counted[row]].float()
        return features, torch.tensor(counted, device=wave.device)

    def make_ready(self, arithmetic: Arithmetic, peaks: Peaks) -> None:
        """Multiply in 8 bits if `arithmetic` is ``int8``; with any other nothing changes.

        This implements :class:`anytalk.plugins.contracts.MakesReady`.
        """
        if arithmetic == "int8":
            make_int8(self.encoder)

    def _mel(self, wave: Tensor, num_frames: int) -> Tensor:
        """Return the mel spectrogram (mels, 2 * num_frames), in float32 even under autocast: bfloat16 would blur it."""
        with torch.autocast(wave.device.type, enabled=False):
            padding = num_frames * SAMPLES_PER_FRAME - wave.shape[0]
            mel: Tensor = log_mel_spectrogram(wave.float(), self.encoder.conv1.in_channels, padding=padding)
        return mel

    def _encode(self, mel: Tensor) -> Tensor:
        """Run whisper's ``AudioEncoder.forward`` on (B,mels,2F), with the positions cropped to F; return (B,F,E)."""
        hidden = mel.to(self.encoder.conv1.weight.dtype)
        hidden = nn.functional.gelu(self.encoder.conv1(hidden))
        hidden = nn.functional.gelu(self.encoder.conv2(hidden)).transpose(1, 2)
        hidden = (hidden + self.encoder.positional_embedding[: hidden.shape[1]]).to(hidden.dtype)
        for block in self.encoder.blocks:
            hidden = block(hidden)
        result: Tensor = self.encoder.ln_post(hidden)
        return result


def _keep_first(encoder: Any, num_blocks: int) -> None:
    """Drop the blocks after the first ones, and the norm after them all."""
    if num_blocks >= len(encoder.blocks):
        raise ConfigError(
            f"num_blocks is {num_blocks}; this Whisper's encoder has {len(encoder.blocks)} blocks",
            f"take 1 to {len(encoder.blocks) - 1}, or 0 for all",
        )
    encoder.blocks = encoder.blocks[:num_blocks]
    encoder.ln_post = nn.Identity()


def cast_layers(model: nn.Module, dtype: torch.dtype) -> None:
    """Cast all layers but the norms: Whisper's layer norms compute in float32 and need float32 weights."""
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Conv1d):
            module.to(dtype)
