"""Encodes clips in Whisper's window of 30 s without computing all of its silence.

Whisper was trained on windows of 30 s that are silent after the sound; in shorter ones it writes other words and
punctuation. The silent frames differ only by their positions, so here one frame replaces several of them and is counted
several times in attention.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from whisper.audio import N_FFT, log_mel_spectrogram
from whisper.model import AudioEncoder

from anytalk_adapters.whisper_attention import run_blocks
from anytalk_adapters.whisper_encoder import SAMPLES_PER_FRAME, check_samples, covering_frames

__all__ = ["WhisperWindow", "Window", "sparse_frames"]

_AFTER_SOUND, _AT_END = 25, 25
"""How many silent frames are never replaced: the first ones, because the convolutions carry sound into two of them, and
the last ones of the window, which Whisper attends to more than to those between."""


@dataclass(frozen=True)
class Window:
    """Holds the encoder's output for a clip and the silence after it."""

    features: Tensor  # (K,E) float32, the frames of the clip first
    log_counts: Tensor | None = None  # (K,) log of how many frames each one counts for; None: one each


class WhisperWindow(nn.Module):
    """Encodes clips in windows of 30 s, padded with zeros as openai-whisper's `transcribe` does.

    Args:
        encoder: ``whisper.model.AudioEncoder``.
    """

    def __init__(self, encoder: AudioEncoder) -> None:
        super().__init__()
        self.encoder = encoder

    @property
    def max_frames(self) -> int:
        """Return how many frames the window has: 1500 for 30 s."""
        return int(self.encoder.positional_embedding.shape[0])

    def forward(self, wave: Tensor, step: int) -> Window:
        """Encode one clip, (N,) at 16 kHz.

        Args:
            wave: Its samples, float32.
            step: How many silent frames one frame replaces; 1 computes all of them, as Whisper does.

        Raises:
            AudioError: The clip has no samples, or more than 30 s.
        """
        check_samples(len(wave), self.max_frames)
        num_dense = min(covering_frames(len(wave)) + _AFTER_SOUND, self.max_frames)
        positions, counts = sparse_frames(num_dense, self.max_frames, step)
        hidden = self._convolved(_mel(wave, self.encoder.conv1.in_channels, num_dense))
        silence = hidden[:, -1:].expand(-1, len(positions) - num_dense, -1)
        hidden = torch.cat([hidden, silence], dim=1)
        hidden = hidden + self.encoder.positional_embedding[positions.to(wave.device)]
        log_counts = None if step == 1 else counts.to(wave.device).log()
        hidden = run_blocks(self.encoder.blocks, hidden, log_counts)
        return Window(self.encoder.ln_post(hidden)[0], log_counts)

    def _convolved(self, mel: Tensor) -> Tensor:
        """Turn a spectrogram (mels,2F) into (1,F,E)."""
        hidden = F.gelu(self.encoder.conv1(mel[None]))
        return F.gelu(self.encoder.conv2(hidden)).transpose(1, 2)


def sparse_frames(num_dense: int, num_frames: int, step: int, num_last: int = _AT_END) -> tuple[Tensor, Tensor]:
    """Choose frames of a window: all of the first and the last ones, and one in `step` between them.

    Returns:
        Their indices (K,) int64, and how many frames each one counts for, (K,) float32, which add up to all frames.

    >>> [found.tolist() for found in sparse_frames(2, 10, 4, num_last=1)]
    [[0, 1, 3, 7, 9], [1.0, 1.0, 3.0, 4.0, 1.0]]
    """
    between = max(0, num_frames - num_last - num_dense)
    groups = -(-between // step)
    ends = [num_dense + group * between // groups for group in range(groups)] + [num_dense + between]
    pairs = list(itertools.pairwise(ends))
    positions = [*range(num_dense), *((begin + end) // 2 for begin, end in pairs), *range(ends[-1], num_frames)]
    counts = [1.0] * num_dense + [float(end - begin) for begin, end in pairs] + [1.0] * (num_frames - ends[-1])
    return torch.tensor(positions), torch.tensor(counts)


def _mel(wave: Tensor, num_mels: int, num_frames: int) -> Tensor:
    """Return the log-mel spectrogram (mels, 2 * num_frames) of (N,): zeros follow the sound, as in `transcribe`."""
    # Some silence, so that the last frames see what comes after the sound; more would not change them.
    mel: Tensor = log_mel_spectrogram(wave.float(), num_mels, padding=2 * N_FFT)
    mel = mel[:, : min(len(wave) // (SAMPLES_PER_FRAME // 2), 2 * num_frames)]
    return F.pad(mel, (0, 2 * num_frames - mel.shape[1]))
