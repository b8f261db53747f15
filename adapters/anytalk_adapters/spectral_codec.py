"""A light codec for CPUs: SNAC's multi-scale quantiser between a spectral encoder and a causal spectral decoder.

The decoder predicts magnitudes and phases and ends in an inverse Fourier transform (the idea of Vocos, Siuzdak
2023), so it costs a hundredth of a convolutional decoder. It is causal: a stream keeps a few latents per
convolution and holds back half an overlap (480 samples at the shipped sizes), and is exact.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, cast

import pydantic
import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from anytalk import plugins
from anytalk.errors import ConfigError, WeightsError
from anytalk.plugins.codec_stream import StatefulStream, check_codes, decode_alike, pad_to_frames
from anytalk.plugins.components import BuildContext
from anytalk.plugins.contracts import Codec, CodecStream
from anytalk.plugins.sources import ModelSource, resolve
from anytalk_adapters import snac_order
from anytalk_adapters.code_vectors import stream_vectors
from anytalk_adapters.snac_package import ResidualVectorQuantize
from anytalk_adapters.spectral_layers import KERNEL, ChannelNorm, ConvNeXtBlock, LogMel, overlap_add

SHIPPED = "package:anytalk_adapters/assets/spectral_16khz_8h.safetensors"
WITHDRAWN = "package:anytalk_adapters/assets/spectral_16khz.safetensors"
"""The first weights: with them twice as many words were misheard. Talkers that learnt their codes still need them."""
SIZES_KEY = "anytalk_spectral_sizes"
"""Metadata key of a weights file that holds its sizes as JSON."""
MAX_MAGNITUDE = 100.0


@dataclass(frozen=True)
class SpectralSizes:
    """All sizes of the network; defaults are those of the shipped 16 kHz weights."""

    sample_rate_hz: int = 16_000  # of the wave
    n_fft: int = 1280  # STFT window
    hop: int = 320  # samples per latent
    num_mels: int = 80  # mel filters at the encoder's door
    width: int = 256  # channels of latents
    hidden: int = 768  # width inside a block
    encoder_blocks: int = 4  # blocks that see both sides
    decoder_blocks: int = 8  # causal blocks
    codebook_size: int = 512  # C
    codebook_dim: int = 8  # width of a code vector
    # Latents per code of each codebook, coarse to fine.
    vq_strides: list[int] = field(default_factory=lambda: [4, 2, 1])

    def __post_init__(self) -> None:
        if self.n_fft % 2 or self.hop < 1 or self.n_fft < 2 * self.hop or (self.n_fft - self.hop) % 2:
            raise ConfigError(
                f"n_fft {self.n_fft} and hop {self.hop} don't fit", "n_fft and hop even, windows overlapping by half"
            )
        if self.samples_per_frame <= self.edge:
            raise ConfigError(
                f"a frame of {self.samples_per_frame} samples is too short for n_fft {self.n_fft}",
                "a frame must be longer than (n_fft - hop) / 2",
            )

    @property
    def edge(self) -> int:
        """Samples that an inverse STFT has too many at each end; also what a stream holds back."""
        return (self.n_fft - self.hop) // 2

    @property
    def samples_per_frame(self) -> int:
        return self.hop * self.vq_strides[0]

    @property
    def context_frames(self) -> tuple[int, int]:
        """(past, future) frames that a sample depends on beside its own."""
        past_latents = (self.n_fft - 1 - self.edge) // self.hop + (KERNEL - 1) * (self.decoder_blocks + 1)
        future_latents = (self.samples_per_frame - 1 + self.edge) // self.hop
        return -(-past_latents // self.vq_strides[0]), future_latents // self.vq_strides[0]


@dataclass
class DecoderState:
    """What a stream remembers."""

    past: list[Tensor]  # (B, width, 6) last inputs of the first convolution and of each block
    overlap: Tensor  # (B, n_fft - hop) sum of the windows that reach beyond what is finished
    envelope: Tensor  # (1, n_fft - hop) the same of the squared windows; (B, ...) where rows are of unequal age
    to_drop: int  # samples that still must be dropped at the start


class SpectralNet(nn.Module):
    """The network: wave to latents, quantiser, latents to wave."""

    window: Tensor

    def __init__(self, sizes: SpectralSizes) -> None:
        super().__init__()
        self.sizes = sizes
        width, side = sizes.width, KERNEL // 2
        self.log_mel = LogMel(sizes.sample_rate_hz, sizes.n_fft, sizes.hop, sizes.num_mels)
        self.encoder_in = nn.Conv1d(sizes.num_mels, width, KERNEL, padding=side)
        self.encoder_blocks = nn.ModuleList(
            ConvNeXtBlock(width, sizes.hidden, look_ahead=side) for _ in range(sizes.encoder_blocks)
        )
        self.encoder_norm = ChannelNorm(width)
        self.quantizer = ResidualVectorQuantize(width, sizes.codebook_size, sizes.codebook_dim, sizes.vq_strides)
        self.decoder_in = nn.Conv1d(width, width, KERNEL)
        self.decoder_in_norm = ChannelNorm(width)
        self.decoder_blocks = nn.ModuleList(
            ConvNeXtBlock(width, sizes.hidden, look_ahead=0) for _ in range(sizes.decoder_blocks)
        )
        self.decoder_norm = ChannelNorm(width)
        self.decoder_out = nn.Linear(width, sizes.n_fft + 2)
        self.register_buffer("window", torch.hann_window(sizes.n_fft), persistent=False)

    def latents(self, wave: Tensor) -> Tensor:
        """(B,N), N a whole number of frames and at least one -> (B, width, N / hop)."""
        hidden = self.encoder_in(self.log_mel(wave))
        side = KERNEL // 2
        for block in self.encoder_blocks:
            hidden = block(F.pad(hidden, (side, side)))
        normed: Tensor = self.encoder_norm(hidden)
        return normed

    def new_state(self, batch_size: int) -> DecoderState:
        """The state before the first latent."""
        zeros = self.window.new_zeros
        sizes = self.sizes
        return DecoderState(
            past=[zeros((batch_size, sizes.width, KERNEL - 1)) for _ in range(sizes.decoder_blocks + 1)],
            overlap=zeros((batch_size, sizes.n_fft - sizes.hop)),
            envelope=zeros((1, sizes.n_fft - sizes.hop)),
            to_drop=sizes.edge,
        )

    def next_samples(self, latents: Tensor, state: DecoderState) -> Tensor:
        """(B, width, T) quantised latents, T >= 1 -> (B,n) samples that are final; advances the state."""
        hidden = self.decoder_in_norm(self.decoder_in(_continue(state, 0, latents)))
        for index, block in enumerate(self.decoder_blocks, start=1):
            hidden = block(_continue(state, index, hidden))
        log_magnitude, phase = self.decoder_out(self.decoder_norm(hidden).transpose(1, 2)).chunk(2, -1)
        spectrum = torch.polar(log_magnitude.exp().clamp(max=MAX_MAGNITUDE), phase)  # (B, T, n_fft / 2 + 1)
        frames = torch.fft.irfft(spectrum, self.sizes.n_fft) * self.window
        squares = self.window.square().expand(1, frames.shape[1], -1)
        wave, state.overlap = overlap_add(frames, self.sizes.hop, state.overlap)
        envelope, state.envelope = overlap_add(squares, self.sizes.hop, state.envelope)
        return _drop_start(wave / envelope.clamp(min=1e-8), state)

    def last_samples(self, state: DecoderState) -> Tensor:
        """(B,n): the samples held back, once the last latent has come."""
        tail = (state.overlap / state.envelope.clamp(min=1e-8))[:, : self.sizes.edge]
        return _drop_start(tail, state)


def _continue(state: DecoderState, index: int, hidden: Tensor) -> Tensor:
    """Put the past before `hidden` (B,W,T) and remember its own end -> (B, W, T + 6)."""
    joined = torch.cat([state.past[index], hidden], -1)
    state.past[index] = joined[..., -(KERNEL - 1) :]
    return joined


def _drop_start(wave: Tensor, state: DecoderState) -> Tensor:
    dropped = min(state.to_drop, wave.shape[1])
    state.to_drop -= dropped
    return wave[:, dropped:]


def _joined(states: Sequence[DecoderState]) -> DecoderState:
    """States of one row each as one; each row still has to drop its own start."""
    return DecoderState(
        past=[torch.cat(rows) for rows in zip(*(state.past for state in states), strict=True)],
        overlap=torch.cat([state.overlap for state in states]),
        envelope=torch.cat([state.envelope for state in states]),
        to_drop=0,
    )


def _share_out(joined: DecoderState, states: Sequence[DecoderState]) -> None:
    """Give each state its row back."""
    for row, state in enumerate(states):
        state.past = [past[row : row + 1] for past in joined.past]
        state.overlap, state.envelope = joined.overlap[row : row + 1], joined.envelope[row : row + 1]


class SpectralCodec(Codec):
    """The spectral codec.

    The shipped weights: 16 kHz, 12.5 frames per second, 7 streams of 512 codes (788 bit/s), 5.7 M parameters. They
    know one synthetic voice; see ``assets/README.md``.
    """

    licence = "MIT"

    class Options(plugins.Options):
        """Which weights."""

        weight_sources = ("model",)

        model: str = pydantic.Field(
            SHIPPED, description="A weights file written by anytalk (safetensors that hold their own sizes)."
        )

    def __init__(self, net: SpectralNet) -> None:
        super().__init__()
        sizes = net.sizes
        self.net = net.eval().requires_grad_(False)
        self.vq_strides = list(sizes.vq_strides)
        self.sample_rate_hz = sizes.sample_rate_hz
        self.num_streams = sum(snac_order.codes_per_frame(self.vq_strides))
        self.codebook_size = sizes.codebook_size
        self.samples_per_frame = sizes.samples_per_frame
        self.context_frames = sizes.context_frames
        self.decoder_prefixes = ("net.decoder_",)

    @classmethod
    def build(cls, options: Options, context: BuildContext) -> SpectralCodec:
        """Load the weights (WeightsError: a file that is missing, damaged or of another kind)."""
        if options.model == WITHDRAWN:
            raise WeightsError(
                f"the first weights of the spectral codec ('{WITHDRAWN}') no longer ship with anytalk",
                "take them from the history of its repository, git show "
                "89428d7:adapters/anytalk_adapters/assets/spectral_16khz.safetensors > spectral_16khz.safetensors, "
                "put the file into the talker folder, and set codec.options.model to its name in talker.yaml",
            )
        return cls(load_spectral(resolve(options.model, context.folder))).to(context.device)

    @torch.no_grad()
    def encode(self, wave: Tensor) -> Tensor:
        """(B,N) float32 -> (B,K,T) int64 (AudioError: a wave of another shape)."""
        padded = pad_to_frames(wave, self.samples_per_frame)
        if padded.numel() == 0:
            return torch.zeros((len(wave), self.num_streams, 0), dtype=torch.int64, device=wave.device)
        _, codes = self.net.quantizer(self.net.latents(padded))
        return snac_order.flatten(codes, self.vq_strides)

    @torch.no_grad()
    def decode(self, codes: Tensor) -> Tensor:
        """(B,K,T) int64 -> (B, T * samples_per_frame) float32.

        Raises:
            AudioError: codes of another shape or outside the codebook.
        """
        check_codes(codes, self.num_streams, self.codebook_size)
        if codes.numel() == 0:
            return torch.zeros((len(codes), codes.shape[-1] * self.samples_per_frame), device=codes.device)
        state = self.net.new_state(len(codes))
        return torch.cat([self.decode_next(codes, state), self.net.last_samples(state)], -1)

    @torch.no_grad()
    def decode_next(self, codes: Tensor, state: DecoderState) -> Tensor:
        """(B,K,t) next frames, t >= 1 -> (B,n) samples that are final; advances the state."""
        check_codes(codes, self.num_streams, self.codebook_size)
        latents = self.net.quantizer.from_codes(snac_order.unflatten(codes, self.vq_strides))
        return self.net.next_samples(latents, state)

    def code_vectors(self) -> Tensor:
        """(K,C,width): see :meth:`anytalk.plugins.contracts.Codec.code_vectors`."""
        return stream_vectors(self.net.quantizer, self.vq_strides)

    def new_stream(self) -> CodecStream:
        """A stream on the decoder's own state: each frame is computed once."""
        return StatefulStream(self, lambda: self.net.new_state(1), self.decode_next, self.net.last_samples)

    @torch.no_grad()
    def push_all(self, streams: Sequence[CodecStream], codes: Sequence[Tensor]) -> list[Tensor]:
        """See :meth:`anytalk.plugins.contracts.Codec.push_all`: chunks of one length are decoded in one call."""
        for chunk in codes:
            check_codes(chunk, self.num_streams, self.codebook_size)

        def decode(rows: list[int]) -> list[Tensor]:
            if len(rows) == 1 or codes[rows[0]].shape[-1] == 0:
                return [streams[row].push(codes[row]) for row in rows]
            states = [cast("StatefulStream[DecoderState]", streams[row]).state for row in rows]
            joined = _joined(states)
            made = self.decode_next(torch.cat([codes[row] for row in rows]), joined)
            _share_out(joined, states)
            return [_drop_start(made[row : row + 1], state) for row, state in enumerate(states)]

        return decode_alike([chunk.shape[-1] for chunk in codes], decode)


