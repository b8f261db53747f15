"""Turns encoder features (B,F,E) into columns (B,F',D) in the backbone's embedding space: the input adapters.

The paper's ASR adapter is a two-layer MLP (arXiv 2408.16725, section 3.1). The released Mini-Omni has a gated one
(``swiglu``) and, as ``asr_adapter: mlp``, a single linear layer (``mlp`` with ``num_layers=1``).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from anytalk import plugins
from anytalk.plugins.components import BuildContext
from anytalk.plugins.contracts import Backbone, HeardBatch, InputAdapter

MLP_WIDTH_RATIO = 4
"""Hidden width of ``mlp`` and ``stack`` in backbone widths: the usual ratio in transformer MLPs."""

SWIGLU_WIDTH_RATIO = 5.4
SWIGLU_WIDTH_MULTIPLE = 128
"""The released Mini-Omni has 4864 hidden units at width 896: 5.4 widths, rounded up to a multiple of 128."""

SAMPLED_EMBEDDINGS = 1000
"""How many text embeddings are measured to scale speech embeddings; the first are those of common bytes."""


def valid_positions(x: Tensor, lengths: Tensor) -> Tensor:
    """Return (B,T) bool: which positions of (B,T,D) are within each row's length, (B,)."""
    steps = torch.arange(x.shape[1], device=x.device)
    found: Tensor = steps[None] < lengths.to(x.device)[:, None]
    return found


def zero_padding(features: Tensor, lengths: Tensor) -> Tensor:
    """Set frames of (B,F,E) beyond each row's length to zero, NaN included."""
    return features.masked_fill(~valid_positions(features, lengths)[:, :, None], 0.0)


def padded_columns(rows: Sequence[Tensor], most: int, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """Pad rows (n,D) to (B,most,D) and return them with the (B,) number of columns, in the dtype of `lengths`."""
    columns = torch.stack([F.pad(row, (0, 0, 0, most - len(row))) for row in rows])
    return columns, torch.tensor([len(row) for row in rows], device=lengths.device, dtype=lengths.dtype)


def typed(
    lines: Sequence[tuple[int, ...]], backbone: Backbone, adapter: InputAdapter, features: Tensor, lengths: Tensor
) -> HeardBatch:
    """Return the text embeddings of token sequences, in the dtype of (B,F,E) features.

    A sequence is cut off at the number of columns that `adapter` allows for its (B,) frames.
    """
    counts = [adapter.output_length(length) for length in lengths.tolist()]
    lines = [line[:count] for line, count in zip(lines, counts, strict=True)]
    ids = [torch.tensor([line], device=features.device) for line in lines]
    rows = [backbone.embed_text(row)[0].to(features.dtype) for row in ids]
    return HeardBatch(*padded_columns(rows, adapter.output_length(features.shape[1]), lengths), lines)


def stack_frames(features: Tensor, factor: int) -> Tensor:
    """Join `factor` frames of (B,F,E) to one, (B,ceil(F/factor),factor*E); the last group is padded with zeros."""
    batch, frames, width = features.shape
    filled = F.pad(features, (0, 0, 0, -frames % factor))
    return filled.reshape(batch, -1, factor * width)


def swiglu_width(width: int) -> int:
    """Return the hidden width of ``swiglu`` for a backbone of this width: 4864 for 896, as released."""
    return math.ceil(width * SWIGLU_WIDTH_RATIO / SWIGLU_WIDTH_MULTIPLE) * SWIGLU_WIDTH_MULTIPLE


@torch.no_grad()
def text_embedding_rms(backbone: Backbone) -> float:
    """Return the root mean square of a text embedding of `backbone`, averaged over tokens."""
    device = next(backbone.parameters()).device
    ids = torch.arange(min(backbone.text_vocab_size, SAMPLED_EMBEDDINGS), device=device)[None]
    # (1,n,D) -> (n,)
    return float(backbone.embed_text(ids).float().square().mean(dim=-1).sqrt().mean())


class OutputNorm(nn.Module):
    """Scales each column to the size of the backbone's text embeddings: RMS norm, then a learned gain (D,).

    Args:
        width: D.
        scale: Initial gain, and so the RMS of the first outputs.
    """

    def __init__(self, width: int, scale: float) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.full((width,), scale))

    def forward(self, columns: Tensor) -> Tensor:
        """Normalise columns (B,F',D)."""
        return F.rms_norm(columns, columns.shape[-1:], eps=1e-6) * self.gain


def _output_norm(wanted: bool, backbone: Backbone) -> nn.Module:
    return OutputNorm(backbone.width, text_embedding_rms(backbone)) if wanted else nn.Identity()


def _linears(widths: list[int]) -> nn.ModuleList:
    return nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths))


def _run(layers: nn.ModuleList, x: Tensor) -> Tensor:
    """Apply one linear layer, or two with a GELU between them, in the dtype of their weights."""
    x = x.to(next(layers.parameters()).dtype)
    for i, layer in enumerate(layers):
        x = layer(F.gelu(x) if i else x)
    return x


