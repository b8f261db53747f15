"""Pieces of training speech, the same for a step of a seed whatever came before."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from anytalk_heart.latents import from_hibari
from speech import SAMPLES_PER_LATENT, Utterance
from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """Pieces of equal length.

    Attributes:
        latents: (B,134,T) as they are, not standardised.
        wave: (B, T * 600) float32.
    """

    latents: Tensor
    wave: Tensor


class Crops:
    """Draws pieces, every part of the speech about equally often.

    Args:
        speech: What to draw from; shorter texts than a piece are left out.
        length: Latents (25 ms) of a piece.
        batch_size: Pieces of a batch.
        seed: Of the draws.
    """

    def __init__(self, speech: Sequence[Utterance], length: int, batch_size: int, seed: int = 0) -> None:
        self.speech = [one for one in speech if len(one.latents) >= length]
        if not self.speech:
            raise SystemExit(f"Error: no text is as long as a piece of {length * 0.025:.2f} s; make more speech")
        lengths = np.array([len(one.latents) - length + 1 for one in self.speech], dtype=np.float64)
        self._share = lengths / lengths.sum()
        self.length, self.batch_size, self.seed = length, batch_size, seed

    def batch(self, step: int) -> Batch:
        """The batch of a step."""
        dice = np.random.default_rng((self.seed, step))
        latents, waves = [], []
        for number in dice.choice(len(self.speech), self.batch_size, p=self._share):
            one = self.speech[number]
            first = int(dice.integers(len(one.latents) - self.length + 1))
            latents.append(from_hibari(torch.from_numpy(np.array(one.latents)))[first : first + self.length].T)
            sound = one.wave[first * SAMPLES_PER_LATENT : (first + self.length) * SAMPLES_PER_LATENT]
            waves.append(torch.from_numpy(sound.astype(np.float32) / 32768))
        return Batch(torch.stack(latents), torch.stack(waves))


def statistics(speech: Sequence[Utterance], most: int = 1000) -> tuple[Tensor, Tensor]:
    """(134,) mean and standard deviation over the first `most` utterances."""
    whole = torch.cat([from_hibari(torch.from_numpy(np.array(one.latents))) for one in speech[:most]])
    return whole.mean(0), whole.std(0) + 1e-4
