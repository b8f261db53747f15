"""Write manifests of plain words for folders of speech, and the `data.yaml` that names them.

Readers, learners and actors are written down in different ways: with marks or without, with digits or words. An adapter
that learns from all of them needs one way: lower case, no marks, numbers as words.
"""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path

import yaml

from anytalk.data.config import SourceConfig, read_rows
from anytalk.plugins.contracts import Row
from anytalk.plugins.registry import default_registry
from anytalk.text.normalise import normalise

AUGMENT = [
    {"name": "speed", "options": {"probability": 0.5}},
    {"name": "room", "options": {"probability": 0.3}},
    {"name": "noise", "options": {"probability": 0.4, "min_snr_db": 5.0, "max_snr_db": 30.0}},
]


def plain_words(text: str) -> str:
    """Spell a text as its words: lower case, letters and apostrophes, one space between."""
    said = normalise(text).lower().replace("-", " ")
    words = (word.strip("'") for word in re.sub(r"[^a-z' ]", " ", said).split())
    return " ".join(word for word in words if word)


def spoken_rows(folder: Path) -> list[dict[str, str]]:
    """Read the clips that have words; a folder is a set of LibriSpeech unless it holds a `manifest.jsonl`.

    Raises:
        DataError: neither of the two.
    """
    manifest = folder / "manifest.jsonl"
    source = SourceConfig(kind="hf", path=str(manifest)) if manifest.is_file() else None
    rows = read_rows(source or SourceConfig(kind="librispeech", path=str(folder)), default_registry())
    texts = [
        (row.question_audio, plain_words(row.question_text or ""))
        for row in rows
        if isinstance(row, Row) and isinstance(row.question_audio, Path)
    ]
    return [{"audio": str(audio.absolute()), "text": text} for audio, text in texts if text]


def write_rows(path: Path, rows: list[dict[str, str]]) -> None:
    """Write JSON lines."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def main() -> None:
    """Write a manifest for each set and copy, `held-out.jsonl` and `data.yaml`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path, help="Folder for the manifests and data.yaml.")
    parser.add_argument("sets", type=Path, nargs="+", help="Sets of LibriSpeech, or folders with a manifest.jsonl.")
    # A copy has other row ids, so that the augmentations draw anew: each clip is heard in as many ways.
    parser.add_argument("--copies", type=int, default=1, help="Ways in which each clip is heard.")
    parser.add_argument("--held-out-every", type=int, default=60, help="One of so many clips is not learned from.")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    sources, held_out = [], []
    for folder in arguments.sets:
        rows = spoken_rows(folder)
        print(f"{folder.name}: {len(rows)} clips with words")
        held_out += rows[:: arguments.held_out_every]
        del rows[:: arguments.held_out_every]
        for name in [folder.name, *(f"{folder.name}-{copy}" for copy in range(2, arguments.copies + 1))]:
            write_rows(arguments.out / f"{name}.jsonl", rows)
            sources.append({"kind": "jsonl", "name": name, "path": f"{name}.jsonl", "tasks": ["A1T1"]})
    write_rows(arguments.out / "held-out.jsonl", held_out)
    data = {"sources": sources, "augment": AUGMENT}
    (arguments.out / "data.yaml").write_text(yaml.safe_dump(data, sort_keys=False), encoding="utf-8")


if __name__ == "__main__":
    main()
