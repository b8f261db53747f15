"""A codec of overlapping cosine frames without any weights, as a plugin for anytalk."""

from __future__ import annotations

import math
from typing import Any

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

import anytalk
from anytalk.plugins.codec_stream import WindowedStream, check_codes, pad_to_frames
from anytalk.plugins.contracts import Codec, CodecStream

HOP = 32
LOUDEST = 2.0
MU = 255.0


def cosines(num_tones: int) -> Tensor:
    """(num_tones, 2 * HOP) float32: the lowest rows of an MDCT under a sine window."""
    time = torch.arange(2 * HOP, dtype=torch.float64)
    tone = torch.arange(num_tones, dtype=torch.float64)[:, None]
    window = torch.sin(math.pi / (2 * HOP) * (time + 0.5))
    basis = torch.cos(math.pi / HOP * (time + 0.5 + HOP / 2) * (tone + 0.5))
    return (basis * window * math.sqrt(2 / HOP)).float()


class CricketCodec(Codec):
    licence = "MIT"
    sample_rate_hz = 8000
    samples_per_frame = HOP
    codebook_size = 256

    basis: Tensor

    class Options(anytalk.Options):
        num_tones: int = Field(16, ge=1, le=HOP, description="Tones that are kept, each a stream of codes.")

    def __init__(self, num_tones: int) -> None:
        super().__init__()
        self.num_streams = num_tones
        self.register_buffer("basis", cosines(num_tones))

    @classmethod
    def build(cls, options: Any, context: anytalk.BuildContext) -> CricketCodec:
        return cls(options.num_tones).to(context.device)

    @torch.no_grad()
    def encode(self, wave: Tensor) -> Tensor:
        padded = pad_to_frames(wave, HOP)
        blocks = padded.view(len(wave), padded.shape[1] // HOP, HOP)
        following = F.pad(blocks, (0, 0, 0, 1))[:, 1:]
        strengths = torch.cat([blocks, following], -1) @ self.basis.T  # (B,T,K)
        level = (strengths / LOUDEST).clamp(-1, 1)
        squeezed = level.sign() * torch.log1p(MU * level.abs()) / math.log1p(MU)
        return ((squeezed + 1) / 2 * MU).round().long().transpose(1, 2)

    @torch.no_grad()
    def decode(self, codes: Tensor) -> Tensor:
        check_codes(codes, self.num_streams, self.codebook_size)
        squeezed = codes.transpose(1, 2) / MU * 2 - 1
        strengths = squeezed.sign() * torch.expm1(squeezed.abs() * math.log1p(MU)) / MU * LOUDEST
        begins, ends = (strengths @ self.basis).split(HOP, -1)  # (B,T,HOP) each
        before = F.pad(ends, (0, 0, 1, 0))[:, :-1]
        return (begins + before).flatten(1).clamp(-1, 1)

    def new_stream(self) -> CodecStream:
        return WindowedStream(lambda codes, first_frame: self.decode(codes), self.num_streams, HOP, (1, 0))


@anytalk.hookimpl
def register_codecs() -> list[anytalk.Component]:
    return [anytalk.Component("cricket", "anytalk_cricket:CricketCodec", "overlapping cosine frames, no weights")]
