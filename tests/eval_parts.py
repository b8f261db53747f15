"""A talker on the bench with judges whose answers are known; shared by the tests of evaluation."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import yaml
from helpers import tiny_talker
from talkers import make_talker

from anytalk import plugins
from anytalk.errors import WeightsError
from anytalk.evaluate.config import Suite
from anytalk.evaluate.lab import Lab, Reply
from anytalk.model.talker import Talker, load_talker
from anytalk.plugins import BuildContext, Component, hookimpl
from anytalk.plugins.contracts import Synthesizer, Transcriber
from anytalk.plugins.manager import build_plugins
from anytalk.plugins.registry import Registry

RATE_HZ = 8_000


class Tape(Transcriber):
    """Hears what was written on its tape, by the number of samples; "noise" for other sounds."""

    licence = "MIT"
    heard: dict[int, str] = {}  # noqa: RUF012 - set by each test

    @classmethod
    def build(cls, options: Any, context: BuildContext) -> Tape:
        return cls()

    @property
    def title(self) -> str:
        return "a tape"

    def transcribe(self, wave: np.ndarray, sample_rate_hz: int) -> str:
        return self.heard.get(len(wave), "noise")


class Hum(Synthesizer):
    """Hums a while for each letter, the high voice faster."""

    licence = "MIT"
    sample_rate_hz = RATE_HZ

    @classmethod
    def build(cls, options: Any, context: BuildContext) -> Hum:
        return cls()

    @property
    def voices(self) -> list[str]:
        return ["low", "high"]

    def speak(self, text: str, voice: str | None = None, speed: float = 1.0) -> np.ndarray:
        length = (200 if voice == "high" else 300) * len(text)
        return (0.3 * np.sin(np.arange(length) / 9)).astype(np.float32)


class Broken(Transcriber):
    """A judge without weights."""

    class Options(plugins.Options):
        pass

    @classmethod
    def build(cls, options: Any, context: BuildContext) -> Broken:
        raise WeightsError("the judge has no weights", "fetch them")

    def transcribe(self, wave: np.ndarray, sample_rate_hz: int) -> str:
        return ""


PLUGIN = SimpleNamespace(
    register_transcribers=hookimpl(
        lambda: [Component("tape", f"{__name__}:Tape", "known"), Component("broken", f"{__name__}:Broken", "fails")]
    ),
    register_synthesizers=hookimpl(lambda: [Component("hum", f"{__name__}:Hum", "hums")]),
)


def registry() -> Registry:
    """The installed plugins and the parts above."""
    found = build_plugins()
    found.register(PLUGIN, "bench", "tests", "1")
    assert "bench" not in found.failures, found.failures
    return Registry(found)


def questions(folder: Path, rows: Sequence[dict[str, Any]]) -> Path:
    """A manifest."""
    path = folder / "questions.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def suite_of(manifest: Path, *measures: dict[str, Any], **more: Any) -> Suite:
    """A suite on one manifest with the judges above."""
    shared = {
        "transcriber": {"name": "tape"},
        "synthesizer": {"name": "hum"},
        "max_columns": 8,
        "bootstrap_samples": 50,
    }
    source = {"kind": "jsonl", "path": str(manifest)}
    return Suite.model_validate({"source": source, **shared, "measures": list(measures), **more})


def saved_talker(folder: Path, *assignments: str) -> Talker:
    """A tiny attached talker, loaded again with the registry above."""
    tiny_talker(folder, *assignments)
    return load_talker(folder, registry=registry())


def lab_of(suite: Suite, out: Path) -> Lab:
    """A bench with a talker that is never really asked (see :func:`script`)."""
    talker = make_talker()
    talker.registry = registry()
    return Lab(talker, suite, out)


def script(lab: Lab, replies: dict[str, Reply]) -> list[tuple[str, str | None]]:
    """Let the talker answer by a script: by question, or by number of samples of a spoken one."""
    asked: list[tuple[str, str | None]] = []

    def ask(task: str, *, text: str | None = None, wave: np.ndarray | None = None, **how: Any) -> Reply:
        asked.append((task, text))
        return replies[text if wave is None else str(len(wave))]  # type: ignore[index]

    lab.ask = ask  # type: ignore[method-assign]
    return asked


def reply(text: str, num_samples: int = 0, *, peak: float = 0.3, truncated: bool = False) -> Reply:
    """An answer whose sound the tape knows by its length."""
    wave = np.full(num_samples, peak, dtype=np.float32)
    return Reply(text, wave, RATE_HZ, truncated, {}, [], 0.5)


def write(path: Path, data: Any) -> Path:
    """A YAML file."""
    path.write_text(yaml.safe_dump(data))
    return path
