"""Stage 2: latents to 70 codes a second and back. The decoder of stage 1 is frozen and says what matters.

python examples/heart/train_quantiser.py SPEECH OUT --steps 8000
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from anytalk_heart import latents as lat
from anytalk_heart.net import HeartNet, HeartSizes
from crops import Crops, statistics
from loop import Stage, trained
from speech import read
from torch import Tensor, nn
from torch.nn import functional as F

BEFORE_CODES = 0.06
"""Share of the steps without codes, while the coder finds what to say."""
RESTART_EVERY, RESTART_UNTIL, DEAD_BELOW = 20, 0.75, 0.02
LISTEN_EVERY = 8
"""Steps between those that also compare spectra, which cost as much as all the rest."""
LISTENED = 6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("speech", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--future", type=int, default=14, help="Of the voice decoder of stage 1, in columns.")
    parser.add_argument("--latent-future", type=int, default=0, help="Latents of 25 ms that the reader sees ahead.")
    parser.add_argument("--steps", type=int, default=8000)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--init", type=Path, help="A checkpoint of this stage to begin with, its codes in use at once.")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)  # of the weights to begin with, so that the same speech gives the same codec
    speech = read(asked.speech, held_out=False)
    net = HeartNet(HeartSizes(voice_future=asked.future, latent_future=asked.latent_future))
    trained(asked.out, f"decoder-{asked.future}", {"voice": net.voice})
    net.mean, net.std = statistics(speech)
    if asked.init:
        trained(asked.init.parent, asked.init.stem, parts_of(net))
    training = CodeTraining(net, Crops(speech, 60, asked.batch), asked.steps, 0.0 if asked.init else BEFORE_CODES)
    Stage(asked.out, "quantiser", parts_of(net), asked.steps, asked.learning_rate, training.extra).run(training)


def parts_of(net: HeartNet) -> dict[str, nn.Module]:
    """What this stage trains, and the statistics that belong to it."""
    return {
        "coder": net.coder,
        "quantiser": net.quantiser,
        "reader": net.reader,
        "reader_out": net.reader_out,
        "statistics": Statistics(net),
    }


class Statistics(nn.Module):
    """Mean and deviation of a network, so that a checkpoint holds them.

    Args:
        net: Whose.
    """

    def __init__(self, net: HeartNet) -> None:
        super().__init__()
        self.register_buffer("mean", net.mean)
        self.register_buffer("std", net.std)


class CodeTraining:
    """One step: latents through coder, codes and reader.

    Args:
        net: The network; its voice decoder is frozen.
        crops: Pieces of speech.
        steps: Budget.
        before_codes: Share of the steps without codes.
    """

    def __init__(self, net: HeartNet, crops: Crops, steps: int, before_codes: float) -> None:
        self.net, self.crops, self.steps, self.before_codes = net, crops, steps, before_codes
        net.voice.eval().requires_grad_(False)
        size = net.sizes.codebook_size
        started = float(before_codes == 0)
        self.extra = {"uses": torch.full((len(net.sizes.vq_strides), size), 0.1), "started": torch.tensor(started)}

    def __call__(self, step: int) -> tuple[Tensor, dict[str, float]]:
        net, latents = self.net, self.crops.batch(step).latents
        wanted = net.standardised(latents)
        coded, codes_loss = net.coder(wanted, {}, True), wanted.new_zeros(())
        if step >= self.before_codes * self.steps:
            coded, codes_loss = self._quantised(coded, step)
        made = net.read(coded, {}, True)
        errors = F.smooth_l1_loss(made, wanted, reduction="none") * lat.WEIGHTS[:, None]
        loss = errors.mean() + codes_loss
        told = {"latents": errors.mean().item(), "codes": codes_loss.item(), **errors_told(made, wanted)}
        told |= {f"used{book}": float((uses > DEAD_BELOW).sum()) for book, uses in enumerate(self.extra["uses"])}
        if step % LISTEN_EVERY == 0:
            spectra = self._listened(made[:LISTENED], latents[:LISTENED])
            loss = loss + 0.3 * spectra
        return loss, told

    def _quantised(self, coded: Tensor, step: int) -> tuple[Tensor, Tensor]:
        restarts = step % RESTART_EVERY == 0 and step < RESTART_UNTIL * self.steps
        if not self.extra["started"] or restarts:
            self._restart(coded.detach())
        quantised, loss, codes, _ = self.net.quantiser(coded)
        for uses, found in zip(self.extra["uses"], codes, strict=True):
            uses.mul_(0.98).add_(0.02 * torch.bincount(found.flatten(), minlength=len(uses)))
        return quantised, loss

    @torch.no_grad()
    def _restart(self, coded: Tensor) -> None:
        """Codes that are hardly used become what the coder says, coarse books first; at the start all of them."""
        rest = coded
        for book, uses in zip(self.net.quantiser.each(), self.extra["uses"], strict=True):
            seen = book.seen(rest)
            flat = seen.flatten(0, 1)
            dead = (uses < DEAD_BELOW).nonzero()[:, 0] if self.extra["started"] else torch.arange(len(uses))
            drawn = flat[torch.randint(len(flat), (len(dead),))]
            book.codes[dead] = drawn + 0.01 * torch.randn(drawn.shape)
            uses[dead] = 0.1
            rest = rest - book.spread(book.codes[book.nearest(seen)])
        self.extra["started"].fill_(1.0)

    def _listened(self, made: Tensor, latents: Tensor) -> Tensor:
        """How far the spectra are apart that the voice decoder makes of both."""
        heard = self.net.voice(lat.columns(self.net.natural(made)), {}, True)
        with torch.no_grad():
            meant = self.net.voice(lat.columns(latents), {}, True)
        loud = [0, 2, 3]  # the logs; phases follow
        return (heard.unflatten(1, (5, -1))[:, loud] - meant.unflatten(1, (5, -1))[:, loud]).abs().mean() * 3


def errors_told(made: Tensor, wanted: Tensor) -> dict[str, float]:
    """Mean squared errors of each kind of latent, in shares of its variance."""
    squares = (made - wanted).detach().square().mean((0, 2))
    kinds = {"features": slice(0, 128), "voiced": lat.VOICED, "pitch": lat.PITCH, "energy": lat.ENERGY}
    return {name: squares[part].mean().item() for name, part in kinds.items()}


if __name__ == "__main__":
    main()
