"""Training speech for a text set: a synthesizer reads questions (in several voices and speeds) and answers aloud."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from anytalk.data.manifest import write_manifest
from anytalk.errors import ConfigError, DataError, UnknownNameError, did_you_mean
from anytalk.grid.audio import write_wave
from anytalk.plugins.contracts import Synthesizer

MANIFEST_FILE = "manifest.jsonl"
_DIGEST_LETTERS = 10


@dataclass(frozen=True)
class TextPair:
    """A question and, unless it is still to be answered, its answer."""

    question: str
    answer: str | None = None


@dataclass(frozen=True, kw_only=True)
class VoicePlan:
    """Who reads what.

    Attributes:
        question_voices: Voices of the questions; each reads every question.
        question_speeds: Speeds of the questions; each voice reads at every one.
        answer_voice: The one voice of the answers; None: the synthesizer's first.
    """

    question_voices: Sequence[str]
    question_speeds: Sequence[float] = (1.0,)
    answer_voice: str | None = None


def read_texts(path: Path) -> list[TextPair]:
    """Read a JSONL file with ``question_text`` and, if known, ``answer_text``; other fields are passed over.

    Raises:
        DataError: a file that is missing or empty, or a line (named) that is not well-formed.
    """
    if not path.is_file():
        raise DataError(f"'{path}' doesn't exist", 'write one {"question_text": "..."} per line')
    pairs = []
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), start=1):
        if not line.strip():
            continue
        where = f"{path.name}:{number}"
        try:
            data = json.loads(line)
        except ValueError as error:
            raise DataError(f"{where} is not JSON: {error}", "write one JSON object per line") from None
        question = data.get("question_text") if isinstance(data, dict) else None
        if not isinstance(question, str) or not question.strip():
            raise DataError(f"{where} has no 'question_text'", 'write {"question_text": "..."}')
        answer = data.get("answer_text")
        if answer is not None and not isinstance(answer, str):
            raise DataError(f"{where}: 'answer_text' is a {type(answer).__name__}; text is expected", "quote it")
        pairs.append(TextPair(question, answer))
    if not pairs:
        raise DataError(f"'{path}' holds no texts", 'write one {"question_text": "..."} per line')
    return pairs


def check_plan(synthesizer: Synthesizer, plan: VoicePlan) -> None:
    """Refuse voices that the synthesizer doesn't have, and a plan that reads nothing.

    Raises:
        UnknownNameError: a voice that the synthesizer doesn't have.
        ConfigError: no voice or no speed.
    """
    for voice in [*plan.question_voices, *([plan.answer_voice] if plan.answer_voice else [])]:
        if voice not in synthesizer.voices:
            known = synthesizer.voices
            raise UnknownNameError(
                f"unknown voice '{voice}'{did_you_mean(voice, known)}", f"voices: {', '.join(known)}"
            )
    if not plan.question_voices or not plan.question_speeds:
        raise ConfigError("no voice or no speed was given for the questions", "give at least one of each")


def voice_texts(
    pairs: Sequence[TextPair],
    folder: Path,
    synthesizer: Synthesizer,
    plan: VoicePlan,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Path:
    """Write ``questions/``, ``answers/`` and a manifest; sound that is there already is not made again.

    Args:
        pairs: Texts; pairs without an answer get no answer sound.
        folder: Where to write; made if it isn't there.
        synthesizer: Who speaks.
        plan: Voices and speeds.
        progress: Told the sound files done, of how many.

    Returns:
        The manifest: one row per question, voice and speed.

    Raises:
        UnknownNameError: a voice that the synthesizer doesn't have.
        AudioError: a text that can't be said, or a folder that can't be written.
    """
    check_plan(synthesizer, plan)
    answer_voice = plan.answer_voice or synthesizer.voices[0]
    variants = [(voice, speed) for voice in plan.question_voices for speed in plan.question_speeds]
    total = len(pairs) * len(variants) + sum(pair.answer is not None for pair in pairs)
    done = 0

    def speak(part: str, number: int, text: str, voice: str, speed: float) -> str:
        nonlocal done
        # The digest makes a changed text a new file; the voice and speed are there for people who listen.
        digest = hashlib.sha256(f"{type(synthesizer).__name__}|{voice}|{speed}|{text}".encode()).hexdigest()
        safe_voice = "".join(c if c.isalnum() or c in "-_" else "_" for c in voice)
        name = f"{part}/{number:05d}-{safe_voice}-{speed:g}-{digest[:_DIGEST_LETTERS]}.wav"
        if not (folder / name).is_file():
            write_wave(folder / name, synthesizer.speak(text, voice, speed), synthesizer.sample_rate_hz)
        done += 1
        progress(done, total)
        return name

    rows: list[dict[str, Any]] = []
    for number, pair in enumerate(pairs, start=1):
        answer: dict[str, Any] = {}
        if pair.answer is not None:
            sound = speak("answers", number, pair.answer, answer_voice, 1.0)
            answer = {"answer_text": pair.answer, "answer_audio": sound, "speaker": answer_voice}
        for voice, speed in variants:
            question = speak("questions", number, pair.question, voice, speed)
            rows.append({"question_text": pair.question, "question_audio": question, **answer})
    manifest = folder / MANIFEST_FILE
    write_manifest(manifest, rows)
    return manifest
