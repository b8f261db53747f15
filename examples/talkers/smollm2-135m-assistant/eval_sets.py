"""Build what the talker is measured on: texts that nothing was trained on, questions also in voices.

    python eval_sets.py texts eval

Reads questions.test.jsonl, answers.test.jsonl and ordinary.test.txt of the folder that texts.py wrote. Which rows are
taken is decided by a hash of their text alone. Writes manifests that suite.yaml names, with 16 kHz sound beside them.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from pathlib import Path
from typing import Any

from voices import QUESTION_VOICES, SPEEDS, UNSEEN_VOICE, Reading, plan, read_aloud

QUESTIONS = 200
ANSWERS = 200
HEARD = 100


def by_hash(rows: list[Any]) -> list[Any]:
    """Rows in an order that depends on what stands in them only."""
    return sorted(rows, key=lambda row: hashlib.sha256(json.dumps(row, sort_keys=True).encode()).hexdigest())


def write_manifest(path: Path, rows: list[dict[str, Any]]) -> None:
    """One JSON object per line; fields without a value are left out."""
    kept = [{key: value for key, value in row.items() if value is not None} for row in rows]
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in kept), encoding="utf-8")
    print(f"{path}: {len(rows)} rows")


def voiced(readings: list[Reading], folder: Path) -> list[dict[str, Any]]:
    """Rows with their sound, which is made where it isn't there yet."""
    done = read_aloud(readings, folder)
    return [
        {"question_text": r.text, "question_audio": r.file_name, "answer_text": r.row.get("expected")}
        for r, is_there in zip(readings, done, strict=True)
        if is_there
    ]


def main() -> None:
    """Parse, pick, read aloud, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("texts", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--limit", type=int, help="Rows of each manifest at most (for a quick look).")
    arguments = parser.parse_args()
    out: Path = arguments.out
    out.mkdir(parents=True, exist_ok=True)
    lines = (arguments.texts / "questions.test.jsonl").read_text(encoding="utf-8").splitlines()
    questions = by_hash([json.loads(line) for line in lines])[:QUESTIONS][: arguments.limit]
    write_manifest(
        out / "typed.jsonl",
        [{"question_text": row["question_text"], "answer_text": row["expected"]} for row in questions],
    )
    lines = (arguments.texts / "answers.test.jsonl").read_text(encoding="utf-8").splitlines()
    answers = by_hash([json.loads(line)["text"] for line in lines])[:ANSWERS][: arguments.limit]
    write_manifest(out / "answers.jsonl", [{"question_text": text} for text in answers])
    sentences = (arguments.texts / "ordinary.test.txt").read_text(encoding="utf-8").splitlines()
    write_manifest(out / "ordinary.jsonl", [{"question_text": text} for text in sentences][: arguments.limit])
    heard = questions[:HEARD]
    seen = list(plan(heard, "question_text", QUESTION_VOICES, SPEEDS, 1))
    write_manifest(out / "seen.jsonl", voiced(seen, out))
    write_manifest(out / "unseen.jsonl", voiced(list(plan(heard, "question_text", [UNSEEN_VOICE], [1.0], 1)), out))


if __name__ == "__main__":
    main()
