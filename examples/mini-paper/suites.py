"""What is measured after each stage, as suites of `anytalk eval`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

EVAL = Path(__file__).resolve().parents[1] / "eval"
HELD_OUT_QUESTIONS = {"kind": "jsonl", "path": str(EVAL / "assistant.jsonl")}
SPEAKS_AFTER = "annealing"
"""The stage after which answers are spoken."""


def suites_of(checkpoint: str, out: Path, scale: dict[str, Any], only: list[str] | None = None) -> dict[str, Any]:
    """The suites of a checkpoint by name; `only` names those that are wanted."""
    sizes = scale["eval"]
    shared = {
        "source": HELD_OUT_QUESTIONS,
        "synthesizer": {"name": "piper"},
        "max_columns": sizes["columns"],
    }
    held_out = {"kind": "loss", "data": str((out / "held-out").absolute())}
    found: dict[str, Any] = {
        "text": {
            "measures": [
                {
                    "kind": "text_retention",
                    "limit": sizes["texts"],
                    "max_tokens": sizes["tokens"],
                    "texts_file": str((out / "rows/texts.txt").absolute()),
                },
                {"kind": "spoken_qa", "name": "closed_book", "ask": ["text"], "limit": sizes["closed_book"]},
            ]
        }
    }
    if checkpoint != "attached":
        first = checkpoint == "alignment"  # Whisper's own decoder needs to be heard once
        sets = sorted((out / "rows" / "test").glob("*.jsonl"))
        people = [
            {
                "kind": "asr",
                "name": path.stem,
                "with_transcriber": first,
                "source": {"kind": "jsonl", "path": str(path.absolute())},
            }
            for path in sets
        ]
        pooled = [{"kind": "pooled", "name": "people", "of": [path.stem for path in sets]}] if sets else []
        synthetic = {"kind": "asr", "name": "synthetic", "limit": sizes["heard"], "with_transcriber": first}
        found["hear"] = {
            "max_columns": sizes["columns_heard"],
            "transcriber": {"name": "whisper", "options": {"model": sizes["transcriber"]}},
            "measures": [*people, *pooled, synthetic],
        }
        found["read"] = {
            "measures": [
                {
                    "kind": "reading",
                    "limit": sizes["read"],
                    "source": {**HELD_OUT_QUESTIONS, "path": str(EVAL / "ordinary.jsonl")},
                }
            ]
        }
        found["loss"] = {"measures": [{**held_out, "task": "T1A1", "limit": scale["ablation"]["held_out"]}]}
    if checkpoint == SPEAKS_AFTER:
        answers = {"kind": "spoken_qa", "ask": ["speech", "text"], "hear": True, "limit": sizes["answers"]}
        modes = {"parallel": True, "alone": False}
        found["speak"] = {
            "measures": [{**answers, "name": name, "batch_parallel": mode} for name, mode in modes.items()]
        }
    return {
        name: {"name": f"{checkpoint}: {name}", **shared, **suite}
        for name, suite in found.items()
        if not only or name in only
    }
