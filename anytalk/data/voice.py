"""Make training speech for a text set: read questions, in several voices and speeds, and answers aloud."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from anytalk.data.checks import check_text
from anytalk.data.encoding import Rejected, RejectedError, reason_of
from anytalk.data.manifest import write_manifest
from anytalk.data.voicing import Voicing, read_aloud
from anytalk.errors import DataError
from anytalk.grid.audio import write_wave
from anytalk.plugins.contracts import Synthesizer

MANIFEST_FILE = "manifest.jsonl"
_DIGEST_LETTERS = 10


@dataclass(frozen=True)
class TextPair:
    """Holds a question, its answer (None if it is still missing) and the number of their line."""

    question: str
    answer: str | None = None
    line: int = 0


def read_texts(path: Path) -> tuple[list[TextPair], list[Rejected]]:
    """Read a JSONL file with ``question_text`` and optionally ``answer_text``; other fields are ignored.

    Returns:
        The texts, and the lines that can't be used.

    Raises:
        DataError: the file is missing, or none of its lines can be used.
    """
    if not path.is_file():
        raise DataError(f"'{path}' doesn't exist", 'write one {"question_text": "..."} per line')
    pairs: list[TextPair] = []
    left_out: list[Rejected] = []
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                where = f"{path.name}:{number}"
                try:
                    pairs.append(_pair(line, where, number))
                except Exception as error:  # one line must not end the run
                    left_out.append(Rejected(path.name, number, where, *reason_of(error)))
    if not pairs:
        why = f"; the first line: {left_out[0].reason}" if left_out else ""
        raise DataError(f"'{path}' holds no texts{why}", 'write one {"question_text": "..."} per line')
    return pairs, left_out


def _pair(line: bytes, where: str, number: int) -> TextPair:
    try:
        data = json.loads(line.decode("utf-8-sig"))  # the BOM that Windows editors write is skipped
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where} is not JSON: {error}", "write one JSON object per line") from None
    question = data.get("question_text") if isinstance(data, dict) else None
    if not isinstance(question, str) or not question.strip():
        raise DataError(f"{where} has no 'question_text'", 'write {"question_text": "..."}')
    answer = data.get("answer_text")
    if answer is not None and not isinstance(answer, str):
        raise DataError(f"{where}: 'answer_text' is a {type(answer).__name__}; text is expected", "quote it")
    check_text(question, f"{where}: its question")
    check_text(answer, f"{where}: its answer")
    return TextPair(question, answer, number)


def voice_texts(
    pairs: Sequence[TextPair],
    folder: Path,
    voicing: Voicing,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[Path, list[Rejected]]:
    """Write ``questions/``, ``answers/`` and a manifest; sound files that exist are kept.

    Args:
        pairs: Texts; a pair without an answer gets no answer sound.
        voicing: Chooses the voices; each of its variants reads each question.
        progress: Called with the sound files done and their total.

    Returns:
        The manifest, with one row per question, voice and speed, and the texts that can't be read aloud.

    Raises:
        AudioError: the folder can't be written.
        DataError: none of the texts can be read aloud.
    """
    total = len(pairs) * len(voicing.variants) + sum(pair.answer is not None for pair in pairs)
    done = 0
    rows: list[dict[str, Any]] = []
    left_out: list[Rejected] = []
    for number, pair in enumerate(pairs, start=1):
        try:
            rows += _voiced(pair, number, folder, voicing)
        except RejectedError as error:
            left_out.append(Rejected(folder.name, pair.line, f"text {number}", error.kind, error.reason))
        done += len(voicing.variants) + (pair.answer is not None)
        progress(done, total)
    if not rows:
        raise DataError(
            f"none of {len(pairs)} texts can be read aloud; the first: {left_out[0].reason}", "try other texts"
        )
    manifest = folder / MANIFEST_FILE
    write_manifest(manifest, rows)
    return manifest, left_out


def _voiced(pair: TextPair, number: int, folder: Path, voicing: Voicing) -> list[dict[str, Any]]:
    """Return the rows of a pair, one for each variant."""

    def speak(part: str, speaker: Synthesizer, text: str, voice: str, speed: float) -> str:
        # The digest gives a changed text a new file; voice and speed in the name help people who listen.
        engine = type(speaker).__name__
        digest = hashlib.sha256(f"{engine}|{voice}|{speed}|{text}".encode()).hexdigest()
        safe_voice = "".join(c if c.isalnum() or c in "-_" else "_" for c in voice)
        name = f"{part}/{number:05d}-{safe_voice}-{speed:g}-{digest[:_DIGEST_LETTERS]}.wav"
        if not (folder / name).is_file():
            try:
                wave = read_aloud(speaker, text, f"{part}, text {number}", voice, speed)
            except Exception as error:  # one text must not end the run
                raise RejectedError(*reason_of(error)) from error
            write_wave(folder / name, wave, speaker.sample_rate_hz)
        return name

    answer: dict[str, Any] = {}
    if pair.answer is not None:
        sound = speak("answers", voicing.answerer, pair.answer, voicing.answer_voice, 1.0)
        answer = {"answer_text": pair.answer, "answer_audio": sound, "speaker": voicing.answer_voice}
    asking = voicing.synthesizer
    asked = [speak("questions", asking, pair.question, voice, speed) for voice, speed in voicing.variants]
    return [{"question_text": pair.question, "question_audio": sound, **answer} for sound in asked]
