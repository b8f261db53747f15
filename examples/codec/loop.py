"""The training loop of a codec: one step is a function of the seed and its number, so a resumed run is the same run."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import torch
from torch import Tensor

from anytalk.errors import ConfigError, TalkerError
from anytalk.files import write_whole
from anytalk.train.signals import held_signals
from anytalk_adapters import snac_order
from codec.discriminator import Discriminator, codec_loss, judge_loss
from codec.losses import MEL_WEIGHT, SpectralLoss
from codec.nets import Trainee
from codec.pictures import draw_training
from codec.quantise import quantise, restart_dead, stream_figures, update_use
from codec.sounds import Crops
from codec.state import Learner, Progress, load_state, remove_state, save_state

BETAS = (0.8, 0.99)
CLIP = 1.0
FLOOR = 0.03
"""Learning rate at the end, as a share of the highest."""
RESTART_EVERY = 20
RESTART_UNTIL = 0.75
"""Share of the training after which codes are left alone, so that the decoder can learn them."""


@dataclass(frozen=True)
class Settings:
    """What a training is.

    Attributes:
        steps: Optimizer steps, or None where `minutes` rules.
        minutes: Time for steps, or None.
        train: ``"all"``, or ``"decoder"``: encoder and quantiser are frozen, so codes stay valid.
        learning_rate: Highest.
        warmup_steps: Steps up to it.
        quantise_from: Share of the training without a quantiser.
        dead_below: Uses per step under which a code is dead.
        fresh_codes: Whether the codebooks are untrained, and so begin as encoder outputs.
        adversarial: Weight of the adversarial loss; 0 leaves the discriminator out.
        seed: Of crops, noise and restarts.
    """

    steps: int | None
    minutes: float | None = None
    train: str = "all"
    learning_rate: float = 1.5e-3
    warmup_steps: int = 200
    quantise_from: float = 0.12
    dead_below: float = 0.02
    fresh_codes: bool = True
    adversarial: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        if (self.steps is None) == (self.minutes is None):
            raise ConfigError("a training needs one budget", "give --steps or --minutes, not both")
        if (self.steps or self.minutes or 0) <= 0:
            raise ConfigError("a budget above 0 is needed", "e.g. --steps 5000 or --minutes 20")
        if self.train not in ("all", "decoder"):
            raise ConfigError(f"--train is '{self.train}'", "expected all or decoder")


@dataclass
class Places:
    """Where a training writes, how often, and where it computes; none of it changes what is learnt.

    Attributes:
        out: Its folder.
        device: torch's name.
        checkpoint_every: Steps.
        log_every: Steps.
    """

    out: Path
    device: str = "cpu"
    checkpoint_every: int = 500
    log_every: int = 20


class CodecTraining:
    """A training, begun or resumed.

    Args:
        trainee: What is trained; moved to the device.
        crops: What it hears.
        settings: What the training is.
        places: Where it writes.

    Raises:
        TalkerError: a checkpoint in the folder that is damaged or of another training.
    """

    def __init__(self, trainee: Trainee, crops: Crops, settings: Settings, places: Places) -> None:
        self.trainee, self.crops, self.settings, self.places = trainee, crops, settings, places
        self.loss = SpectralLoss(trainee.sample_rate_hz).to(places.device)
        trainee.module.to(places.device).train()
        for name, parameter in trainee.module.named_parameters():
            parameter.requires_grad_(settings.train == "all" or name.startswith("decoder"))
        torch.manual_seed(settings.seed)
        self.judge = Discriminator().to(places.device) if settings.adversarial else None
        modules = {"codec": trainee.module, **({"judge": self.judge} if self.judge is not None else {})}
        codebook_size = int(trainee.quantizer.codebook_size)
        # A code of a trained codebook counts as used until it has been unused for a while.
        first_use = 0.0 if settings.fresh_codes else 1.0
        self.use = [torch.full((codebook_size,), first_use, device=places.device) for _ in trainee.vq_strides]
        self.counts = torch.zeros((trainee.num_streams, codebook_size), dtype=torch.int64, device=places.device)
        self.learner = Learner(
            modules,
            {name: self._optimizer(module) for name, module in modules.items()},
            {"streams": self.counts, **{f"use.{i}": use for i, use in enumerate(self.use)}},
        )
        self.folder = places.out / "checkpoint"
        told = {"config": trainee.config, **asdict(settings), "data": crops.digest}
        told |= {"batch": crops.batch, "crop_samples": crops.num_samples}
        told = json.loads(json.dumps(told))
        self.progress = load_state(self.folder, told, self.learner) or Progress(told)

    def _optimizer(self, module: torch.nn.Module) -> torch.optim.Optimizer:
        trained = [p for p in module.parameters() if p.requires_grad]
        return torch.optim.AdamW(trained, lr=self.settings.learning_rate, betas=BETAS)

    @property
    def share(self) -> float:
        """How much of the budget is spent, 0 to 1."""
        if self.settings.steps is not None:
            return self.progress.step / self.settings.steps
        return min(1.0, self.progress.seconds / 60 / float(self.settings.minutes or 1))

    def run(self, after_step: Callable[[Progress], None] | None = None) -> Path | None:
        """Train to the end of the budget.

        Args:
            after_step: Told after each step.

        Returns:
            The written weights, or None: a signal came, and a checkpoint was written instead.

        Raises:
            TalkerError: a loss that is no number, or something that can't be written.
        """
        self._write_log()
        with held_signals() as wish:
            while self.share < 1:
                begun = time.monotonic()
                self._step()
                self.progress.seconds += time.monotonic() - begun
                last = self.share >= 1
                if self.progress.step % self.places.log_every == 0 or last:
                    self._log()
                if after_step is not None:
                    after_step(self.progress)
                if wish.wanted or (self.progress.step % self.places.checkpoint_every == 0 and not last):
                    save_state(self.folder, self.progress, self.learner)
                if wish.wanted:
                    return None
            # Written first: a full disk then costs nothing that was learnt.
            save_state(self.folder, self.progress, self.learner)
            try:
                draw_training(self.places.out / "curve.png", "snac", self.progress.log)
                written = self.trainee.write(self.places.out)
            except (OSError, safetensors.SafetensorError) as error:
                raise TalkerError(
                    f"'{self.places.out}' can't be written: {error}", "is the disk full? The same command tries again"
                ) from None
            remove_state(self.folder)
        return written

    def _step(self) -> None:
        step, share, settings = self.progress.step, self.share, self.settings
        random = np.random.default_rng((settings.seed, step, 2))
        torch.manual_seed(int(random.integers(2**62)))  # SNAC's decoder draws its noise from torch
        wave = torch.from_numpy(self.crops.at(step)).to(self.places.device)
        rate = settings.learning_rate * _rate_share(step, settings.warmup_steps, share)
        for optimizer in self.learner.optimizers.values():
            optimizer.param_groups[0]["lr"] = rate
        decoded, losses, total = self._decode(wave, step, share, random)
        for name, value in self.loss(decoded, wave).items():
            losses[name] = value
            total = total + value * (MEL_WEIGHT if name == "mel" else 1.0)
        if self.judge is not None:
            losses["judge"] = self._teach_judge(wave, decoded.detach())
            losses["adversarial"] = self._please_judge(wave, decoded)
            total = total + settings.adversarial * losses["adversarial"]
        losses["loss"] = total
        self._descend("codec", total)
        for name, value in losses.items():
            self.progress.sums[name] = self.progress.sums.get(name, 0.0) + float(value.detach())
        self.progress.step += 1
        self.progress.summed += 1

    def _decode(
        self, wave: Tensor, step: int, share: float, random: np.random.Generator
    ) -> tuple[Tensor, dict[str, Tensor], Tensor]:
        """(B,N) -> decoded (B,N), the quantiser's losses by name, and what they add to the whole."""
        zero = wave.new_zeros(())
        if self.settings.train == "decoder":
            with torch.no_grad():
                quantised = quantise(self.trainee.quantizer, self.trainee.latents(wave))
            self._count(quantised.codes)
            return self.trainee.sound(quantised.latents), {}, zero
        latents = self.trainee.latents(wave)
        if share < self.settings.quantise_from:
            return self.trainee.sound(latents), {}, zero
        never_used = not any(bool(use.any()) for use in self.use)
        if never_used or (step % RESTART_EVERY == 0 and share < RESTART_UNTIL):
            restarted = restart_dead(
                self.trainee.quantizer, latents.detach(), self.use, self.settings.dead_below, random
            )
            self.progress.restarted += sum(restarted)
        quantised = quantise(self.trainee.quantizer, latents)
        update_use(self.use, quantised.codes)
        self._count(quantised.codes)
        return self.trainee.sound(quantised.latents), {"vq": quantised.loss}, quantised.loss

    def _count(self, codes: list[Tensor]) -> None:
        rows = snac_order.flatten(codes, self.trainee.vq_strides).transpose(0, 1).flatten(1)  # (K, B * T)
        self.counts.scatter_add_(1, rows, torch.ones_like(rows))

    def _teach_judge(self, wave: Tensor, decoded: Tensor) -> Tensor:
        assert self.judge is not None
        loss = judge_loss(self.judge(wave), self.judge(decoded))
        self._descend("judge", loss)
        return loss

    def _please_judge(self, wave: Tensor, decoded: Tensor) -> Tensor:
        assert self.judge is not None
        with torch.no_grad():
            true = self.judge(wave)
        self.judge.requires_grad_(False)  # its weights are not the codec's to change, nor worth the gradients
        loss = codec_loss(true, self.judge(decoded))
        self.judge.requires_grad_(True)
        return loss

    def _descend(self, name: str, loss: Tensor) -> None:
        if not math.isfinite(float(loss.detach())):
            raise TalkerError(
                f"the loss of step {self.progress.step} is {float(loss.detach())}",
                "lower --learning-rate; the last checkpoint is as it was",
            )
        module, optimizer = self.learner.modules[name], self.learner.optimizers[name]
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_([p for p in module.parameters() if p.requires_grad], CLIP)
        optimizer.step()

    def _log(self) -> None:
        progress = self.progress
        line: dict[str, float] = {"step": progress.step, "seconds": round(progress.seconds, 1)}
        line |= {name: value / progress.summed for name, value in progress.sums.items()}
        line["learning_rate"] = self.learner.optimizers["codec"].param_groups[0]["lr"]
        line["restarted"] = progress.restarted
        line |= stream_figures(self.counts.cpu())
        progress.log.append(line)
        progress.sums, progress.summed, progress.restarted = {}, 0, 0
        self.counts.zero_()
        with (self.places.out / "log.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def _write_log(self) -> None:
        """The log up to the checkpoint; what a killed run wrote after it is dropped."""
        try:
            self.places.out.mkdir(parents=True, exist_ok=True)
            lines = "".join(json.dumps(line) + "\n" for line in self.progress.log)
            write_whole(self.places.out / "log.jsonl", lines)
        except OSError as error:
            raise TalkerError(f"'{self.places.out}' can't be written: {error}", "give another --out") from None


def _rate_share(step: int, warmup_steps: int, share: float) -> float:
    """Linear warm-up times half a cosine over the budget, down to 3 %."""
    warm = min(1.0, (step + 1) / max(1, warmup_steps))
    return warm * (FLOOR + (1 - FLOOR) * 0.5 * (1 + math.cos(math.pi * share)))


def told(line: dict[str, Any]) -> str:
    """A line of the log in words."""
    losses = ", ".join(
        f"{name} {line[name]:.3f}" for name in ("loss", "mel", "convergence", "vq", "adversarial") if name in line
    )
    shares = [value for name, value in line.items() if name.startswith("perplexity.")]
    codes = f"; perplexity {min(shares):.0f} to {max(shares):.0f}" if shares else ""
    return f"step {line['step']}, {line['seconds']:.0f} s: {losses}{codes}"
