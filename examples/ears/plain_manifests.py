"""Write manifests of plain words for folders of speech, and the `data.yaml` that names them; some clips are held out.

Readers, learners and actors are written down in different ways: with marks or without, with digits or words. An adapter
that learns from all of them needs one way: lower case, no marks, numbers as words.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Sequence
from itertools import groupby
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
    """Read the clips that have words: `audio`, `text` and `speaker`; where nobody is named, each clip has its own.

    A folder is a set of LibriSpeech unless it holds a `manifest.jsonl`.

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
    named = speakers_of(manifest) if source else {audio: audio.name.partition("-")[0] for audio, _ in texts}
    return [
        {"audio": str(audio.absolute()), "text": text, "speaker": named.get(audio) or audio.name}
        for audio, text in texts
        if text
    ]


def speakers_of(manifest: Path) -> dict[Path, str | None]:
    """Return the speaker of each clip of a manifest, by the clip's path."""
    lines = [json.loads(line) for line in manifest.read_text(encoding="utf-8").splitlines() if line.strip()]
    return {manifest.parent.absolute() / line["audio"]: line.get("speaker") for line in lines}


Rows = list[dict[str, str]]


def parted(rows: Sequence[dict[str, str]], every: int) -> tuple[Rows, Rows]:
    """Split rows into those to train on and those held out: whole speakers, until these are one clip in `every`.

    No speaker is in both, so held-out errors are those of strangers. With a single speaker, single clips are held out.
    """
    key = "speaker" if len({row["speaker"] for row in rows}) > 1 else "audio"
    by_name = sorted(rows, key=lambda row: row[key], reverse=True)
    learnt: Rows = []
    held_out: Rows = []
    for _, said in groupby(by_name, key=lambda row: row[key]):
        (held_out if len(held_out) < len(rows) / every else learnt).extend(said)
    return learnt, held_out


def write_rows(path: Path, rows: Sequence[dict[str, str]]) -> None:
    """Write `audio` and `text` of rows as JSON lines; a source's `speaker` would be the voice that answers."""
    lines = [json.dumps({"audio": row["audio"], "text": row["text"]}) + "\n" for row in rows]
    path.write_text("".join(lines), encoding="utf-8")


def write_yaml(path: Path, data: dict[str, object]) -> None:
    """Write settings, in their order."""
    path.write_text(yaml.safe_dump(data, sort_keys=False), encoding="utf-8")


def main() -> None:
    """Write a manifest for each set and copy and one of what is held out, `data.yaml` and `held-out.yaml`."""
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
        rows, others = parted(rows, arguments.held_out_every)
        held_out += others
        for name in [folder.name, *(f"{folder.name}-{copy}" for copy in range(2, arguments.copies + 1))]:
            write_rows(arguments.out / f"{name}.jsonl", rows)
            # Weighted by its size, so that each clip is drawn as often as any other.
            source = {
                "kind": "jsonl",
                "name": name,
                "path": f"{name}.jsonl",
                "tasks": ["A1T1"],
                "weight": len(rows) or 1,
            }
            sources.append(source)
    write_rows(arguments.out / "held-out.jsonl", held_out)
    others_as_they_are = [{"kind": "jsonl", "name": "held-out", "path": "held-out.jsonl", "tasks": ["A1T1"]}]
    write_yaml(arguments.out / "held-out.yaml", {"sources": others_as_they_are})
    write_yaml(arguments.out / "data.yaml", {"sources": sources, "augment": AUGMENT})


if __name__ == "__main__":
    main()
