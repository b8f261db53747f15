"""Train a codec, `spectral` or `snac`, from a folder of recordings. Ctrl-C stops; the same command goes on.

    python examples/train_codec.py speech/answers runs/codec --kind spectral --minutes 60
    python examples/train_codec.py speech/answers runs/decoder --init SHIPPED --train decoder --minutes 20
    python examples/train_codec.py speech/answers runs/codec --evaluate 40       # Whisper's word error rate, a picture

RECORDINGS is a folder of sound files, or a manifest.jsonl with `answer_audio` and `answer_text` (needed to evaluate).
Every 50th recording is held out. `--train decoder` keeps encoder and codebooks, and so the codes of data that is
prepared already. Use the result with `anytalk attach ... --set codec.options.model=runs/codec/codec.safetensors`, a
snac with `--codec snac --set codec.options.model=runs/codec/codec`.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import signal
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from codec_parts import (
    CodeUse,
    Discriminator,
    SpectralLoss,
    Trainable,
    TrainableSnac,
    TrainableSpectral,
    fool_loss,
    judge_loss,
    quantise,
)
from torch import Tensor

from anytalk.errors import AnytalkError, ConfigError, DataError
from anytalk.grid.audio import read_wave, resample

HELD_OUT = 50
"""Every so many recordings, one is never trained on."""

WARM_UP = 0.12
"""Share of the training without the quantiser; the codebooks would collapse else."""

LAST_RESTART = 0.75
RESTART_EVERY = 20
SUFFIXES = (".wav", ".flac", ".ogg", ".mp3")


@dataclass(frozen=True)
class Recording:
    """A sound file and, where it is known, what is said."""

    path: Path
    text: str | None
    samples: int
    rate_hz: int


@dataclass(frozen=True)
class Settings:
    """What decides a run; a checkpoint of other settings is refused.

    Attributes:
        kind: ``"spectral"`` or ``"snac"``.
        init: Weights to begin with.
        train: ``"all"`` or ``"decoder"``.
        steps: Its length; 0: `minutes` decide.
        minutes: Its length in minutes of training.
        batch_size: Crops per step.
        crop_frames: Frames per crop.
        rate: Peak learning rate.
        adversarial: Weight of the adversarial loss; 0: none.
        seed: Of crops, gains and restarts.
    """

    kind: str
    init: str | None
    train: str
    steps: int
    minutes: float
    batch_size: int
    crop_frames: int
    rate: float
    adversarial: float
    seed: int


@dataclass
class State:
    """Where a run stands."""

    step: int = 0
    seconds: float = 0.0
    log: list[dict[str, float]] = field(default_factory=list)


def find_recordings(place: Path) -> list[Recording]:
    """All readable recordings.

    Raises:
        DataError: nothing there, or a line without sound.
    """
    if place.suffix == ".jsonl" and place.is_file():
        rows = [json.loads(line) for line in place.read_text(encoding="utf-8").splitlines() if line.strip()]
        named = [(place.parent / row["answer_audio"], row.get("answer_text")) for row in rows if "answer_audio" in row]
    elif place.is_dir():
        named = [(path, None) for path in sorted(place.rglob("*")) if path.suffix.lower() in SUFFIXES]
    else:
        raise DataError(f"'{place}' is neither a folder nor a manifest.jsonl", "name a folder of sound files")
    found = []
    for path, text in named:
        try:
            info = soundfile.info(str(path))
        except (soundfile.SoundFileError, OSError) as error:
            raise DataError(f"'{path}' can't be read: {error}", "remove it, or convert it to wav") from None
        found.append(Recording(path, text, info.frames, info.samplerate))
    if len(found) < 2:
        raise DataError(f"'{place}' holds {len(found)} recordings; 2 at least are needed", f"kinds: {SUFFIXES}")
    return found


def build(settings: Settings) -> Trainable:
    """A codec to train, its frozen parts frozen."""
    torch.manual_seed(settings.seed)
    init = settings.init
    if init == "SHIPPED":
        from anytalk_adapters.spectral_codec import SHIPPED

        init = SHIPPED
    made: Trainable = TrainableSpectral(init) if settings.kind == "spectral" else TrainableSnac(init)
    if settings.train == "decoder":
        if init is None:
            raise ConfigError("--train decoder needs weights whose codes it keeps", "give --init")
        made.requires_grad_(False)
        for parameter in made.decoder_parameters():
            parameter.requires_grad_(True)
    return made


def crops(recordings: list[Recording], settings: Settings, step: int, rate_hz: int, size: int) -> Tensor:
    """(B,N) of a step: a function of the seed and the step's number, with gains of 0.5 to 1.1."""
    chance = random.Random(settings.seed * 1_000_003 + step)
    rows = np.zeros((settings.batch_size, size), dtype=np.float32)
    chosen = chance.choices(recordings, weights=[r.samples / r.rate_hz for r in recordings], k=settings.batch_size)
    for row, recording in zip(rows, chosen, strict=True):
        wanted = math.ceil(size * recording.rate_hz / rate_hz)
        start = chance.randrange(max(1, recording.samples - wanted + 1))
        sound, _ = soundfile.read(str(recording.path), frames=wanted, start=start, dtype="float32", always_2d=True)
        sound = resample(sound.mean(axis=1), recording.rate_hz, rate_hz)[:size]
        row[: len(sound)] = sound * chance.uniform(0.5, 1.1)
    return torch.from_numpy(rows)