class MlpAdapter(InputAdapter):
    """Applies one or two linear layers to each frame (paper 3.1: two)."""

    licence = "MIT"

    class Options(plugins.Options):
        num_layers: Literal[1, 2] = Field(2, description="Linear layers: 2 (the paper) or 1 (Mini-Omni's `mlp`).")
        hidden_width: int | None = Field(None, ge=1, description="Units between two layers; null: 4 backbone widths.")
        output_norm: bool = Field(False, description="Normalise columns to the size of the text embeddings.")

    def __init__(self, widths: list[int], norm: nn.Module) -> None:
        super().__init__()
        self.layers = _linears(widths)
        self.norm = norm

    @classmethod
    def build(cls, options: MlpAdapter.Options, context: BuildContext) -> MlpAdapter:
        backbone, encoder_width = context.need_backbone(), context.need_encoder_width()
        hidden = options.hidden_width or MLP_WIDTH_RATIO * backbone.width
        widths = [encoder_width, *([hidden] if options.num_layers == 2 else []), backbone.width]
        return cls(widths, _output_norm(options.output_norm, backbone)).to(context.device)

    def output_length(self, num_frames: int) -> int:
        """Return `num_frames`: each frame becomes a column."""
        return num_frames

    def forward(self, features: Tensor, lengths: Tensor) -> HeardBatch:
        """Turn features (B,F,E) with (B,) lengths into columns (B,F,D) with the same lengths."""
        x = zero_padding(features, lengths)
        return HeardBatch(self.norm(_run(self.layers, x)), lengths)


class SwigluAdapter(InputAdapter):
    """Applies the gated MLP of the released Mini-Omni to each frame: ``proj(silu(fc_1 x) * fc_2 x)``, no bias."""

    licence = "MIT"

    class Options(plugins.Options):
        hidden_width: int | None = Field(
            None,
            ge=1,
            description="Hidden units; null: 5.4 backbone widths, rounded up to a multiple of 128 (4864 as released).",
        )
        output_norm: bool = Field(False, description="Normalise columns to the size of the text embeddings.")

    def __init__(self, in_width: int, hidden_width: int, out_width: int, norm: nn.Module) -> None:
        super().__init__()
        self.fc_1 = nn.Linear(in_width, hidden_width, bias=False)
        self.fc_2 = nn.Linear(in_width, hidden_width, bias=False)
        self.proj = nn.Linear(hidden_width, out_width, bias=False)
        self.norm = norm

    @classmethod
    def build(cls, options: SwigluAdapter.Options, context: BuildContext) -> SwigluAdapter:
        backbone, encoder_width = context.need_backbone(), context.need_encoder_width()
        hidden = options.hidden_width or swiglu_width(backbone.width)
        norm = _output_norm(options.output_norm, backbone)
        return cls(encoder_width, hidden, backbone.width, norm).to(context.device)

    def output_length(self, num_frames: int) -> int:
        """Return `num_frames`: each frame becomes a column."""
        return num_frames

    def forward(self, features: Tensor, lengths: Tensor) -> HeardBatch:
        """Turn features (B,F,E) with (B,) lengths into columns (B,F,D) with the same lengths."""
        x = zero_padding(features, lengths).to(self.fc_1.weight.dtype)
        return HeardBatch(self.norm(self.proj(F.silu(self.fc_1(x)) * self.fc_2(x))), lengths)


class StackAdapter(InputAdapter):
    """Joins neighbouring frames and applies a two-layer MLP, which makes prompts `factor` times shorter."""

    licence = "MIT"

    class Options(plugins.Options):
        factor: int = Field(
            5, ge=1, description="Frames per column; 5 makes 10 columns of Whisper's 50 frames a second."
        )
        hidden_width: int | None = Field(None, ge=1, description="Hidden units; null: 4 backbone widths.")
        output_norm: bool = Field(True, description="Normalise columns to the size of the text embeddings.")

    def __init__(self, factor: int, widths: list[int], norm: nn.Module) -> None:
        super().__init__()
        self.layers = _linears(widths)
        self.factor = factor
        self.norm = norm

    @classmethod
    def build(cls, options: StackAdapter.Options, context: BuildContext) -> StackAdapter:
        backbone, encoder_width = context.need_backbone(), context.need_encoder_width()
        hidden = options.hidden_width or MLP_WIDTH_RATIO * backbone.width
        widths = [options.factor * encoder_width, hidden, backbone.width]
        return cls(options.factor, widths, _output_norm(options.output_norm, backbone)).to(context.device)

    def output_length(self, num_frames: int) -> int:
        """Return ``ceil(num_frames / factor)``."""
        return -(-num_frames // self.factor)

    def forward(self, features: Tensor, lengths: Tensor) -> HeardBatch:
        """Turn features (B,F,E) with (B,) lengths into columns (B,ceil(F/factor),D) with their (B,) number."""
        # Padding would otherwise be mixed into a row's last column.
        x = stack_frames(zero_padding(features, lengths), self.factor)
        columns = torch.div(lengths + self.factor - 1, self.factor, rounding_mode="floor")
        return HeardBatch(self.norm(_run(self.layers, x)), columns)
