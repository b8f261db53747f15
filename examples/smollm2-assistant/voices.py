"""Read a text set aloud, several processes side by side; what is there already is not read again.

    python voices.py texts/ordinary.train.jsonl speech/ordinary --field text --voices piper:joe --speed 0.87
    python voices.py texts/questions.train.jsonl speech/questions --field question_text --per-row 2 \
        --sound-field question_audio --voices questions --speeds 0.85,1.0,1.15

Each row is read by `--per-row` of the voices at one of the speeds each, chosen by a hash of the row's id: so the choice
depends neither on the order nor on the number of processes. Writes FOLDER/**.wav (16 kHz), FOLDER/manifest.jsonl,
whose rows carry the fields of the text set, the sound's path in `--sound-field` (`question_audio` or `answer_audio`)
and its words in `question_text` or `answer_text`.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SAMPLE_RATE_HZ = 16_000
_CHUNK = 32
QUESTION_VOICES = [
    ("piper", "joe"),
    ("espeak", "en-us"),
    ("flite", "slt"),
    ("espeak", "en-us+f3"),
    ("piper", "joe-low"),
    ("flite", "awb"),
    ("espeak", "en-us+m3"),
    ("flite", "kal16"),
    ("espeak", "en-gb+f4"),
    ("piper", "joe-high"),
]
"""Who asks in training: `--voices questions`."""

UNSEEN_VOICE = ("flite", "rms")
"""Never trained on."""

SPEEDS = [0.85, 1.0, 1.15]

_KEPT = ("question_text", "answer_text")


@dataclass(frozen=True)
class Reading:
    """One row read by one voice at one speed."""

    row: dict[str, Any]
    text: str
    engine: str
    voice: str
    speed: float

    @property
    def file_name(self) -> str:
        """Unique to what is heard."""
        digest = hashlib.sha256(f"{self.engine}|{self.voice}|{self.speed}|{self.text}".encode()).hexdigest()[:16]
        return f"{digest[:2]}/{digest}.wav"


def plan(
    rows: list[dict[str, Any]], field: str, voices: list[tuple[str, str]], speeds: list[float], per_row: int
) -> Iterator[Reading]:
    """Who reads what: voices in turn from a place that the row's id decides."""
    for row in rows:
        number = int(hashlib.sha256(str(row.get("id", row[field])).encode()).hexdigest(), 16)
        for turn in range(per_row):
            engine, voice = voices[(number + turn * max(1, len(voices) // per_row)) % len(voices)]
            speed = speeds[(number // 1009 + turn) % len(speeds)]
            yield Reading(row, row[field], engine, voice, speed)


_engines: dict[str, Any] = {}


def read_aloud(readings: list[Reading], folder: Path) -> list[bool]:
    """Write the sound of each reading; False for one that can't be said."""
    from anytalk.errors import AudioError
    from anytalk.grid.audio import resample, write_wave
    from anytalk.plugins.components import PartRef
    from anytalk.plugins.registry import default_registry

    done = []
    for reading in readings:
        path = folder / reading.file_name
        if not path.is_file():
            if reading.engine not in _engines:
                _engines[reading.engine] = default_registry().build("synthesizer", PartRef(name=reading.engine))
            engine = _engines[reading.engine]
            try:
                wave = engine.speak(reading.text, reading.voice, reading.speed)
            except AudioError:
                done.append(False)
                continue
            path.parent.mkdir(parents=True, exist_ok=True)
            # Written whole or not at all: an interrupted run leaves no half a sound behind.
            part = path.with_suffix(f".{os.getpid()}.wav")
            write_wave(part, resample(wave, engine.sample_rate_hz, SAMPLE_RATE_HZ), SAMPLE_RATE_HZ)
            part.replace(path)
        done.append(True)
    return done


def main() -> None:
    """Parse, read, write the manifest."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("texts", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--field", default="text")
    parser.add_argument("--sound-field", default="answer_audio")
    parser.add_argument("--voices", default="piper:joe", help="engine:voice with commas, or 'questions'")
    parser.add_argument("--speeds", "--speed", default="1.0", help="with commas")
    parser.add_argument("--per-row", type=int, default=1)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--limit", type=int)
    arguments = parser.parse_args()
    # One thread each: the processes fill the cores. Set before an engine is loaded in any of them.
    os.environ["OMP_NUM_THREADS"] = "1"
    lines = arguments.texts.read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines if line.strip()][: arguments.limit]
    voices = QUESTION_VOICES
    if arguments.voices != "questions":
        voices = [(name.partition(":")[0], name.partition(":")[2]) for name in arguments.voices.split(",")]
    speeds = [float(speed) for speed in arguments.speeds.split(",")]
    readings = list(plan(rows, arguments.field, voices, speeds, arguments.per_row))
    chunks = [readings[i : i + _CHUNK] for i in range(0, len(readings), _CHUNK)]
    text_field = arguments.sound_field.replace("_audio", "_text")
    said: list[bool] = []
    with ProcessPoolExecutor(arguments.workers) as pool:
        for number, done in enumerate(pool.map(read_aloud, chunks, [arguments.folder] * len(chunks)), start=1):
            said += done
            if number % 20 == 0 or number == len(chunks):
                print(f"{len(said)} of {len(readings)} read", flush=True)
    with (arguments.folder / "manifest.jsonl").open("w", encoding="utf-8") as file:
        for reading, is_there in zip(readings, said, strict=True):
            if is_there:
                row = {key: value for key, value in reading.row.items() if key in _KEPT}
                row |= {arguments.sound_field: reading.file_name, text_field: reading.text}
                if arguments.sound_field == "answer_audio":
                    row["speaker"] = reading.voice
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
    if not all(said):
        print(f"{said.count(False)} readings left out: nothing to say in them")


if __name__ == "__main__":
    main()
