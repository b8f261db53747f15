"""What is left of speech after encoding and decoding: a recogniser's word errors, a predicted opinion, a picture."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from anytalk.errors import AudioError
from anytalk.evaluate.mos import MosPredictor
from anytalk.evaluate.wer import word_error_rate
from anytalk.files import write_whole
from anytalk.grid.audio import write_wave
from anytalk.plugins.contracts import Codec, Transcriber
from codec.pictures import draw_pair
from codec.sounds import Clip


def round_trip(codec: Codec, wave: np.ndarray) -> np.ndarray:
    """(N,) float32 at the codec's rate -> (N,) float32 after encoding and decoding."""
    device = next((p.device for p in codec.parameters()), torch.device("cpu"))
    decoded = codec.decode(codec.encode(torch.from_numpy(wave)[None].to(device)))
    found: np.ndarray = decoded[0, : len(wave)].cpu().numpy()
    return found


def listen(
    codec: Codec,
    clips: Sequence[Clip],
    out: Path,
    transcriber: Transcriber | None,
    mos: MosPredictor | None = None,
    say: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Judge held-out sounds, originals and round trips.

    Writes ``report.json``, ``heard.jsonl``, ``spectrogram.png`` and the two sounds of the first clip to `out`.

    Args:
        codec: As the plugin loads it.
        clips: What to judge; word errors need texts.
        out: Folder.
        transcriber: The recogniser, or None: no word errors.
        mos: A predictor of opinions, or None.
        say: Told what each clip became.

    Returns:
        The report: ``clips``, ``wer_original`` and ``wer_round_trip`` (shares) with ``words``, ``mos_original`` and
        ``mos_round_trip``; figures that could not be had are missing.

    Raises:
        AudioError: a file that can't be read.
    """
    rate = codec.sample_rate_hz
    heard: list[dict[str, Any]] = []
    for number, clip in enumerate(clips):
        waves = {"original": clip.read(rate)}
        waves["round_trip"] = round_trip(codec, waves["original"])
        if number == 0:
            for name, wave in waves.items():
                write_wave(out / f"{name}.wav", wave, rate)
            draw_pair(out / "spectrogram.png", *waves.values(), rate, clip.text or clip.path.name)
        row: dict[str, Any] = {"path": str(clip.path), "text": clip.text}
        for name, wave in waves.items():
            if transcriber is not None and clip.text is not None:
                row[f"heard_{name}"] = transcriber.transcribe(wave, rate)
            if mos is not None:
                row[f"mos_{name}"] = _rate(mos, wave, rate)
        heard.append(row)
        say(f"{number + 1} of {len(clips)}: {row.get('heard_round_trip', clip.path.name)}")
    report = _figures(heard) | ({"mos": mos.name} if mos is not None else {})
    write_whole(out / "heard.jsonl", "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in heard))
    write_whole(out / "report.json", json.dumps(report, indent=1) + "\n")
    return report


def _figures(heard: Sequence[dict[str, Any]]) -> dict[str, Any]:
    report: dict[str, Any] = {"clips": len(heard)}
    for name in ("original", "round_trip"):
        rows = [row for row in heard if f"heard_{name}" in row]
        if rows:
            result = word_error_rate([row["text"] for row in rows], [row[f"heard_{name}"] for row in rows])
            report |= {f"wer_{name}": result.wer, "words": result.reference_words}
        scores = [row[f"mos_{name}"] for row in heard if row.get(f"mos_{name}") is not None]
        if scores:
            report[f"mos_{name}"] = float(np.mean(scores))
    return report


def _rate(mos: MosPredictor, wave: np.ndarray, rate: int) -> float | None:
    try:
        return mos.score(wave, rate)
    except AudioError:  # silence
        return None
