"""SNAC's decoder with noise that can be repeated: a function of the absolute position, not of the draw.

The released decoder adds fresh Gaussian noise after each upsampling (``snac.layers.NoiseBlock``), so two decodes
differ and overlapping chunks never match. Here the noise of a sample is computed from its absolute position, the
layer and a seed alone: any window of an answer gets the same noise as the whole answer.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from anytalk_adapters.snac_package import Decoder, DecoderBlock, NoiseBlock

_WORD = 0xFFFFFFFF

KEYS_PER_SEED = 1009
"""Each seed has this many noises, one per layer."""


def _mix(words: Tensor) -> Tensor:
    """Scramble 32-bit words held in int64: MurmurHash3's finaliser (public domain, Austin Appleby)."""
    words = words & _WORD
    words = ((words ^ (words >> 16)) * 0x85EBCA6B) & _WORD
    words = ((words ^ (words >> 13)) * 0xC2B2AE35) & _WORD
    return words ^ (words >> 16)


def position_noise(first: int, count: int, key: int, device: torch.device | str = "cpu") -> Tensor:
    """(count,) float32 standard normal noise of the positions first, first + 1, ...

    The same in every window, and on every device to rounding (Box-Muller over hashed positions).

    Args:
        first: Absolute position of the first value.
        key: Another key is another noise.
    """
    position = torch.arange(first, first + count, device=device)
    stem = _mix(position ^ _mix(torch.tensor(key, device=device)))
    radius_word, angle_word = _mix(stem + 1), _mix(stem + 0x9E3779B9)
    # 24 bits are what float32 holds exactly; + 0.5 keeps the logarithm finite.
    radius_uniform, angle_uniform = (((word >> 8).float() + 0.5) / 2**24 for word in (radius_word, angle_word))
    return (-2.0 * radius_uniform.log()).sqrt() * (2 * math.pi * angle_uniform).cos()


def decode_latents(
    decoder: Decoder, latents: Tensor, num_frames: int, first_frame: int = 0, seed: int | None = 0
) -> Tensor:
    """Run SNAC's decoder on a window of latents.

    Args:
        decoder: A ``snac.layers.Decoder`` without attention.
        latents: (B, latent width, T latents).
        num_frames: Codec frames that the latents span; at least 1.
        first_frame: Absolute index of the first of them.
        seed: Of the noise; None adds none.

    Returns:
        (B,1,N) float32.
    """
    hidden = latents
    layer_index = 0
    for layer in decoder.model:
        for inner in layer.block if isinstance(layer, DecoderBlock) else [layer]:
            if not isinstance(inner, NoiseBlock):
                hidden = inner(hidden)
            else:
                if seed is not None:
                    length = hidden.shape[-1]
                    first = first_frame * (length // num_frames)
                    noise = position_noise(first, length, seed * KEYS_PER_SEED + layer_index, hidden.device)
                    hidden = hidden + noise.to(hidden.dtype) * inner.linear(hidden)
                layer_index += 1
    return hidden


def decoder_context_frames(decoder_rates: list[int], latents_per_frame: int) -> tuple[int, int]:
    """(past, future) frames that a sample depends on beside its own frame, traced back through the decoder's layers.

    (3, 3) for the 24 kHz model: rates [8, 8, 4, 2], 4 latents per frame.
    """
    low, high = 0, latents_per_frame * math.prod(decoder_rates) - 1  # samples of frame 0
    low, high = low - 3, high + 3  # last convolution, kernel 7
    for stride in reversed(decoder_rates):
        reach = sum(3 * dilation for dilation in (1, 3, 9))  # residual units, kernel 7
        padding = math.ceil(stride / 2)
        # Transposed convolution: input i reaches outputs i * stride - padding + (0 ... 2 * stride - 1).
        low = -(-(low - reach + padding - 2 * stride + 1) // stride)
        high = (high + reach + padding) // stride
    low, high = low - 3, high + 3  # first convolution, kernel 7
    return -(low // latents_per_frame), high // latents_per_frame
