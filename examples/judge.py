"""How well does a talker hear and speak? Asks every question of a manifest in a voice that it may never have heard.

    python examples/judge.py demo-train-out/talker demo-train-out/data/manifest.jsonl \
        --synthesizer espeak --voice en-us+f3

Prints each answer, what Whisper base hears of it, how many text answers equal the manifest's, and the word error rate
between what was written and what was heard. `--typed` asks by text instead: then only the speech is judged.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

from anytalk.decode.session import Session
from anytalk.decode.telling import AnswerDone, AudioDelta
from anytalk.errors import AnytalkError
from anytalk.evaluate.wer import word_error_rate
from anytalk.grid.audio import resample
from anytalk.model.talker import load_talker
from anytalk.plugins.components import PartRef
from anytalk.plugins.contracts import strict_rows
from anytalk.plugins.registry import default_registry


def main() -> None:
    """Ask, listen, count."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("talker", type=Path)
    parser.add_argument("manifest", type=Path)
    parser.add_argument("--synthesizer", default="espeak")
    parser.add_argument("--voice")
    parser.add_argument("--typed", action="store_true", help="Ask by text.")
    arguments = parser.parse_args()
    try:
        judge(arguments.talker, arguments.manifest, arguments.synthesizer, arguments.voice, arguments.typed)
    except AnytalkError as error:
        sys.exit(f"Error: {error}")


def judge(folder: Path, manifest: Path, synthesizer: str, voice: str | None, typed: bool) -> None:
    """Ask every question once; print the answers and the two figures."""
    registry = default_registry()
    source = registry.build("data source", PartRef(name="jsonl", options={"path": str(manifest)}))
    rows = strict_rows(source.rows())
    wanted = {row.question_text: row.answer_text for row in rows if row.question_text and row.answer_text}
    talker = load_talker(folder, with_encoder=not typed)
    transcriber = registry.build("transcriber", PartRef(name="whisper"))
    speaker = None if typed else registry.build("synthesizer", PartRef(name=synthesizer))
    written, heard = [], []
    for question in wanted:
        pieces = []
        session = Session(talker)
        if speaker is None or talker.model.encoder is None:
            events = session.ask(text=question)
        else:
            wave = speaker.speak(question, voice)
            events = session.ask(wave=resample(wave, speaker.sample_rate_hz, talker.model.encoder.sample_rate_hz))
        for event in events:
            if isinstance(event, AudioDelta):
                pieces.append(event.wave)
            elif isinstance(event, AnswerDone):
                written.append(event.text)
        heard.append(transcriber.transcribe(np.concatenate(pieces), talker.codec.sample_rate_hz))
        print(f"{question}\n  writes  {written[-1]}\n  heard   {heard[-1]}", flush=True)
    right = sum(text == answer for text, answer in zip(written, wanted.values(), strict=True))
    result = word_error_rate(written, heard)
    print(f"text answers as in the manifest: {right} of {len(wanted)}")
    print(f"word error rate, written against heard: {result.wer:.1%} of {result.reference_words} words")


if __name__ == "__main__":
    main()
