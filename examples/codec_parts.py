"""What training a codec needs beside the codec: losses, a quantiser that learns, and both kinds under one interface.

Sources: multi-scale spectral losses as in HiFi-GAN (arXiv 2010.05646) and DAC (arXiv 2306.06546); codebook and
commitment loss of VQ-VAE (arXiv 1711.00937); restarts of dead codes as in Jukebox (arXiv 2005.00341); hinge and
feature-matching losses of MelGAN (arXiv 1910.06711).
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from anytalk.plugins.sources import resolve
from anytalk_adapters.snac_codec import SNAC, load_snac
from anytalk_adapters.spectral_codec import SpectralNet, SpectralSizes, load_spectral, save_spectral
from anytalk_adapters.spectral_layers import htk_mel_filters

SCALES = ((2048, 80), (1024, 80), (512, 40), (256, 20))
"""(STFT window, mel filters); the hop is a quarter of the window."""

SMALL_SNAC: dict[str, Any] = {
    "sampling_rate": 16_000,
    "encoder_dim": 32,
    "encoder_rates": [2, 4, 5, 8],
    "decoder_dim": 512,
    "decoder_rates": [8, 5, 4, 2],
    "attn_window_size": None,
    "codebook_size": 512,
    "codebook_dim": 8,
    "vq_strides": [4, 2, 1],
    "noise": True,
    "depthwise": True,
}
"""A SNAC with the frames and streams of the shipped spectral codec: 12.5 frames a second, seven codes."""

COMMITMENT = 0.25
_DEAD = 0.02
"""Running use, in uses per step, below which a code is dead."""


class Trainable(ABC, nn.Module):
    """A codec in two halves around a residual quantiser of the `snac` package.

    Attributes:
        sample_rate_hz: Of the wave.
        samples_per_frame: Crops are whole frames.
        quantizer: ``snac.vq.ResidualVectorQuantize``.
    """

    sample_rate_hz: int
    samples_per_frame: int
    quantizer: nn.Module

    @abstractmethod
    def latents(self, wave: Tensor) -> Tensor:
        """(B,N) -> (B,W,T)."""

    @abstractmethod
    def wave(self, latents: Tensor) -> Tensor:
        """(B,W,T) -> (B,N)."""

    @abstractmethod
    def decoder_parameters(self) -> list[nn.Parameter]:
        """What `--train decoder` moves."""

    @abstractmethod
    def save(self, path: Path) -> None:
        """Write weights that the codec plugin loads."""


class TrainableSpectral(Trainable):
    """The codec plugin ``spectral``."""

    def __init__(self, init: str | None, sizes: SpectralSizes | None = None) -> None:
        super().__init__()
        self.net = load_spectral(resolve(init)) if init else SpectralNet(sizes or SpectralSizes())
        self.quantizer = self.net.quantizer
        self.sample_rate_hz = self.net.sizes.sample_rate_hz
        self.samples_per_frame = self.net.sizes.samples_per_frame

    def latents(self, wave: Tensor) -> Tensor:
        return self.net.latents(wave)

    def wave(self, latents: Tensor) -> Tensor:
        state = self.net.new_state(len(latents))
        return torch.cat([self.net.next_samples(latents, state), self.net.last_samples(state)], -1)

    def decoder_parameters(self) -> list[nn.Parameter]:
        return [p for name, p in self.net.named_parameters() if name.startswith("decoder")]

    def save(self, path: Path) -> None:
        save_spectral(self.net, path)


class TrainableSnac(Trainable):
    """The codec plugin ``snac``: waveform convolutions. Trains many times slower than ``spectral``."""

    def __init__(self, init: str | None, config: dict[str, Any] | None = None) -> None:
        super().__init__()
        self.config = dict(config or SMALL_SNAC)
        if init:
            source = resolve(init)
            self.model = load_snac(source)
            self.config = json.loads((source.path / "config.json").read_text(encoding="utf-8"))
        else:
            self.model = SNAC(**self.config)
        self.quantizer = self.model.quantizer
        self.sample_rate_hz = int(self.model.sampling_rate)
        self.samples_per_frame = int(self.model.hop_length) * int(self.model.vq_strides[0])

    def latents(self, wave: Tensor) -> Tensor:
        found: Tensor = self.model.encoder(wave[:, None])
        return found

    def wave(self, latents: Tensor) -> Tensor:
        found: Tensor = self.model.decoder(latents)[:, 0]
        return found

    def decoder_parameters(self) -> list[nn.Parameter]:
        return list(self.model.decoder.parameters())

    def save(self, path: Path) -> None:
        path.mkdir(parents=True, exist_ok=True)
        (path / "config.json").write_text(json.dumps(self.config, indent=2), encoding="utf-8")
        state = {name: tensor.contiguous() for name, tensor in self.model.state_dict().items()}
        safetensors.torch.save_file(state, path / "model.safetensors")


def quantise(quantizer: nn.Module, latents: Tensor) -> tuple[Tensor, list[Tensor], Tensor, list[Tensor]]:
    """As the quantiser itself, with what it takes to learn it.

    Args:
        quantizer: ``snac.vq.ResidualVectorQuantize``.
        latents: (B,W,T).

    Returns:
        (B,W,T) quantised, straight through; codes (B,T') of each codebook; the scalar codebook and commitment loss; and
        what each codebook was given, (B*T',d).
    """
    found = torch.zeros_like(latents)
    residual, loss = latents, latents.new_zeros(())
    codes, given = [], []
    for book in quantizer.quantizers:
        pooled = F.avg_pool1d(residual, book.stride, book.stride) if book.stride > 1 else residual
        encoded = book.in_proj(pooled)
        chosen, indices = book.decode_latents(encoded)
        # The choice looks at directions only; so do the losses.
        mine, theirs = F.normalize(encoded, dim=1), F.normalize(chosen, dim=1)
        loss = loss + F.mse_loss(theirs, mine.detach()) + COMMITMENT * F.mse_loss(mine, theirs.detach())
        loss = loss + F.mse_loss(chosen, encoded.detach()) + COMMITMENT * F.mse_loss(encoded, chosen.detach())
        out = book.out_proj(encoded + (chosen - encoded).detach())
        out = out.repeat_interleave(book.stride, dim=-1) if book.stride > 1 else out
        found, residual = found + out, residual - out
        codes.append(indices)
        given.append(encoded.detach().transpose(1, 2).flatten(0, 1))
    return found, codes, loss, given


class CodeUse:
    """How often each code was used lately, and new places for those that nobody uses.

    Attributes:
        use: (codebooks, C) running mean of uses per step.
    """

    def __init__(self, quantizer: nn.Module, decay: float = 0.98) -> None:
        self._books = list(quantizer.quantizers)
        self._decay = decay
        self.use = torch.ones(len(self._books), self._books[0].codebook_size)

    def note(self, codes: list[Tensor]) -> None:
        """Count a step's codes."""
        counts = [torch.bincount(c.flatten().cpu(), minlength=self.use.shape[1]).float() for c in codes]
        self.use = self._decay * self.use + (1 - self._decay) * torch.stack(counts)

    @torch.no_grad()
    def restart(self, given: list[Tensor], generator: torch.Generator) -> int:
        """Put dead codes where this step's latents are; how many there were."""
        restarted = 0
        for number, (book, pool) in enumerate(zip(self._books, given, strict=True)):
            dead = (self.use[number] < _DEAD).nonzero()[:, 0]
            if len(dead):
                drawn = torch.randint(len(pool), (len(dead),), generator=generator)
                book.codebook.weight[dead] = pool[drawn.to(pool.device)]
                self.use[number, dead] = 1.0
                restarted += len(dead)
        return restarted

    def perplexity(self) -> list[float]:
        """Of each codebook: C if all codes are used alike."""
        share = self.use / self.use.sum(dim=1, keepdim=True)
        return [float(v) for v in (-(share * share.clamp(min=1e-9).log()).sum(dim=1)).exp()]


class SpectralLoss(nn.Module):
    """Over four STFT sizes: L1 of the log-mel spectra, and spectral convergence (arXiv 1808.06719)."""

    def __init__(self, sample_rate_hz: int) -> None:
        super().__init__()
        for n_fft, mels in SCALES:
            self.register_buffer(f"window{n_fft}", torch.hann_window(n_fft), persistent=False)
            self.register_buffer(f"mel{n_fft}", htk_mel_filters(sample_rate_hz, n_fft, mels), persistent=False)

    def forward(self, made: Tensor, wanted: Tensor) -> Tensor:
        """(B,N), (B,N) -> scalar."""
        loss = made.new_zeros(())
        for n_fft, _ in SCALES:
            a, b = (self._magnitude(wave, n_fft) for wave in (made, wanted))
            mel: Tensor = getattr(self, f"mel{n_fft}")
            log_a, log_b = ((x.transpose(1, 2) @ mel).clamp(min=1e-5).log10() for x in (a, b))
            loss = loss + F.l1_loss(log_a, log_b) + (a - b).norm() / b.norm().clamp(min=1e-3)
        return loss

    def _magnitude(self, wave: Tensor, n_fft: int) -> Tensor:
        window: Tensor = getattr(self, f"window{n_fft}")
        spectrum = torch.stft(wave, n_fft, n_fft // 4, window=window, return_complex=True)
        # The root of zero has no slope.
        return (spectrum.real.square() + spectrum.imag.square() + 1e-9).sqrt()


class Discriminator(nn.Module):
    """Small stacks of convolutions on magnitude spectra of three resolutions."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.sizes = (1024, 512, 256)
        self.stacks = nn.ModuleList(
            nn.ModuleList(
                [
                    nn.Conv2d(1, width, (7, 3), padding=(3, 1)),
                    nn.Conv2d(width, width, (7, 3), stride=(2, 1), padding=(3, 1)),
                    nn.Conv2d(width, width, (7, 3), stride=(2, 2), padding=(3, 1)),
                    nn.Conv2d(width, 1, 3, padding=1),
                ]
            )
            for _ in self.sizes
        )

    def forward(self, wave: Tensor) -> list[list[Tensor]]:
        """(B,N) -> for each resolution its layers' outputs, the last one the verdict."""
        found = []
        for n_fft, stack in zip(self.sizes, self.stacks, strict=True):
            window = torch.hann_window(n_fft, device=wave.device)
            x = (
                torch.stft(wave, n_fft, n_fft // 4, window=window, return_complex=True)
                .abs()
                .clamp(min=1e-5)
                .log()[:, None]
            )
            layers = []
            for number, layer in enumerate(stack):
                x = layer(x)
                if number < len(stack) - 1:
                    x = F.leaky_relu(x, 0.1)
                layers.append(x)
            found.append(layers)
        return found


def judge_loss(real: list[list[Tensor]], made: list[list[Tensor]]) -> Tensor:
    """Hinge loss of the discriminator."""
    losses = [F.relu(1 - r[-1]).mean() + F.relu(1 + m[-1]).mean() for r, m in zip(real, made, strict=True)]
    return torch.stack(losses).mean()


def fool_loss(real: list[list[Tensor]], made: list[list[Tensor]]) -> Tensor:
    """What the codec minimises: being told apart, and other features than the real sound's (weight 2)."""
    told = torch.stack([-m[-1].mean() for m in made]).mean()
    pairs = [(a.detach(), b) for r, m in zip(real, made, strict=True) for a, b in zip(r[:-1], m[:-1], strict=True)]
    return told + 2 * torch.stack([F.l1_loss(b, a) for a, b in pairs]).mean()
