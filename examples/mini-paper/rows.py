"""The rows of a run: people, spoken questions and the voice, as files, and the two `data.yaml` that name them."""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

EXAMPLES = Path(__file__).resolve().parents[1]
sys.path.append(str(EXAMPLES / "heart"))

from sentences import sentences  # noqa: E402

HELD_OUT_PAIR = 10
"""Every so many-th question-answer pair is held out."""


def write_rows(out: Path, scale: dict[str, Any], speech: Path) -> None:
    """Write ``rows/*.jsonl``, ``data.yaml`` and ``held-out.yaml``; says what is left out where nobody was recorded."""
    folder = out / "rows"
    folder.mkdir(exist_ok=True)
    dice = random.Random(0)
    texts = sentences(None)
    asked = [{"question_text": s.text} for s in texts if s.kind == "question"]
    said = [{"answer_text": s.text} for s in texts if not s.held_out]
    unsaid = [{"answer_text": s.text} for s in texts if s.held_out]
    lines = (EXAMPLES / "data" / "assistant.jsonl").read_text(encoding="utf-8").splitlines()
    pairs = [json.loads(line) for line in lines]
    kept = [pair for i, pair in enumerate(pairs) if i % HELD_OUT_PAIR][: scale["pairs"]]
    # Voices are taken by turns: as often as it stands there, a question is asked in another one.
    written = {
        "pairs": kept * scale["readings"],
        "voice": said[: scale["voice"]],
        "questions": asked[: scale["questions"]],
    }
    held_out = {
        "pairs": pairs[::HELD_OUT_PAIR],
        "voice": unsaid[: max(scale["held_out"], scale["ablation"]["held_out"])],
    }
    tests = {}
    if speech.is_dir():
        longest_s = scale["longest_s"]
        people = [row for path in sorted(speech.glob("train/*/manifest.jsonl")) for row in recordings(path, longest_s)]
        dice.shuffle(people)
        cut = len(people) - scale["held_out"]
        written["people"], held_out["people"] = people[: min(cut, scale["people"])], people[cut:]
        for path in sorted(speech.glob("test/*/manifest.jsonl")):
            if found := recordings(path, longest_s):
                tests[path.parent.name.replace("-", "_")] = dice.sample(found, min(len(found), scale["eval"]["heard"]))
    else:
        print(f"'{speech}' isn't there (ANYTALK_SPEECH): no recordings of people; only synthetic voices are heard")
    for name, rows in {**written, **{f"held-out-{n}": r for n, r in held_out.items()}}.items():
        write_lines(folder / f"{name}.jsonl", rows)
    for name, rows in tests.items():
        write_lines(folder / "test" / f"{name}.jsonl", rows)
    (folder / "texts.txt").write_text("\n".join(plain_texts()[: scale["eval"]["plain"]]) + "\n", encoding="utf-8")
    for file, names in (("data.yaml", list(written)), ("held-out.yaml", [f"held-out-{name}" for name in held_out])):
        (out / file).write_text(yaml.safe_dump(data_config(names), sort_keys=False), encoding="utf-8")


def recordings(manifest: Path, longest_s: float) -> list[dict[str, str]]:
    """Rows of a set of recordings that have a text and are not too long."""
    rows = [json.loads(line) for line in manifest.read_text(encoding="utf-8").splitlines()]
    return [
        {"question_audio": str((manifest.parent / row["audio"]).absolute()), "question_text": row["text"]}
        for row in rows
        if row["text"] and row["seconds"] <= longest_s
    ]


def plain_texts() -> list[str]:
    """Texts that nothing was trained on: a hundred Harvard sentences and six of our own."""
    lines = (EXAMPLES / "eval" / "ordinary.jsonl").read_text(encoding="utf-8").splitlines()
    own = (EXAMPLES / "eval" / "texts.txt").read_text(encoding="utf-8").splitlines()
    return [*own, *(json.loads(line)["question_text"] for line in lines)]


def data_config(names: Iterable[str]) -> dict[str, Any]:
    """A ``data.yaml``: what each file serves, and who reads what has no sound."""
    tasks = {"people": ["A1T1"], "questions": ["A1T1"], "voice": ["T1A1"]}
    sources = []
    for name in names:
        served = tasks.get(name.removeprefix("held-out-"))
        source = {"kind": "jsonl", "name": name, "path": f"rows/{name}.jsonl", **({"tasks": served} if served else {})}
        sources.append(source)
    voice = {"synthesizer": {"name": "piper"}, "answer_synthesizer": {"name": "hibari"}}
    return {"sources": sources, "voice": voice}


def write_lines(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """One JSON value per line."""
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
