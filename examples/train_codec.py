"""Train a SNAC of your own from a folder of wav files or a manifest.

    python examples/train_codec.py speech/ --minutes 20 --out runs/codec
    python examples/train_codec.py rows.jsonl --init runs/codec/snac --train decoder --steps 5000 --out runs/decoder \
        --evaluate

Ctrl-C or SIGTERM writes a checkpoint; the same command again goes on from it. With --steps, a resumed training gives
the same weights as an uninterrupted one, bit for bit on a CPU. `--init WEIGHTS --evaluate` without a budget only
listens. More in docs/codec.md.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from codec.listen import listen
from codec.loop import CodecTraining, Places, Settings, told
from codec.nets import WEIGHTS_NAME, Trainee, load_codec, make_trainee
from codec.sounds import Clip, Crops, find_clips, hold_out
from codec.state import Progress

from anytalk.cli.devices import choose_device, set_threads
from anytalk.errors import AnytalkError, ConfigError, DataError, TalkerError
from anytalk.evaluate.mos import load_predictor
from anytalk.plugins.components import PartRef
from anytalk.plugins.registry import default_registry

HELD_OUT = 16
MIN_CROP_SAMPLES = 1025
"""The longest STFT of the loss reflects 1024 samples at each end."""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    found = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = found.add_argument
    add("data", type=Path, help="Folder of wav files, or a manifest.jsonl.")
    add("--out", type=Path, required=True, help="Folder for weights, log, pictures and the checkpoint.")
    add("--field", default="audio", help="Manifest's field with the path of a sound.")
    add("--text-field", default="text", help="Manifest's field with what is said (--evaluate).")
    add("--config", type=Path, help="JSON with sizes: fields of SNAC's config.json.")
    add("--init", help="Weights to go on from: what the plugin's option `model` takes.")
    add("--train", default="all", help="all, or decoder: encoder and codebooks are frozen, codes stay valid.")
    add("--steps", type=int, help="Budget in steps; exactly repeatable.")
    add("--minutes", type=float, help="Budget in time; the schedule follows the clock.")
    add("--batch", type=int, default=16, help="Crops per step.")
    add("--crop", type=float, default=0.96, help="Seconds of a crop.")
    add("--learning-rate", type=float, default=1.5e-3)
    add("--warmup-steps", type=int, default=200)
    add("--quantise-from", type=float, help="Share of the training without quantiser (0.12; with --init 0).")
    add("--dead-below", type=float, default=0.02, help="Running uses per step under which a code is restarted.")
    add("--adversarial", type=float, default=0.0, metavar="WEIGHT", help="Weight of a discriminator's judgement.")
    add("--checkpoint-every", type=int, default=500)
    add("--log-every", type=int, default=20)
    add("--held-out", type=int, help=f"Sounds never trained on ({HELD_OUT}, a tenth at most).")
    add("--evaluate", action="store_true", help="Judge the held-out sounds by Whisper base, before and after.")
    add("--mos", help="Also predict opinions: distillmos or dnsmos, if installed.")
    add("--seed", type=int, default=0)
    add("--device", default="cpu", help="cpu, cuda or auto.")
    add("--threads", type=int, help="Of the CPU.")
    return found


def main(words: Sequence[str] | None = None) -> None:
    """Parse, train, listen; a mistake of the user is one sentence and status 1, an interrupted run status 130."""
    arguments = parser().parse_args(words)
    try:
        finished = run(arguments)
    except AnytalkError as error:
        sys.exit(f"Error: {error}")
    except KeyboardInterrupt:
        finished = False
    if not finished:
        print("Stopped; the same command goes on from the last checkpoint.", file=sys.stderr)
        sys.exit(130)


def run(arguments: argparse.Namespace) -> bool:
    """Do what the command line says; False when a signal stopped it."""
    check(arguments)
    set_threads(arguments.threads)
    arguments.device = choose_device(arguments.device)
    clips = find_clips(arguments.data, arguments.field, arguments.text_field)
    count = min(HELD_OUT, len(clips) // 10) if arguments.held_out is None else arguments.held_out
    only_listen = arguments.steps is None and arguments.minutes is None
    training, held = ([], clips) if only_listen and count >= len(clips) else hold_out(clips, count, arguments.seed)
    if arguments.evaluate and not held:
        raise DataError(f"{len(clips)} sounds and none held out to judge", "--held-out 5")
    weights = arguments.init
    if not only_listen:
        written = train(arguments, training)
        if written is None:
            return False
        weights = str(written)
        print(f"Weights: {written}\nIn talker.yaml:  codec: {{name: snac, options: {{model: {written}}}}}")
    if arguments.evaluate:
        evaluate(arguments, weights, held)
    return True


def check(arguments: argparse.Namespace) -> None:
    """Refuse what can't be meant before anything is read.

    Raises:
        AnytalkError: which option, and what it expects.
    """
    no_budget = arguments.steps is None and arguments.minutes is None
    if no_budget and not (arguments.evaluate and arguments.init):
        raise ConfigError("no budget is given", "--steps 5000 or --minutes 20; or --init WEIGHTS --evaluate to listen")
    if arguments.train == "decoder" and arguments.init is None:
        raise ConfigError("--train decoder needs an encoder and codebooks that are trained", "--init WEIGHTS")
    for name, least in (("batch", 1), ("checkpoint_every", 1), ("log_every", 1), ("held_out", 0), ("adversarial", 0)):
        value = getattr(arguments, name)
        if value is not None and value < least:
            raise ConfigError(f"--{name.replace('_', '-')} is {value}", f"expected {least} or more")


def train(arguments: argparse.Namespace, clips: Sequence[Clip]) -> Path | None:
    """Train, or go on -> the weights, None when a signal stopped it.

    Raises:
        TalkerError: the folder holds a finished codec, or a checkpoint of another training.
        ConfigError: sizes, crop or budget that don't fit.
    """
    done = arguments.out / WEIGHTS_NAME
    if done.exists():
        raise TalkerError(
            f"'{done}' is a finished codec", f"give another --out; to judge it: --init {done} --evaluate, no budget"
        )
    trainee = make_trainee(read_config(arguments.config), arguments.init, arguments.seed)
    is_fresh = arguments.init is None
    first = (0.12 if is_fresh else 0.0) if arguments.quantise_from is None else arguments.quantise_from
    settings = Settings(
        steps=arguments.steps,
        minutes=arguments.minutes,
        train=arguments.train,
        learning_rate=arguments.learning_rate,
        warmup_steps=arguments.warmup_steps,
        quantise_from=first,
        dead_below=arguments.dead_below,
        fresh_codes=is_fresh,
        adversarial=arguments.adversarial,
        seed=arguments.seed,
    )
    samples = crop_samples(trainee, arguments.crop)
    crops = Crops(clips, trainee.sample_rate_hz, samples, arguments.batch, arguments.seed)
    places = Places(arguments.out, arguments.device, arguments.checkpoint_every, arguments.log_every)
    training = CodecTraining(trainee, crops, settings, places)
    trained = sum(p.numel() for p in trainee.module.parameters() if p.requires_grad)
    whole = sum(p.numel() for p in trainee.module.parameters())
    print(
        f"{trained / 1e6:.1f} of {whole / 1e6:.1f} million weights train on {len(clips)} sounds, "
        f"{crops.total_s / 60:.1f} minutes; from step {training.progress.step}",
        flush=True,
    )
    return training.run(lambda progress: tell(progress, arguments.log_every))


def tell(progress: Progress, log_every: int) -> None:
    """Print every fifth line of the log."""
    if progress.log and progress.step % (5 * log_every) == 0:
        print(told(progress.log[-1]), flush=True)


def crop_samples(trainee: Trainee, crop_s: float) -> int:
    """Samples of a crop: whole frames.

    Raises:
        ConfigError: too short for a frame or for the loss.
    """
    frame = trainee.samples_per_frame
    samples = int(crop_s * trainee.sample_rate_hz / frame + 1e-6) * frame
    if samples < max(MIN_CROP_SAMPLES, frame):
        least = -(-max(MIN_CROP_SAMPLES, frame) // frame) * frame / trainee.sample_rate_hz
        raise ConfigError(f"a crop of {crop_s} s is too short", f"--crop {least:.3f} at least")
    return samples


def read_config(path: Path | None) -> dict[str, Any] | None:
    """Sizes from a JSON file.

    Raises:
        ConfigError: no such file, or no JSON object.
    """
    if path is None:
        return None
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"'{path}' can't be read as sizes: {error}", "expected a JSON object") from None
    if not isinstance(config, dict):
        raise ConfigError(f"'{path}' holds a {type(config).__name__}", "expected a JSON object of sizes")
    return config


def evaluate(arguments: argparse.Namespace, weights: str, held: Sequence[Clip]) -> None:
    """Listen to the held-out sounds and print the figures.

    Raises:
        AnytalkError: weights, a sound or a judge that can't be had.
    """
    mos = load_predictor(arguments.mos) if arguments.mos else None
    has_texts = any(clip.text for clip in held)
    transcriber = default_registry().build("transcriber", PartRef(name="whisper")) if has_texts else None
    codec = load_codec(weights).to(arguments.device)
    if not has_texts:
        print(f"No held-out sound has a text in '{arguments.text_field}': no word errors (--text-field NAME).")
    report = listen(codec, held, arguments.out, transcriber, mos, lambda line: print(line, flush=True))
    for name, value in report.items():
        print(f"{name}: {value:.1%}" if name.startswith("wer") else f"{name}: {value}")
    print(f"Heard and seen: {arguments.out}")


if __name__ == "__main__":
    main()
