"""Runs copies of the last blocks of a Whisper encoder, which an input adapter trains.

Whisper's last layers carry what its own decoder needs, not what stands at which frame. CTC hears far better from them
once they are trained for it, and the blocks below stay frozen, so their features can still be prepared once.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from anytalk.errors import ConfigError

from .whisper_attention import run_blocks
from .whisper_weights import load_whisper

__all__ = ["WhisperBlocks"]


class WhisperBlocks(nn.Module):
    """Holds the last blocks and the final norm of a Whisper encoder.

    Args:
        spec: The Whisper that they are copied from, as in
            :func:`~anytalk_adapters.whisper_weights.load_whisper`.
        num_blocks: How many blocks, counted from the last one.
        folder: Folder that relative paths start from.

    Raises:
        WeightsError: The weights can't be found or read.
        ConfigError: The encoder has fewer blocks, and one has to be left that isn't trained.
    """

    def __init__(self, spec: str, num_blocks: int, folder: Path | None = None) -> None:
        super().__init__()
        encoder = load_whisper(spec, folder).encoder
        if num_blocks >= len(encoder.blocks):
            raise ConfigError(
                f"whisper_blocks is {num_blocks}; the encoder of '{spec}' has {len(encoder.blocks)} blocks",
                f"take at most {len(encoder.blocks) - 1}: the frozen encoder runs the others",
            )
        self.width: int = encoder.positional_embedding.shape[1]
        self.blocks = encoder.blocks[-num_blocks:]
        self.norm = encoder.ln_post

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        """Transform the frozen blocks' hidden states, (B,F,E) with (B,) lengths, into (B,F,E); padding isn't seen."""
        is_padding = torch.arange(x.shape[1], device=x.device)[None] >= lengths.to(x.device)[:, None]
        log_counts = None
        if bool(is_padding.any()):
            log_counts = torch.zeros_like(is_padding, dtype=x.dtype).masked_fill(is_padding, -torch.inf)[:, None, None]
        x = run_blocks(self.blocks, x, log_counts)
        normed: Tensor = self.norm(x)
        return normed
