"""Defines the base class of input adapters that recognise tokens or letters by CTC, with a frame encoder and a loss."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from anytalk import plugins
from anytalk.errors import ConfigError
from anytalk.plugins.contracts import ForwardPass, InputAdapter, Loss, LossRow

from .input_adapters import valid_positions, zero_padding

if TYPE_CHECKING:
    from .whisper_blocks import WhisperBlocks

_KERNEL = 7
_HIDDEN_FRAMES = 8
"""Length of the stretches that `frame_dropout` hides: 0.16 s of Whisper's frames (SpecAugment, arXiv 1904.08779)."""


class FrameOptions(plugins.Options):
    """Options of the frame encoder."""

    weight_sources = ("whisper",)

    width: int = Field(256, ge=8, description="Width of the convolution blocks.")
    num_blocks: int = Field(3, ge=0, description="Number of convolution blocks.")
    factor: int = Field(2, ge=1, description="Frames per position; 2 gives 25 positions a second with Whisper.")
    dropout: float = Field(
        0.1, ge=0, lt=1, description="Dropout of features in training, the same ones at all positions of a clip."
    )
    frame_dropout: float = Field(0.0, ge=0, lt=1, description="Share of frames hidden in training, in short stretches.")
    whisper_blocks: int = Field(
        0,
        ge=0,
        description="How many of the last blocks of Whisper's encoder the adapter copies and trains; the speech "
        "encoder must run only the others: `num_blocks` of `whisper`.",
    )
    whisper: str = Field(
        "", description="The Whisper whose blocks these are, named as in the speech encoder `whisper`."
    )

    @model_validator(mode="after")
    def _blocks_come_from_somewhere(self) -> Self:
        if bool(self.whisper_blocks) != bool(self.whisper):
            raise ValueError("whisper_blocks and whisper go together: set both, or neither")
        return self


