"""What the language model itself answers: the best targets for a mouth that has to say what the model writes.

    python answers.py TALKER texts/questions.train.jsonl texts/own.train.jsonl --limit 2400

Greedy answers, cut behind the last sentence that ends within `--max-tokens`; answers without one are left out.
"""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path

from anytalk.decode.greedy import greedy_answers
from anytalk.model.talker import load_talker

_SENTENCES = re.compile(r"^.*[.!?](?=\s|$)", re.DOTALL)
_SPOKEN = re.compile(r"[A-Za-z0-9 ,.?!'\";:()\-]+")


def whole_sentences(text: str) -> str | None:
    """The text up to the end of its last whole sentence; None where there is none, or where it can't be read aloud."""
    found = _SENTENCES.search(" ".join(text.split()))
    return found.group() if found and _SPOKEN.fullmatch(found.group()) else None


def main() -> None:
    """Parse, answer, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("talker", type=Path)
    parser.add_argument("questions", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--limit", type=int, default=2400)
    parser.add_argument("--max-tokens", type=int, default=40)
    parser.add_argument("--batch-size", type=int, default=64)
    arguments = parser.parse_args()
    lines = arguments.questions.read_text(encoding="utf-8").splitlines()[: arguments.limit]
    rows = [json.loads(line) for line in lines]
    talker = load_talker(arguments.talker, with_encoder=False)
    texts = greedy_answers(
        talker,
        [row["question_text"] for row in rows],
        max_tokens=arguments.max_tokens,
        batch_size=arguments.batch_size,
        progress=lambda done, total: print(f"{done} of {total} answered", flush=True),
    )
    part = arguments.out.with_suffix(".partial")
    seen: set[str] = set()
    with part.open("w", encoding="utf-8") as file:
        for row, text in zip(rows, texts, strict=True):
            said = whole_sentences(text)
            if said and said not in seen:
                seen.add(said)
                file.write(json.dumps({**row, "answer_text": said}, ensure_ascii=False) + "\n")
    part.replace(arguments.out)
    print(f"{len(seen)} answers of {len(rows)} questions: {arguments.out}")


if __name__ == "__main__":
    main()
