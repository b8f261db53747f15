"""Let the ears learn the words of the answers as well: their recordings as spoken sentences.

    python heard_answers.py speech

Writes speech/read/manifest.jsonl: every third answer of a template and every own answer of fewer than 110 letters.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

MOST = 1500
LETTERS = 110


def main() -> None:
    """Read both manifests, write the third."""
    speech = Path(sys.argv[1])
    rows = []
    for name, every in (("answers", 3), ("own", 1)):
        lines = (speech / name / "manifest.jsonl").read_text(encoding="utf-8").splitlines()
        answers = [json.loads(line) for line in lines]
        fit = [a for a in answers if name == "answers" or len(a["answer_text"]) < LETTERS]
        rows += [
            {"question_text": a["answer_text"], "question_audio": f"../{name}/{a['answer_audio']}"}
            for a in fit[::every][:MOST]
        ]
    (speech / "read").mkdir(parents=True, exist_ok=True)
    out = speech / "read" / "manifest.jsonl"
    out.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    print(f"{out}: {len(rows)} sentences")


if __name__ == "__main__":
    main()