class FrameBlock(nn.Module):
    """Applies a ConvNeXt block (arXiv 2201.03545) along time: a depthwise convolution over neighbours, then an MLP."""

    def __init__(self, width: int, dropout: float = 0.0) -> None:
        super().__init__()
        self._dropout = dropout
        self.near = nn.Conv1d(width, width, _KERNEL, padding=_KERNEL // 2, groups=width)
        self.norm = nn.LayerNorm(width)
        self.wide = nn.Linear(width, 3 * width)
        self.narrow = nn.Linear(3 * width, width)
        # Small, so that a block starts close to the identity.
        nn.init.normal_(self.narrow.weight, std=0.02)

    def forward(self, x: Tensor, is_frame: Tensor) -> Tensor:
        """Transform (B,T,W); `is_frame`, (B,T,1), is 1.0 at valid positions and 0.0 in padding."""
        # Padding is cleared in each block: the biases before it have filled it.
        near = self.near((x * is_frame).transpose(1, 2)).transpose(1, 2)
        wide = F.gelu(self.wide(self.norm(near)))
        out: Tensor = x + self.narrow(drop_features(wide, self._dropout, self.training))
        return out


def drop_features(x: Tensor, share: float, training: bool) -> Tensor:
    """Zero a share of the W features of (B,T,W), the same ones at all positions of a row (arXiv 1512.05287).

    Neighbouring positions then can't make up for a missing feature, and there are far fewer random numbers to draw.
    """
    if not training or not share:
        return x
    return x * F.dropout(torch.ones_like(x[:, :1]), share)


def hide_frames(x: Tensor, share: float, stretch: int) -> Tensor:
    """Zero a share of the frames of (B,F,E), `stretch` frames in a row."""
    if not share:
        return x
    # Max pooling widens each drawn frame into a stretch, so frames are drawn that much more rarely.
    begins = torch.rand(len(x), 1, x.shape[1], device=x.device) < share / stretch
    hidden = F.max_pool1d(begins.to(x.dtype), stretch, stride=1, padding=stretch // 2)
    return x * (1 - hidden[:, 0, : x.shape[1], None])


class FrameListener(InputAdapter):
    """Encodes frames into positions, one for every `factor` frames; a subclass reads tokens or letters from them."""

    licence = "MIT"
    is_elastic = True

    def __init__(self, options: FrameOptions, encoder_width: int, folder: Path | None = None) -> None:
        super().__init__()
        self._frames = options
        self._group = 1  # frames of the speech encoder's model in a row of its features
        self.whisper: WhisperBlocks | None = None
        if options.whisper_blocks:
            # Not at the top: whisper takes a second to import, and most adapters have no blocks of it.
            from .whisper_blocks import WhisperBlocks

            self.whisper = WhisperBlocks(options.whisper, options.whisper_blocks, folder)
            if self.whisper.width != encoder_width:
                raise ConfigError(
                    f"the blocks of '{options.whisper}' are {self.whisper.width} wide, the speech encoder "
                    f"{encoder_width}",
                    "name the same Whisper in both",
                )
        width, factor = options.width, options.factor
        self.norm = nn.LayerNorm(encoder_width)
        self.down = nn.Conv1d(encoder_width, width, 2 * factor - 1, stride=factor, padding=factor - 1)
        self.blocks = nn.ModuleList(FrameBlock(width, options.dropout) for _ in range(options.num_blocks))
        self.out_norm = nn.LayerNorm(width)

    def output_length(self, num_frames: int) -> int:
        """Return ``ceil(num_frames / factor)``, an upper bound: most clips hold fewer words than positions."""
        return -(-num_frames // self._frames.factor)

    def losses(self) -> list[Loss]:
        """Return the loss ``align``."""
        return [AlignLoss(self)]

    @abstractmethod
    def align(self, features: Tensor, lengths: Tensor, transcripts: Sequence[Tensor]) -> Tensor:
        """Return (B,) how unlikely the text tokens (n,) of each clip are, given (B,F,E) features and (B,) lengths."""

    def _partly_hidden(self, features: Tensor) -> Tensor:
        """Return (B,F,E) features; in training, stretches of them are zero."""
        share = self._frames.frame_dropout if self.training else 0.0
        return hide_frames(features, share, max(1, _HIDDEN_FRAMES // self._group))

    def _places(self, features: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Encode (B,F,E) features with (B,) lengths into (B,T,width) and the (B,) number of valid positions."""
        dtype = self.norm.weight.dtype
        x = zero_padding(features, lengths).to(dtype)
        if self.whisper is not None:
            x = self.whisper(x, lengths).to(dtype)
        x = drop_features(self.norm(x), self._frames.dropout, self.training)
        x = zero_padding(x, lengths)  # again: the bias of the norm has filled the padding
        # Padded to whole groups, so that a row gets as many positions in every batch.
        factor = self._frames.factor
        x = F.pad(x, (0, 0, 0, -x.shape[1] % factor))
        # A strided convolution joins `factor` frames.
        x = self.down(x.transpose(1, 2)).transpose(1, 2)
        places = torch.div(lengths + factor - 1, factor, rounding_mode="floor")
        is_frame = valid_positions(x, places)[..., None].to(dtype)
        for block in self.blocks:
            x = block(x, is_frame)
        normed: Tensor = self.out_norm(x)
        return normed, places


class AlignLoss(Loss):
    """Implements the loss ``align``: how badly the adapter recognises the transcripts, without the backbone's help."""

    name = "align"

    def __init__(self, adapter: FrameListener) -> None:
        self._adapter = adapter

    def counts(self, row: LossRow) -> list[int]:
        """Return the number of transcript tokens."""
        return [sum(len(ids) for ids in row.heard)]

    def prepare(self, rows: Sequence[LossRow]) -> list[Tensor]:
        """Return the (n,) tokens of each clip."""
        return [torch.tensor(ids, dtype=torch.int64) for row in rows for ids in row.heard]

    def sums(self, line: ForwardPass, prepared: Sequence[Tensor]) -> Tensor:
        """Return the (1,) sum over the clips that have a transcript."""
        known = [place for place, ids in enumerate(prepared) if len(ids)]
        if line.features is None or not (known or line.uniform):
            return torch.zeros(1, device=line.device)
        features, frames = line.features
        if not known:
            # Sharded engines deadlock unless every rank runs the module, so it runs on one clip that counts nothing.
            nothing = torch.zeros(1, dtype=torch.int64, device=line.device)
            return self._adapter.align(features[:1], frames[:1], [nothing]) * 0.0
        return self._adapter.align(features[known], frames[known], [prepared[place] for place in known]).sum()[None]
