"""The network: sound to latents, latents to codes, codes to latents, latents to spectra, spectra to sound."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from anytalk_heart import latents as lat
from anytalk_heart.layers import Block, ChannelNorm, FutureConv, Past
from anytalk_heart.quantiser import Quantiser
from anytalk_heart.sound import HOP, N_FFT, NUM_FREQUENCIES, RATE_HZ, Sound, SoundState

__all__ = ["DecoderState", "HeartNet", "HeartSizes", "VoiceDecoder", "load", "save"]

SIZES_KEY = "anytalk_heart_sizes"
SIDE = 3
"""Columns that a layer which sees both sides sees ahead."""


@dataclass(frozen=True)
class HeartSizes:
    """All sizes.

    Attributes:
        width: Channels inside.
        hidden: Width between the two linear layers of a block.
        code_blocks: Blocks before and after the quantiser.
        voice_blocks: Blocks of hibari's decoder.
        ear_blocks: Blocks of the encoder from sound.
        num_mels: Mel filters that the ear hears.
        low_bins: Lowest frequencies (20 Hz apart) that it hears one by one, for the pitch.
        codebook_size: C.
        codebook_dim: Width of a code vector.
        vq_strides: Latents per code, coarse to fine.
        latent_future: Latents (25 ms) that the decoder after the quantiser sees ahead.
        voice_future: Columns (12.5 ms) that the voice decoder sees ahead.
    """

    width: int = 256
    hidden: int = 768
    code_blocks: int = 3
    voice_blocks: int = 8
    ear_blocks: int = 6
    num_mels: int = 80
    low_bins: int = 64
    codebook_size: int = 1024
    codebook_dim: int = 8
    vq_strides: list[int] = field(default_factory=lambda: [4, 2, 1])
    latent_future: int = 0
    voice_future: int = 14

    @property
    def samples_per_frame(self) -> int:
        """Samples of one codec frame."""
        return 2 * HOP * self.vq_strides[0]

    @property
    def look_ahead_s(self) -> float:
        """Seconds of later codes that a sample can wait for: networks, and two columns of the inverse transform."""
        return (2 * self.latent_future + max(self.voice_future, 2) + 2) * HOP / RATE_HZ

    @property
    def future_frames(self) -> int:
        """The same in codec frames, rounded up."""
        return -(-round(self.look_ahead_s * RATE_HZ) // self.samples_per_frame)


def share_out(future: int, layers: int) -> list[int]:
    """Columns ahead for each layer, evenly, the first layers first; 3 each see as much as an uncut stack."""
    each, more = divmod(future, layers)
    return [each + (layer < more) for layer in range(layers)]


class Stack(nn.Module):
    """A convolution, blocks and a norm.

    Args:
        width_in: Channels that come in.
        width: Channels inside and out.
        hidden: Width inside a block.
        futures: Columns ahead of the convolution and of each block.
    """

    def __init__(self, width_in: int, width: int, hidden: int, futures: list[int]) -> None:
        super().__init__()
        self.into = FutureConv(width_in, width, futures[0])
        self.blocks = nn.ModuleList(Block(width, hidden, future) for future in futures[1:])
        self.norm = ChannelNorm(width)

    def forward(self, hidden: Tensor, past: Past, last: bool) -> Tensor:
        """(B,W,T) -> (B,W,T')."""
        hidden = self.into(hidden, past, last)
        for block in self.blocks:
            hidden = block(hidden, past, last)
        normed: Tensor = self.norm(hidden)
        return normed


class VoiceDecoder(Stack):
    """hibari's decoder: (B,130,T) columns -> (B, 5 * 601, T') spectra.

    Args:
        sizes: Of the codec.
    """

    def __init__(self, sizes: HeartSizes) -> None:
        futures = share_out(sizes.voice_future, sizes.voice_blocks + 1)
        super().__init__(lat.NUM_COLUMN, sizes.width, sizes.hidden, futures)
        self.head = nn.Linear(sizes.width, 5 * NUM_FREQUENCIES)

    def forward(self, hidden: Tensor, past: Past, last: bool) -> Tensor:
        """See the class."""
        spectra: Tensor = self.head(super().forward(hidden, past, last).transpose(1, 2))
        return spectra.transpose(1, 2)


class Ear(nn.Module):
    """Sound to standardised latents; sees both sides.

    Args:
        sizes: Of the codec.
    """

    window: Tensor
    filters: Tensor

    def __init__(self, sizes: HeartSizes) -> None:
        super().__init__()
        self.low_bins = sizes.low_bins
        self.register_buffer("window", torch.hann_window(N_FFT), persistent=False)
        self.register_buffer("filters", mel_filters(sizes.num_mels), persistent=False)
        futures = [SIDE] * (sizes.ear_blocks + 1)
        self.stack = Stack(2 * (sizes.num_mels + sizes.low_bins), sizes.width, sizes.hidden, futures)
        self.out = nn.Linear(sizes.width, lat.NUM_LATENTS)

    def magnitudes(self, wave: Tensor) -> Tensor:
        """(B,N), N a multiple of 600 -> (B, 601, N / 300)."""
        padded = F.pad(wave, (N_FFT // 2, N_FFT // 2))
        spectrum = torch.stft(padded, N_FFT, HOP, window=self.window, center=False, return_complex=True)
        return spectrum[..., : wave.shape[-1] // HOP].abs()

    def logs(self, magnitudes: Tensor) -> Tensor:
        """(B,601,T) -> (B, mels + low bins, T), about -1.5 to 2."""
        mel = torch.einsum("bft,fm->bmt", magnitudes, self.filters)
        return torch.cat([mel, magnitudes[:, 1 : self.low_bins + 1]], 1).clamp(min=1e-3).log() * 0.3 + 0.5

    def understood(self, heard: Tensor) -> Tensor:
        """(B, mels + low bins, 2T) -> (B,134,T)."""
        pairs = torch.cat([heard[..., ::2], heard[..., 1::2]], 1)
        hidden = self.stack(pairs, {}, True)
        latents: Tensor = self.out(hidden.transpose(1, 2))
        return latents.transpose(1, 2)

    def forward(self, wave: Tensor) -> Tensor:
        """(B,N), N a multiple of 600 -> (B, 134, N / 600)."""
        return self.understood(self.logs(self.magnitudes(wave)))


@dataclass
class DecoderState:
    """What streams remember.

    Attributes:
        reading: Of the network that reads codes, for each row by itself: a pitch that rounding moves in company would
            shift all pulses that follow.
        voice: Of the voice decoder.
        sound: Of pulses and windows.
    """

    reading: list[Past]
    voice: Past
    sound: SoundState


class HeartNet(nn.Module):
    """All of it.

    Args:
        sizes: All sizes.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, sizes: HeartSizes) -> None:
        super().__init__()
        self.sizes = sizes
        width, hidden, blocks = sizes.width, sizes.hidden, sizes.code_blocks
        self.ear = Ear(sizes)
        self.coder = Stack(lat.NUM_LATENTS, width, hidden, [SIDE] * (blocks + 1))
        self.quantiser = Quantiser(width, sizes.codebook_size, sizes.codebook_dim, sizes.vq_strides)
        self.reader = Stack(width, width, hidden, share_out(sizes.latent_future, blocks + 1))
        self.reader_out = nn.Linear(width, lat.NUM_LATENTS)
        self.voice = VoiceDecoder(sizes)
        self.sound = Sound()
        self.register_buffer("mean", torch.zeros(lat.NUM_LATENTS))
        self.register_buffer("std", torch.ones(lat.NUM_LATENTS))

    def standardised(self, latents: Tensor) -> Tensor:
        """(B,134,T), each latent with mean 0 and variance 1 over the training speech."""
        return (latents - self.mean[:, None]) / self.std[:, None]

    def natural(self, latents: Tensor) -> Tensor:
        """The inverse of :meth:`standardised`."""
        return latents * self.std[:, None] + self.mean[:, None]

    def heard(self, wave: Tensor) -> Tensor:
        """(B,N), N a multiple of 600 -> (B, 134, N / 600) latents; voiced or not, nothing between."""
        latents = self.natural(self.ear(wave))
        latents[:, lat.VOICED] = (latents[:, lat.VOICED] > lat.VOICED_FROM).float()
        return latents

    def codes(self, latents: Tensor) -> list[Tensor]:
        """(B,134,T), T a multiple of the longest stride -> the codes of each book."""
        return self.quantiser.encode(self.coder(self.standardised(latents), {}, True))

    def read(self, coded: Tensor, past: Past, last: bool) -> Tensor:
        """(B,W,T) from the quantiser -> (B,134,T') standardised latents."""
        latents: Tensor = self.reader_out(self.reader(coded, past, last).transpose(1, 2))
        return latents.transpose(1, 2)

    def new_state(self, batch_size: int) -> DecoderState:
        """The state before the first frame."""
        return DecoderState([{} for _ in range(batch_size)], {}, self.sound.new_state(batch_size))

    def next_samples(self, codes: list[Tensor], state: DecoderState, last: bool = False) -> Tensor:
        """Codes of each book (B,t), as many frames as there are -> (B,n) samples that are final; advances the state."""
        rows = []
        for row, past in enumerate(state.reading):
            coded = self.quantiser.decode([one[row : row + 1].clone() for one in codes])
            rows.append(lat.columns(self.natural(self.read(coded, past, last))))
        columns = torch.cat(rows)
        pitch = torch.cat([lat.pitch_hz(row) for row in rows])
        wave: Tensor = self.sound(self.voice(columns, state.voice, last), pitch, state.sound, last)
        return wave

    def said(self, columns: Tensor) -> Tensor:
        """(B,130,T) columns of whole utterances -> (B, T * 300) sound."""
        state = self.sound.new_state(len(columns))
        wave: Tensor = self.sound(self.voice(columns, {}, True), lat.pitch_hz(columns), state, True)
        return wave


def mel_filters(num_mels: int) -> Tensor:
    """(601, num_mels): triangles of height 1, evenly spaced in mel from 0 to 12 kHz."""
    hz = torch.linspace(0, RATE_HZ / 2, NUM_FREQUENCIES, dtype=torch.float64)
    top = 2595.0 * torch.log10(torch.tensor(1.0 + RATE_HZ / 2 / 700.0, dtype=torch.float64))
    corners = 700.0 * (10.0 ** (torch.linspace(0, 1, num_mels + 2, dtype=torch.float64) * top / 2595.0) - 1.0)
    rising = (hz[:, None] - corners[:-2]) / (corners[1:-1] - corners[:-2])
    falling = (corners[2:] - hz[:, None]) / (corners[2:] - corners[1:-1])
    return torch.minimum(rising, falling).clamp(min=0).float()


def save(net: HeartNet, path: Path) -> None:
    """Write half-precision weights (mean and std whole) with their sizes, readable by :func:`load`."""
    state = {
        name: (value if name in ("mean", "std") else value.half()).contiguous()
        for name, value in net.state_dict().items()
    }
    safetensors.torch.save_file(state, path, {SIZES_KEY: json.dumps(asdict(net.sizes))})


def load(path: Path) -> HeartNet:
    """A network from a file of :func:`save`, on the CPU in float32.

    Raises:
        ValueError: a file of another kind, with the reason.
    """
    try:
        with safetensors.safe_open(path, "pt") as file:
            stored: dict[str, Any] = json.loads((file.metadata() or {})[SIZES_KEY])
            state = {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118 - no mapping
        net = HeartNet(HeartSizes(**stored))
        net.load_state_dict(state)
    except (OSError, KeyError, TypeError, RuntimeError, safetensors.SafetensorError) as error:
        raise ValueError((str(error).strip().splitlines() or [type(error).__name__])[0]) from None
    return net