class Run:
    """A training run in a folder."""

    def __init__(self, settings: Settings, recordings: list[Recording], out: Path) -> None:
        self.settings, self.out = settings, out
        self.recordings = [r for number, r in enumerate(recordings) if number % HELD_OUT]
        self.codec = build(settings)
        self.loss = SpectralLoss(self.codec.sample_rate_hz)
        self.use = CodeUse(self.codec.quantizer)
        moving = [p for p in self.codec.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(moving, lr=settings.rate, betas=(0.8, 0.99))
        self.judge = Discriminator() if settings.adversarial else None
        self.judge_optimizer = (
            torch.optim.AdamW(self.judge.parameters(), lr=settings.rate / 3, betas=(0.8, 0.99)) if self.judge else None
        )
        self.state = State()
        self.stops = False
        out.mkdir(parents=True, exist_ok=True)
        self._load()

    @property
    def progress(self) -> float:
        """Share of the run that is done."""
        s = self.settings
        return self.state.step / s.steps if s.steps else self.state.seconds / (60 * s.minutes)

    def go(self, checkpoint_every: int = 500, log_every: int = 20) -> None:
        """Train to the end, or to a wish to stop; leaves weights, log and curve."""
        began = time.perf_counter() - self.state.seconds
        while self.progress < 1 and not self.stops:
            metrics = self.step()
            self.state.step += 1
            self.state.seconds = time.perf_counter() - began
            if self.state.step % log_every == 0:
                self.state.log.append({"step": self.state.step, "minutes": self.state.seconds / 60, **metrics})
                shown = "  ".join(f"{name} {value:.3f}" for name, value in metrics.items())
                print(f"{self.progress:4.0%} step {self.state.step}  {shown}", flush=True)
            if self.state.step % checkpoint_every == 0:
                self.save()
        self.save()
        if self.progress >= 1:
            self.export()

    def step(self) -> dict[str, float]:
        """One optimizer step."""
        s, codec, step = self.settings, self.codec, self.state.step
        torch.manual_seed(s.seed * 1_000_003 + step)  # the decoder's noise is a function of the step
        for group in self.optimizer.param_groups:
            group["lr"] = s.rate * _schedule(step, self.progress)
        wave = crops(self.recordings, s, step, codec.sample_rate_hz, s.crop_frames * codec.samples_per_frame)
        given: list[Tensor] = []
        chosen = wave.new_zeros(())
        if s.train == "decoder":
            with torch.no_grad():
                latents, _, _, _ = quantise(codec.quantizer, codec.latents(wave))
        else:
            latents = codec.latents(wave)
            if s.init or self.progress >= WARM_UP:
                latents, codes, chosen, given = quantise(codec.quantizer, latents)
                self.use.note(codes)
        made = codec.wave(latents)
        spectral = self.loss(made, wave)
        metrics = {"spectral": spectral.item(), "quantiser": chosen.item()}
        loss = 3 * spectral + chosen
        if self.judge is not None and self.judge_optimizer is not None:
            verdict = judge_loss(self.judge(wave), self.judge(made.detach()))
            self.judge_optimizer.zero_grad()
            torch.autograd.backward(verdict)
            self.judge_optimizer.step()
            fooled = fool_loss(self.judge(wave), self.judge(made))
            loss = loss + s.adversarial * fooled
            metrics |= {"judge": verdict.item(), "fooled": fooled.item()}
        if not math.isfinite(loss.item()):
            raise DataError(
                f"the loss of step {step} is no finite number", "lower --rate; the last checkpoint is whole"
            )
        self.optimizer.zero_grad()
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_([p for p in codec.parameters() if p.requires_grad], 1.0)
        self.optimizer.step()
        if given and step % RESTART_EVERY == 0 and self.progress < LAST_RESTART:
            generator = torch.Generator().manual_seed(s.seed * 7 + step)
            metrics["restarted"] = self.use.restart(given, generator)
        if given:
            metrics |= {f"perplexity{i}": value for i, value in enumerate(self.use.perplexity())}
        return metrics

    # ---- files

    def save(self) -> None:
        """Write a checkpoint beside the last one, then put it in its place."""
        tensors = {f"codec.{name}": t.contiguous() for name, t in self.codec.state_dict().items()} | {
            "use": self.use.use
        }
        rest: dict[str, Any] = {"optimizer": self.optimizer.state_dict()}
        if self.judge is not None and self.judge_optimizer is not None:
            rest |= {"judge": self.judge.state_dict(), "judge_optimizer": self.judge_optimizer.state_dict()}
        partial = self.out / "checkpoint.partial.pt"
        torch.save(
            {"tensors": tensors, **rest, "settings": asdict(self.settings), "state": asdict(self.state)}, partial
        )
        partial.replace(self.out / "checkpoint.pt")

    def _load(self) -> None:
        path = self.out / "checkpoint.pt"
        if not path.is_file():
            return
        found = torch.load(path, weights_only=True)
        if found["settings"] != asdict(self.settings):
            raise ConfigError(f"'{path}' is of a run with other settings", "name another folder, or repeat its command")
        self.use.use = found["tensors"].pop("use")
        self.codec.load_state_dict({name.removeprefix("codec."): t for name, t in found["tensors"].items()})
        self.optimizer.load_state_dict(found["optimizer"])
        if self.judge is not None and self.judge_optimizer is not None:
            self.judge.load_state_dict(found["judge"])
            self.judge_optimizer.load_state_dict(found["judge_optimizer"])
        self.state = State(**found["state"])

    @property
    def weights(self) -> Path:
        """Where the finished codec lies."""
        return self.out / ("codec.safetensors" if self.settings.kind == "spectral" else "codec")

    def export(self) -> None:
        """Write the codec for its plugin, the log and the curve."""
        self.codec.save(self.weights)
        lines = "".join(json.dumps(line) + "\n" for line in self.state.log)
        (self.out / "log.jsonl").write_text(lines, encoding="utf-8")
        if self.state.log:
            _draw(self.out / "loss.png", self.settings.kind, self.state.log)
        print(f"codec: {self.weights}")


def _draw(path: Path, title: str, log: list[dict[str, float]]) -> None:
    """The spectral loss over minutes of training."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    axes.plot([line["minutes"] for line in log], [line["spectral"] for line in log])
    axes.set(title=title, xlabel="minutes of training", ylabel="spectral loss", yscale="log")
    figure.savefig(path, dpi=110)


def _schedule(step: int, progress: float) -> float:
    """Factor of the learning rate: 200 steps of warm-up, then a cosine down to 3 %."""
    return min(1.0, (step + 1) / 200) * (0.03 + 0.97 * 0.5 * (1 + math.cos(math.pi * min(1.0, progress))))


@torch.no_grad()
def evaluate(run: Run, recordings: list[Recording], number: int) -> None:
    """Whisper base on held-out recordings before and after the round trip; one pair of spectrograms.

    Raises:
        DataError: no held-out recording whose words are known.
    """
    from anytalk.evaluate.spectrogram import draw_spectrogram
    from anytalk.evaluate.wer import word_error_rate
    from anytalk.plugins.components import PartRef
    from anytalk.plugins.registry import default_registry

    held_out = [r for i, r in enumerate(recordings) if i % HELD_OUT == 0 and r.text][:number]
    if not held_out:
        raise DataError("no held-out recording has a text", "evaluate with a manifest.jsonl that has answer_text")
    registry = default_registry()
    judge = registry.build("transcriber", PartRef(name="whisper"))
    codec = registry.build("codec", PartRef(name=run.settings.kind, options={"model": str(run.weights.absolute())}))
    rate_hz = codec.sample_rate_hz
    texts, before, after = [], [], []
    for number, recording in enumerate(held_out):
        wave = read_wave(recording.path, rate_hz)
        back = codec.decode(codec.encode(torch.from_numpy(wave)[None]))[0].numpy()[: len(wave)]
        texts.append(recording.text or "")
        before.append(judge.transcribe(wave, rate_hz))
        after.append(judge.transcribe(back, rate_hz))
        if number == 0:
            draw_spectrogram(run.out / "original.png", wave, rate_hz, texts[0])
            draw_spectrogram(run.out / "round-trip.png", back, rate_hz, texts[0])
    figures = {
        "recordings": len(texts),
        "wer_original": word_error_rate(texts, before).wer,
        "wer_round_trip": word_error_rate(texts, after).wer,
    }
    (run.out / "figures.json").write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(figures, indent=2))


def main() -> None:
    """Parse and go."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recordings", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--kind", choices=["spectral", "snac"], default="spectral")
    parser.add_argument("--init", help="Weights to begin with; SHIPPED: those of the spectral codec that ships.")
    parser.add_argument("--train", choices=["all", "decoder"], default="all")
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--steps", type=int, default=0, help="Instead of --minutes.")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--crop-frames", type=int, default=12)
    parser.add_argument("--rate", type=float, default=1.5e-3)
    parser.add_argument("--adversarial", type=float, default=0.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--checkpoint-every", type=int, default=500)
    parser.add_argument("--evaluate", type=int, metavar="N", help="Don't train; measure on N held-out recordings.")
    a = parser.parse_args()
    settings = Settings(
        a.kind, a.init, a.train, a.steps, a.minutes, a.batch_size, a.crop_frames, a.rate, a.adversarial, a.seed
    )  # fmt: skip
    try:
        recordings = find_recordings(a.recordings)
        run = Run(settings, recordings, a.out)
        if a.evaluate:
            evaluate(run, recordings, a.evaluate)
            return
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: setattr(run, "stops", True))
        run.go(a.checkpoint_every)
    except AnytalkError as error:
        sys.exit(f"Error: {error.message}\n  {error.hint}")


if __name__ == "__main__":
    main()
