"""Ten held-out questions and the talker's spoken answers, as files to listen to and look at.

    python samples.py TALKER eval samples

Asks questions of eval/readings.jsonl in the voice that was never trained on, in an order that a hash of their text and
their kind decide: one of each kind before a second of any. An answer that is too long for a small file, or has no
sound, is left out and counted below the table. Writes question and answer as wav (16 bit, 16 kHz), the answer's
spectrogram, and samples.md. Every file is smaller than 200 kB.
"""

from __future__ import annotations

import argparse
import json
import sys
import textwrap
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from eval_sets import by_hash

from anytalk.decode.session import Session
from anytalk.decode.telling import AnswerDone, AudioDelta
from anytalk.errors import AnytalkError, DataError, TalkerError
from anytalk.evaluate.spectrogram import draw_spectrogram
from anytalk.grid.audio import read_wave, resample, write_wave
from anytalk.model.talker import Talker, load_talker
from anytalk.plugins.components import PartRef
from anytalk.plugins.contracts import Transcriber
from anytalk.plugins.registry import default_registry

SAMPLES = 10
SAMPLE_RATE_HZ = 16_000
LONGEST_S = 6.0
"""16-bit sound at 16 kHz of this length takes 192 kB."""

PICTURE_COLOURS = 64
"""A spectrogram in full colour takes 500 kB, in these at most 140."""

TOO_LONG = f"longer than {LONGEST_S:g} s"
MADE = ("[0-9][0-9]-question.wav", "[0-9][0-9]-answer.wav", "[0-9][0-9]-answer.png", "samples.md")
"""What an earlier run may have left."""


def spread(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """By hash, one of each kind before a second of any; each sentence once."""
    distinct = {row["question_text"]: row for row in rows}
    turns: Counter[str] = Counter()
    placed: list[tuple[int, str]] = []
    for text in by_hash(list(distinct)):
        kind = distinct[text]["kind"]
        placed.append((turns[kind], text))
        turns[kind] += 1
    return [distinct[text] for _, text in sorted(placed, key=lambda place: place[0])]


def questions(folder: Path) -> list[dict[str, Any]]:
    """Readings in the unseen voice, in their order; DataError where eval_sets.py didn't write them."""
    path = folder / "readings.jsonl"
    if not path.is_file():
        raise DataError(f"there is no '{path}'", f"python eval_sets.py texts {folder}; no sound is made twice")
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return spread([row for row in rows if row["set"] == "unseen"])


def answer_of(talker: Talker, question: np.ndarray) -> tuple[str, np.ndarray]:
    """Text and sound of an answer, (N,) float32 at 16 kHz."""
    pieces, text = [np.zeros(0, dtype=np.float32)], ""
    for event in Session(talker).ask(wave=question):
        if isinstance(event, AudioDelta):
            pieces.append(event.wave)
        elif isinstance(event, AnswerDone):
            text = one_line(event.text)
    wave = np.concatenate(pieces)
    return text, resample(wave, talker.codec.sample_rate_hz, SAMPLE_RATE_HZ) if len(wave) else wave


def one_line(text: str) -> str:
    """Without line breaks."""
    return " ".join(text.split())


def cell(text: str) -> str:
    """Text that a Markdown table doesn't take for a column or for HTML."""
    return one_line(text).replace("|", "\\|").replace("<", "&lt;")


def draw_small(path: Path, wave: np.ndarray, text: str) -> None:
    """A spectrogram with its text above, as a PNG of few colours."""
    from PIL import Image

    # A dollar sign would open a formula.
    draw_spectrogram(path, wave, SAMPLE_RATE_HZ, textwrap.fill(text.replace("$", r"\$"), 100))
    with Image.open(path) as drawn:
        small = drawn.convert("RGB").quantize(PICTURE_COLOURS, dither=Image.Dither.NONE)
    small.save(path, optimize=True)


def make_samples(talker: Talker, judge: Transcriber, eval_folder: Path, out: Path) -> list[str]:
    """Ask, listen, write the files.

    Returns:
        Lines of samples.md.

    Raises:
        TalkerError: a talker without ears.
        DataError: fewer usable questions than samples, or none at all.
    """
    encoder = talker.model.encoder
    if encoder is None:
        raise TalkerError("this talker has no ears", "samples are asked by voice: attach it with an encoder")
    rows = questions(eval_folder)
    out.mkdir(parents=True, exist_ok=True)
    for pattern in MADE:
        for path in out.glob(pattern):
            path.unlink()
    lines = ["| asked | voice | it writes | Whisper base hears | sound | picture |", "|---|---|---|---|---|---|"]
    left_out: Counter[str] = Counter()
    number = 0
    for row in rows:
        if number == SAMPLES:
            break
        path = eval_folder / row["question_audio"]
        text, answer = answer_of(talker, read_wave(path, encoder.sample_rate_hz))
        question = read_wave(path, SAMPLE_RATE_HZ)
        if not len(answer):
            left_out["without sound"] += 1
            continue
        if max(len(answer), len(question)) > LONGEST_S * SAMPLE_RATE_HZ:
            left_out[TOO_LONG] += 1
            continue
        number += 1
        name = f"{number:02d}"
        write_wave(out / f"{name}-question.wav", question, SAMPLE_RATE_HZ)
        write_wave(out / f"{name}-answer.wav", answer, SAMPLE_RATE_HZ)
        draw_small(out / f"{name}-answer.png", answer, text)
        heard = judge.transcribe(answer, SAMPLE_RATE_HZ)
        links = f"[question]({name}-question.wav), [answer]({name}-answer.wav) | [spectrogram]({name}-answer.png)"
        said = " | ".join(cell(piece) for piece in (row["question_text"], row["voice"], text, heard))
        lines.append(f"| {said} | {links} |")
        print(lines[-1], flush=True)
    counts = ", ".join(f"{count} {reason}" for reason, count in left_out.items()) or "none"
    lines += ["", f"Answers left out on the way to these {number}: {counts}."]
    (out / "samples.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    if number < SAMPLES:
        raise DataError(
            f"only {number} of {SAMPLES} samples: of {len(rows)} questions, {counts}",
            f"more questions in {eval_folder}, or a talker that speaks, and more briefly",
        )
    return lines


def main() -> None:
    """Parse, load, make."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("talker", type=Path)
    parser.add_argument("eval_folder", type=Path)
    parser.add_argument("out", type=Path)
    arguments = parser.parse_args()
    try:
        judge = default_registry().build("transcriber", PartRef(name="whisper"))
        make_samples(load_talker(arguments.talker), judge, arguments.eval_folder, arguments.out)
    except AnytalkError as error:
        sys.exit(f"Error: {error}")


if __name__ == "__main__":
    main()
