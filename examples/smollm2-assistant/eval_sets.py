"""Build what the talker is measured on: texts that nothing was trained on, questions also in voices.

    python eval_sets.py texts eval

Reads questions.test.jsonl, answers.test.jsonl and ordinary.test.txt of the folder that texts.py wrote. Which rows are
taken is decided by a hash of their text alone. Writes the manifests that suite.yaml names, 16 kHz sound beside them:

    typed.jsonl     200 questions: typed in and spoken out, and the prompts of text retention
    answers.jsonl   200 answers of the templates, to read aloud
    ordinary.jsonl  100 ordinary sentences, to read aloud
    seen.jsonl      the same questions, each in one of the ten voices of the training
    unseen.jsonl    the same in a voice that was never trained on
    readings.jsonl  kind and voice of every sound, for samples.py

What is there already is not read aloud again.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from pathlib import Path
from typing import Any

from voices import QUESTION_VOICES, SPEEDS, UNSEEN_VOICE, Reading, plan, read_aloud

QUESTIONS = 200
ANSWERS = 200


def by_hash(rows: list[Any]) -> list[Any]:
    """Rows in an order that depends on what stands in them only."""
    return sorted(rows, key=lambda row: hashlib.sha256(json.dumps(row, sort_keys=True).encode()).hexdigest())


def lines_of(path: Path) -> list[str]:
    """Lines of a text set."""
    if not path.is_file():
        sys.exit(f"Error: there is no '{path}'\nHint: python texts.py {path.parent}")
    return path.read_text(encoding="utf-8").splitlines()


def write_manifest(path: Path, rows: list[dict[str, Any]]) -> None:
    """One JSON object per line; fields without a value are left out."""
    kept = [{key: value for key, value in row.items() if value is not None} for row in rows]
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in kept), encoding="utf-8")
    print(f"{path}: {len(rows)} rows")


def voiced(readings: list[Reading], folder: Path) -> list[Reading]:
    """Those whose sound is there, or could be made."""
    done = read_aloud(readings, folder)
    for reading, is_there in zip(readings, done, strict=True):
        if not is_there:
            print(f"left out: {reading.engine}:{reading.voice} can't say '{reading.text}'")
    return [reading for reading, is_there in zip(readings, done, strict=True) if is_there]


def question_row(reading: Reading) -> dict[str, Any]:
    """A spoken question of a manifest."""
    expected = reading.row.get("expected")
    return {"question_text": reading.text, "question_audio": reading.file_name, "answer_text": expected}


def reading_row(name: str, reading: Reading) -> dict[str, Any]:
    """What a manifest of questions has no field for."""
    voice = f"{reading.engine}:{reading.voice}"
    about = {"set": name, "kind": reading.row["kind"], "voice": voice, "speed": reading.speed}
    return about | {"question_text": reading.text, "question_audio": reading.file_name}


def build(texts: Path, out: Path, limit: int | None = None) -> None:
    """Write all manifests and sounds; `limit` is the most rows of each."""
    out.mkdir(parents=True, exist_ok=True)
    questions = by_hash([json.loads(line) for line in lines_of(texts / "questions.test.jsonl")])[:QUESTIONS][:limit]
    write_manifest(
        out / "typed.jsonl",
        [{"question_text": row["question_text"], "answer_text": row["expected"]} for row in questions],
    )
    answers = by_hash([json.loads(line)["text"] for line in lines_of(texts / "answers.test.jsonl")])[:ANSWERS][:limit]
    write_manifest(out / "answers.jsonl", [{"question_text": text} for text in answers])
    sentences = lines_of(texts / "ordinary.test.txt")[:limit]
    write_manifest(out / "ordinary.jsonl", [{"question_text": text} for text in sentences])
    sets = {
        "seen": voiced(list(plan(questions, "question_text", QUESTION_VOICES, SPEEDS, 1)), out),
        "unseen": voiced(list(plan(questions, "question_text", [UNSEEN_VOICE], [1.0], 1)), out),
    }
    for name, readings in sets.items():
        write_manifest(out / f"{name}.jsonl", [question_row(reading) for reading in readings])
    about = [reading_row(name, reading) for name, readings in sets.items() for reading in readings]
    write_manifest(out / "readings.jsonl", about)


def main() -> None:
    """Parse, pick, read aloud, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("texts", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--limit", type=int, help="Rows of each manifest at most (for a quick look).")
    arguments = parser.parse_args()
    build(arguments.texts, arguments.out, arguments.limit)


if __name__ == "__main__":
    main()