def save_spectral(net: SpectralNet, path: Path) -> None:
    """Write half-precision weights with their sizes, readable by :func:`load_spectral`."""
    state = {name: value.half().contiguous() for name, value in net.state_dict().items()}
    safetensors.torch.save_file(state, path, {SIZES_KEY: json.dumps(asdict(net.sizes))})


def load_spectral(source: ModelSource) -> SpectralNet:
    """A network from a weights file, on the CPU in float32.

    Raises:
        WeightsError: a hub id, or a file that is damaged or of another kind.
    """
    path = source.path
    try:
        with safetensors.safe_open(path, "pt") as file:
            sizes = _sizes_of(file.metadata(), source.spec)
            state = {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118 - no mapping
        net = SpectralNet(sizes)
        net.load_state_dict(state)
    except (OSError, RuntimeError, safetensors.SafetensorError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise WeightsError(
            f"'{source.spec}' can't be read as spectral codec weights: {reason}",
            "leave `model` out to use those shipped",
        ) from None
    return net


def _sizes_of(metadata: dict[str, Any] | None, spec: str) -> SpectralSizes:
    try:
        return SpectralSizes(**json.loads((metadata or {})[SIZES_KEY]))
    except (KeyError, ValueError, TypeError):
        raise WeightsError(
            f"'{spec}' holds no sizes of a spectral codec", "expected a file written by anytalk; leave `model` out"
        ) from None
