"""Ten held-out questions and the talker's spoken answers, as files to listen to and look at.

    python samples.py TALKER eval samples

Takes the first questions of eval/unseen.jsonl (a voice that was never trained on) whose answers are short enough for a
small file. Writes question and answer as wav, the answer's spectrogram, and samples.md.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

import numpy as np

from anytalk.decode.session import AnswerDone, AudioDelta, Session
from anytalk.evaluate.spectrogram import draw_spectrogram
from anytalk.grid.audio import read_wave, write_wave
from anytalk.model.talker import load_talker
from anytalk.plugins.components import PartRef
from anytalk.plugins.registry import default_registry

SAMPLES = 10
LONGEST_S = 6.0
"""16-bit sound at 16 kHz of this length takes 192 kB."""


def main() -> None:
    """Ask, keep, write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("talker", type=Path)
    parser.add_argument("eval_folder", type=Path)
    parser.add_argument("out", type=Path)
    arguments = parser.parse_args()
    out: Path = arguments.out
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    talker = load_talker(arguments.talker)
    encoder = talker.model.encoder
    assert encoder is not None
    judge = default_registry().build("transcriber", PartRef(name="whisper"))
    rate_hz = talker.codec.sample_rate_hz
    lines = ["| asked | it writes | Whisper base hears | sound | picture |", "|---|---|---|---|---|"]
    rows = [json.loads(line) for line in (arguments.eval_folder / "unseen.jsonl").read_text("utf-8").splitlines()]
    number = 0
    for row in rows:
        question = read_wave(arguments.eval_folder / row["question_audio"], encoder.sample_rate_hz)
        pieces, text = [np.zeros(0, dtype=np.float32)], ""
        for event in Session(talker).ask(wave=question):
            if isinstance(event, AudioDelta):
                pieces.append(event.wave)
            elif isinstance(event, AnswerDone):
                text = event.text
        answer = np.concatenate(pieces)
        if not 0 < len(answer) / rate_hz <= LONGEST_S:
            continue
        number += 1
        name = f"{number:02d}"
        write_wave(out / f"{name}-question.wav", question, encoder.sample_rate_hz)
        write_wave(out / f"{name}-answer.wav", answer, rate_hz)
        draw_spectrogram(out / f"{name}-answer.png", answer, rate_hz, text)
        heard = judge.transcribe(answer, rate_hz)
        links = f"[question]({name}-question.wav), [answer]({name}-answer.wav) | [spectrogram]({name}-answer.png)"
        lines.append(f"| {row['question_text']} | {text} | {heard} | {links} |")
        print(lines[-1], flush=True)
        if number == SAMPLES:
            break
    (out / "samples.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
