"""Make training speech with hibari-tts: waves, what the voice's decoder read, phonemes and their durations.

    python examples/heart/make_speech.py SPEECH --texts /usr/share/games/fortunes --hours 8

An interrupted run goes on with the next shard. 8 hours take some 10 minutes of a core and 1.7 GB.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
from sentences import sentences
from speech import RATE_HZ, SAMPLES_PER_LATENT, write_shard
from teacher import Teacher

SHARD = 100


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="Folder of the shards.")
    parser.add_argument("--texts", type=Path, help="Folder of ordinary English (Debian's fortunes).")
    parser.add_argument("--hours", type=float, default=8.0)
    parser.add_argument("--seed", type=int, default=0)
    make(**vars(parser.parse_args()))


def make(out: Path, texts: Path | None, hours: float, seed: int) -> None:
    """Write shards until the texts or the hours are spent."""
    out.mkdir(parents=True, exist_ok=True)
    teacher, started, seconds = Teacher(), time.monotonic(), 0.0
    wanted = sentences(texts, seed)
    for first in range(0, len(wanted), SHARD):
        path = out / f"{first // SHARD:04d}"
        if path.with_suffix(".jsonl").exists():
            seconds += np.load(path.with_suffix(".wave.npy"), mmap_mode="r").shape[0] / RATE_HZ
            continue
        if seconds > hours * 3600:
            break
        rows: list[dict[str, Any]] = []
        waves, latents = [], []
        for number, sentence in enumerate(wanted[first : first + SHARD], start=first):
            spoken = teacher.speak(sentence.text, number)
            if spoken is None or len(spoken.wave) != len(spoken.latents) * SAMPLES_PER_LATENT:
                continue
            said = {"phonemes": spoken.phonemes, "units": spoken.units, "durations": spoken.durations}
            rows.append({"kind": sentence.kind, "text": sentence.text, "held_out": sentence.held_out, **said})
            waves.append(spoken.wave)
            latents.append(spoken.latents)
        write_shard(path, rows, waves, latents)
        seconds += sum(len(wave) for wave in waves) / RATE_HZ
        print(f"{path.name}: {seconds / 3600:.2f} h of speech after {time.monotonic() - started:.0f} s", flush=True)


if __name__ == "__main__":
    main()
