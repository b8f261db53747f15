"""Runs SNAC's decoder with repeatable noise, which depends on the absolute position and not on random draws.

The released decoder adds new Gaussian noise after each upsampling (``snac.layers.NoiseBlock``), so two decodes differ
and overlapping chunks never match. Here a sample's noise is computed from its absolute position, the layer and a seed,
so any window of an answer gets the noise that the whole answer gets.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from anytalk_adapters.snac_package import Decoder, DecoderBlock, NoiseBlock

_WORD = 0xFFFFFFFF

KEYS_PER_SEED = 1009
"""How many noise keys each seed has; a decoder needs one per noise layer."""


def _mix(words: Tensor) -> Tensor:
    """Scramble 32-bit words held in int64 with MurmurHash3's finaliser (public domain, Austin Appleby)."""
    words = words & _WORD
    words = ((words ^ (words >> 16)) * 0x85EBCA6B) & _WORD
    words = ((words ^ (words >> 13)) * 0xC2B2AE35) & _WORD
    return words ^ (words >> 16)


def position_noise(first: int, count: int, key: int, device: torch.device | str = "cpu") -> Tensor:
    """Return standard normal noise, (count,) float32, for the positions first, first + 1, ...

    A position's noise is the same in every window, and on every device up to rounding (Box-Muller on hashed positions).

    Args:
        first: Absolute position of the first value.
        key: Selects one of many independent noises.
    """
    position = torch.arange(first, first + count, device=device)
    stem = _mix(position ^ _mix(torch.tensor(key, device=device)))
    radius_word, angle_word = _mix(stem + 1), _mix(stem + 0x9E3779B9)
    # float32 holds 24 bits exactly; + 0.5 keeps the logarithm finite.
    radius_uniform, angle_uniform = (((word >> 8).float() + 0.5) / 2**24 for word in (radius_word, angle_word))
    return (-2.0 * radius_uniform.log()).sqrt() * (2 * math.pi * angle_uniform).cos()


def decode_latents(
    decoder: Decoder, latents: Tensor, num_frames: int, first_frame: int = 0, seed: int | None = 0
) -> Tensor:
    """Run SNAC's decoder on a window of latents.

    Args:
        decoder: A ``snac.layers.Decoder`` without attention.
        latents: (B, latent width, T latents).
        num_frames: How many codec frames the latents span; at least 1.
        first_frame: Absolute index of the first of these frames.
        seed: Seed of the noise; None adds none.

    Returns:
        (B,1,N) float32.
    """
    hidden = latents
    layer_index = 0
    for layer in decoder.model:
        # Noise layers are inside of the decoder's blocks.
        for inner in layer.block if isinstance(layer, DecoderBlock) else [layer]:
            if not isinstance(inner, NoiseBlock):
                hidden = inner(hidden)
            else:
                if seed is not None:
                    length = hidden.shape[-1]
                    # The same position at this layer's rate.
                    first = first_frame * (length // num_frames)
                    noise = position_noise(first, length, seed * KEYS_PER_SEED + layer_index, hidden.device)
                    hidden = hidden + noise.to(hidden.dtype) * inner.linear(hidden)
                layer_index += 1
    return hidden


def decoder_context_frames(decoder_rates: list[int], latents_per_frame: int) -> tuple[int, int]:
    """Return how many past and future frames a sample depends on, besides its own, by the decoder's layers.

    The result for the 24 kHz model, with rates [8, 8, 4, 2] and 4 latents per frame, is (3, 3).
    """
    low, high = 0, latents_per_frame * math.prod(decoder_rates) - 1  # samples of frame 0, traced back to its inputs
    low, high = low - 3, high + 3  # last convolution, kernel 7
    for stride in reversed(decoder_rates):
        reach = sum(3 * dilation for dilation in (1, 3, 9))  # residual units, kernel 7
        padding = math.ceil(stride / 2)
        # Transposed convolution: input i reaches outputs i * stride - padding + (0 ... 2 * stride - 1).
        low = -(-(low - reach + padding - 2 * stride + 1) // stride)
        high = (high + reach + padding) // stride
    low, high = low - 3, high + 3  # first convolution, kernel 7
    return -(low // latents_per_frame), high // latents_per_frame
