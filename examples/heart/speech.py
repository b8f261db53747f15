"""Shards of training speech: written once, read at random through memory maps."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

RATE_HZ = 24_000
SAMPLES_PER_LATENT = 600


def write_shard(
    path: Path, rows: Sequence[dict[str, Any]], waves: Sequence[np.ndarray], latents: Sequence[np.ndarray]
) -> None:
    """Write one shard: three files, the ``.jsonl`` last, so that a shard is there as a whole or not at all."""
    sound = np.concatenate([(np.clip(wave, -1, 1) * 32767).astype(np.int16) for wave in waves])
    np.save(path.with_suffix(".wave.npy"), sound)
    np.save(path.with_suffix(".latents.npy"), np.concatenate(latents).astype(np.float16))
    beside = path.with_suffix(".part")
    beside.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    beside.replace(path.with_suffix(".jsonl"))


@dataclass(frozen=True)
class Utterance:
    """One text as it was said.

    Attributes:
        row: kind, text, held_out, phonemes, units, durations.
        latents: (N, 132) float16, 40 a second.
        wave: (N * 600,) int16, 24 kHz.
    """

    row: dict[str, Any]
    latents: np.ndarray
    wave: np.ndarray


def read(folder: Path, held_out: bool) -> list[Utterance]:
    """All utterances that are held out, or all others; arrays are read when they are used."""
    found = []
    for path in sorted(folder.glob("*.jsonl")):
        latents = np.load(path.with_suffix(".latents.npy"), mmap_mode="r")
        wave = np.load(path.with_suffix(".wave.npy"), mmap_mode="r")
        first = 0
        for line in path.read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            last = first + sum(row["durations"])
            if row["held_out"] == held_out:
                sound = wave[first * SAMPLES_PER_LATENT : last * SAMPLES_PER_LATENT]
                found.append(Utterance(row, latents[first:last], sound))
            first = last
    if not found:
        raise SystemExit(
            f"Error: no speech in '{folder}'; make it first: python examples/heart/make_speech.py {folder}"
        )
    return found
