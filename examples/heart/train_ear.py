"""Stage 3: sound to latents, by pairs that hibari made. The codes are frozen and say what matters.

    python examples/heart/train_ear.py SPEECH OUT --steps 4000

Half of the pieces are heard as if another person spoke: the spectrum stretched or squeezed, tilted, with noise.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from anytalk_heart import latents as lat
from anytalk_heart.net import Ear, HeartNet, HeartSizes
from crops import Crops
from loop import Stage, trained
from speech import read
from torch import Tensor
from torch.nn import functional as F
from train_quantiser import errors_told, parts_of

CODED_WEIGHT = 0.5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("speech", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--future", type=int, default=14)
    parser.add_argument("--latent-future", type=int, default=0)
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)  # of the weights to begin with, so that the same speech gives the same codec
    net = HeartNet(HeartSizes(voice_future=asked.future, latent_future=asked.latent_future))
    trained(asked.out, "quantiser", parts_of(net))
    crops = Crops(read(asked.speech, held_out=False), 80, asked.batch)
    Stage(asked.out, "ear", {"ear": net.ear}, asked.steps, asked.learning_rate).run(EarTraining(net, crops))


class EarTraining:
    """One step: sound through the ear, against the latents that it was made of and what the coder makes of them.

    Args:
        net: The network; all but its ear is frozen.
        crops: Pieces of speech.
    """

    def __init__(self, net: HeartNet, crops: Crops) -> None:
        self.net, self.crops = net, crops
        net.coder.eval().requires_grad_(False)

    def __call__(self, step: int) -> tuple[Tensor, dict[str, float]]:
        net, batch = self.net, self.crops.batch(step)
        wanted = net.standardised(batch.latents)
        dice = np.random.default_rng((1, step))
        made = net.ear.understood(as_others(net.ear, batch.wave, dice))
        errors = F.smooth_l1_loss(made, wanted, reduction="none") * lat.WEIGHTS[:, None]
        with torch.no_grad():
            meant = net.coder(wanted, {}, True)
        coded = F.smooth_l1_loss(net.coder(made, {}, True), meant)
        told = {"latents": errors.mean().item(), "coded": coded.item(), **errors_told(made[::2], wanted[::2])}
        return errors.mean() + CODED_WEIGHT * coded, told


def as_others(ear: Ear, wave: Tensor, dice: np.random.Generator) -> Tensor:
    """What an ear hears of pieces; every second one as from another mouth, through another microphone."""
    wave = wave * torch.from_numpy(10 ** dice.uniform(-0.8, 0.1, (len(wave), 1))).float()
    wave[1::2] += (
        torch.randn_like(wave[1::2]) * torch.from_numpy(10 ** dice.uniform(-4.5, -2, (len(wave) // 2, 1))).float()
    )
    magnitudes = ear.magnitudes(wave)
    slope = torch.linspace(-1, 1, magnitudes.shape[1])
    for row in range(1, len(wave), 2):
        tilt = (slope * float(dice.uniform(-1.5, 1.5))).exp()
        magnitudes[row] = stretched(magnitudes[row], float(dice.uniform(0.75, 1.25))) * tilt[:, None]
    return ear.logs(magnitudes)


def stretched(magnitudes: Tensor, by: float) -> Tensor:
    """(601,T) with each frequency moved to `by` times itself."""
    place = (torch.arange(len(magnitudes)) / by).clamp(max=len(magnitudes) - 1.001)
    below = place.long()
    share = (place - below)[:, None]
    return magnitudes[below] * (1 - share) + magnitudes[below + 1] * share


if __name__ == "__main__":
    main()
