"""Implements the codec ``tiny`` for tests, without weights: each code is a short sound, and a frame is their sum."""

from __future__ import annotations

import math

import pydantic
import torch
from torch import Tensor
from torch.nn import functional as F

from anytalk import plugins
from anytalk.errors import ConfigError
from anytalk.plugins.codec_stream import WindowedStream, check_codes, pad_to_frames
from anytalk.plugins.components import BuildContext
from anytalk.plugins.contracts import Codec, CodecStream

PEAK = 0.9
"""Peak of the loudest possible sum of codes, so that sound files never clip."""


def cosine_basis(size: int) -> Tensor:
    """Return the orthonormal cosines of a DCT-II, lowest first, as rows of (size,size) float64."""
    time = torch.arange(size, dtype=torch.float64) + 0.5
    tone = torch.arange(size, dtype=torch.float64)[:, None]
    basis = torch.cos(math.pi / size * tone * time) * math.sqrt(2 / size)
    basis[0] /= math.sqrt(2)
    return basis


class TinyCodec(Codec):
    """Makes deterministic sounds; ``encode(decode(codes)) == codes`` for all codes.

    The cosines of a frame are shared out among the streams, and each code is a seeded unit vector in the span of its
    stream's cosines. Streams are orthogonal, so correlation alone finds the code of each.
    """

    licence = "MIT"
    context_frames = (0, 0)

    class Options(plugins.Options):
        num_streams: int = pydantic.Field(3, ge=1, description="K, rectangular streams of codes.")
        codebook_size: int = pydantic.Field(16, ge=2, description="Codes per stream.")
        sample_rate_hz: int = pydantic.Field(8000, ge=1, description="Rate of the wave.")
        samples_per_frame: int = pydantic.Field(160, ge=4, description="Samples of one frame; at least 4 per stream.")
        seed: int = pydantic.Field(0, ge=0, description="Seed of the sounds.")

    table: Tensor
    """The sound of each code, (K, C, samples_per_frame)."""

    def __init__(
        self, num_streams: int, codebook_size: int, sample_rate_hz: int, samples_per_frame: int, seed: int
    ) -> None:
        super().__init__()
        tones_per_stream = samples_per_frame // num_streams
        if tones_per_stream < 4:
            raise ConfigError(
                f"{samples_per_frame} samples per frame are too few for {num_streams} streams",
                f"set samples_per_frame to at least {4 * num_streams}",
            )
        self.num_streams = num_streams
        self.codebook_size = codebook_size
        self.sample_rate_hz = sample_rate_hz
        self.samples_per_frame = samples_per_frame
        generator = torch.Generator().manual_seed(seed)
        directions = torch.randn(
            (num_streams, codebook_size, tones_per_stream), generator=generator, dtype=torch.float64
        )
        tones = cosine_basis(samples_per_frame)[: num_streams * tones_per_stream]
        # Each stream gets every K-th cosine, and so both low and high tones.
        tones = tones.view(tones_per_stream, num_streams, samples_per_frame).transpose(0, 1)
        table = F.normalize(directions, dim=-1) @ tones
        loudest = table.abs().amax((1, 2)).sum()
        self.register_buffer("table", (table * (PEAK / loudest)).float())

    @classmethod
    def build(cls, options: Options, context: BuildContext) -> TinyCodec:
        """Make the sounds from the seed; no files are read."""
        return cls(**options.model_dump()).to(context.device)

    @torch.no_grad()
    def encode(self, wave: Tensor) -> Tensor:
        """Encode a wave (B,N) float32 into codes (B,K,T) int64."""
        padded = pad_to_frames(wave, self.samples_per_frame)
        frames = padded.view(len(wave), padded.shape[-1] // self.samples_per_frame, self.samples_per_frame)
        return torch.einsum("bts,kcs->bktc", frames, self.table).argmax(-1)

    @torch.no_grad()
    def decode(self, codes: Tensor) -> Tensor:
        """Decode codes (B,K,T) int64 into a wave (B, T * samples_per_frame) float32.

        Raises:
            AudioError: The codes have another shape or lie outside the codebook.
        """
        check_codes(codes, self.num_streams, self.codebook_size)
        sounds = [self.table[stream, codes[:, stream]] for stream in range(self.num_streams)]  # K x (B,T,samples)
        return torch.stack(sounds).sum(0).flatten(1)

    def new_stream(self) -> CodecStream:
        """Return a stream that holds nothing back, because frames don't overlap."""
        return WindowedStream(
            lambda codes, _: self.decode(codes), self.num_streams, self.samples_per_frame, self.context_frames
        )
