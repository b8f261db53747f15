"""What the codec keeps: predicted opinions and word errors of originals and of both round trips, on held-out speech.

    python examples/heart/evaluate.py SPEECH WEIGHTS --count 40
    python examples/heart/evaluate.py --people FOLDER WEIGHTS    # manifest.jsonl with audio and text, as anytalk reads

Prints one row of a table for each way: as it was, from latents through the codes, from sound through the codes; with
``--parts`` one kind of latent at a time goes through the codes and the others stay true.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from anytalk_heart import latents as lat
from anytalk_heart.codec import HeartCodec
from anytalk_heart.latents import from_hibari
from anytalk_heart.net import load
from anytalk_heart.sound import RATE_HZ
from speech import read
from torch import Tensor

from anytalk.evaluate.mos import load_predictor
from anytalk.evaluate.wer import word_error_rate
from anytalk.grid.audio import read_wave, resample
from anytalk.plugins.components import PartRef
from anytalk.plugins.registry import default_registry


@dataclass(frozen=True)
class Clip:
    """A sound, what is said in it and, where hibari made it, what it was made of (134,T)."""

    text: str
    wave: np.ndarray
    latents: Tensor | None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("speech", type=Path, help="Folder of make_speech.py; with --people of a manifest.jsonl.")
    parser.add_argument("weights", type=Path)
    parser.add_argument("--people", action="store_true")
    parser.add_argument("--parts", action="store_true", help="Where opinions go: one kind of latent at a time.")
    parser.add_argument("--count", type=int, default=40)
    parser.add_argument("--skip-words", action="store_true", help="No word errors, which take longest.")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    codec = HeartCodec(load(asked.weights))
    clips = people(asked.speech, asked.count) if asked.people else held_out(asked.speech, asked.count)
    seconds, ahead_ms = sum(len(clip.wave) for clip in clips) / RATE_HZ, codec.net.sizes.look_ahead_s * 1000
    print(f"{len(clips)} clips, {seconds:.0f} s; look-ahead {ahead_ms:.0f} ms")
    ways = parts(codec) if asked.parts else round_trips(codec, from_latents=not asked.people)
    judge(ways, clips, words=not asked.skip_words and not asked.parts)
    if not asked.parts:
        print(f"decoding takes {real_time_factor(codec, clips):.3f} of the time of what is heard")


def held_out(folder: Path, count: int) -> list[Clip]:
    """Speech that nothing was trained on."""
    return [
        Clip(
            one.row["text"], one.wave.astype(np.float32) / 32768, from_hibari(torch.from_numpy(np.array(one.latents))).T
        )
        for one in read(folder, held_out=True)[:count]
    ]


def people(folder: Path, count: int) -> list[Clip]:
    """Recordings of a manifest, evenly over it."""
    rows = [json.loads(line) for line in (folder / "manifest.jsonl").read_text(encoding="utf-8").splitlines()]
    chosen = rows[:: max(1, len(rows) // count)][:count]
    found = []
    for row in chosen:
        wave = read_wave(str(folder / row["audio"]), RATE_HZ)
        found.append(Clip(row["text"], wave, None))
    return found


Way = Callable[[Clip], np.ndarray]


def round_trips(codec: HeartCodec, from_latents: bool) -> dict[str, Way]:
    """As it was, and what comes back."""

    def latents(clip: Clip) -> np.ndarray:
        return decoded(codec, codec.encode_latents(whole_frames(codec, clip)), clip)

    def sound(clip: Clip) -> np.ndarray:
        return decoded(codec, codec.encode(torch.from_numpy(clip.wave)[None]), clip)

    ways: dict[str, Way] = {"as it was": lambda clip: clip.wave}
    return ways | ({"from latents": latents} if from_latents else {}) | {"from sound": sound}


@torch.no_grad()
def parts(codec: HeartCodec) -> dict[str, Way]:
    """The voice decoder's sound with true latents, with coded ones, and with one kind coded."""
    net = codec.net
    kinds = {"features": [slice(0, 128)], "pitch and voicing": [lat.VOICED, lat.PITCH], "energy": [lat.ENERGY]}
    everything = [slice(0, lat.NUM_LATENTS)]

    def with_coded(which: Sequence[slice]) -> Way:
        @torch.no_grad()
        def way(clip: Clip) -> np.ndarray:
            true = whole_frames(codec, clip)
            coded = net.natural(net.read(net.quantiser.decode(net.codes(true)), {}, True))
            for part in which:
                true[:, part] = coded[:, part]
            return net.said(lat.columns(true))[0, : len(clip.wave)].numpy()

        return way

    return {"true latents": with_coded([]), "all coded": with_coded(everything)} | {
        f"only {name} coded": with_coded(which) for name, which in kinds.items()
    }


def whole_frames(codec: HeartCodec, clip: Clip) -> Tensor:
    """(1,134,T): a clip's latents, the last repeated up to whole frames."""
    assert clip.latents is not None
    missing = -clip.latents.shape[-1] % codec.vq_strides[0]
    return torch.cat([clip.latents, clip.latents[:, -1:].expand(-1, missing)], -1)[None].clone()


def decoded(codec: HeartCodec, codes: Tensor, clip: Clip) -> np.ndarray:
    """Codes to the sound of a clip's length."""
    return codec.decode(codes)[0, : len(clip.wave)].numpy()


def judge(ways: dict[str, Way], clips: Sequence[Clip], words: bool) -> None:
    """Print a table: predicted opinion, and word errors if asked for."""
    mos = load_predictor("distillmos")
    transcriber = default_registry().build("transcriber", PartRef(name="whisper")) if words else None
    print("| | Distill-MOS | word errors, Whisper base |\n|---|---|---|")
    for name, way in ways.items():
        waves = [way(clip) for clip in clips]
        opinion = float(np.mean([mos.score(wave, RATE_HZ) for wave in waves]))
        errors = "not taken"
        if transcriber is not None:
            heard = [transcriber.transcribe(resample(wave, RATE_HZ, 16_000), 16_000) for wave in waves]
            errors = f"{word_error_rate([clip.text for clip in clips], heard).wer:.2%}"
        print(f"| {name} | {opinion:.2f} | {errors} |", flush=True)


def real_time_factor(codec: HeartCodec, clips: Sequence[Clip]) -> float:
    """Processor time of a stream, frame by frame, for each second that is heard; one thread."""
    codes = codec.encode(torch.from_numpy(clips[0].wave)[None])
    stream = codec.new_stream()
    started = time.process_time()
    for frame in codes.split(1, -1):
        stream.push(frame)
    stream.flush()
    return (time.process_time() - started) / (codes.shape[-1] * codec.samples_per_frame / RATE_HZ)


if __name__ == "__main__":
    main()
