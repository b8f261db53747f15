"""Measure what a talker hears and says: ``asr``, ``spoken_answers``, ``reading``, ``spoken_qa``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from anytalk.data.encoding import missing_for
from anytalk.errors import AudioError, DataError, PluginError
from anytalk.evaluate.config import AsrMeasure, PooledMeasure, ReadingMeasure, SpokenAnswersMeasure, SpokenQaMeasure
from anytalk.evaluate.lab import Lab, Reply, lacks_question
from anytalk.evaluate.matching import expected_answers, is_contained, is_exact
from anytalk.evaluate.mos import MosPredictor
from anytalk.evaluate.results import Result
from anytalk.evaluate.wer import word_error_rate
from anytalk.grid.audio import SILENCE_PEAK, write_wave
from anytalk.grid.tasks import A1T1
from anytalk.plugins.contracts import Row

FULL_SCALE = 0.999
"""Samples of at least this size count as clipped."""


def measure_asr(lab: Lab, measure: AsrMeasure, result: Result) -> None:
    """Let the talker transcribe questions (A1T1) and count wrong words.

    Questions without sound are read aloud if the suite names a synthesizer.
    """

    def missing(row: Row) -> str | None:
        lacks = [field for field in missing_for(row, A1T1) if field != "question_audio" or not lab.can_speak()]
        return f"has no {lacks[0]}" if lacks else None

    for _, row, guard in lab.each(lab.rows(measure, result, missing), result):
        with guard:
            wave = lab.question_wave(row)
            reference = row.question_text or ""
            reply = lab.ask("A1T1", wave=wave)
            counts = word_error_rate([reference], [reply.text])
            item: dict[str, Any] = {
                "id": row.id,
                "said": reference,
                "written": reply.text,
                "errors": counts.errors,
                "words": counts.reference_words,
                "substitutions": counts.substitutions,
                "insertions": counts.insertions,
                "deletions": counts.deletions,
            }
            if measure.with_transcriber:
                ears = lab.talker.model.listener
                assert ears is not None
                heard = lab.transcriber.transcribe(wave, ears.sample_rate_hz)
                item |= {"transcriber": heard, "transcriber_errors": word_error_rate([reference], [heard]).errors}
            result.items.append(item)
    words = [item["words"] for item in result.items]
    result.keep(wer=lab.bootstrap.ratio([item["errors"] for item in result.items], words))
    for name in ("substitutions", "insertions", "deletions"):
        result.keep(**{name: lab.bootstrap.total([item[name] for item in result.items])})
    if measure.with_transcriber:
        wrong = [item["transcriber_errors"] for item in result.items]
        result.keep(transcriber_wer=lab.bootstrap.ratio(wrong, words))
        result.transcriber = lab.transcriber.title
    result.pick_worst("errors", lab.suite.worst)


def measure_pooled(lab: Lab, measure: PooledMeasure, result: Result) -> None:
    """Count the word errors of several measures together; DataError if one of them failed."""
    for label in measure.of:
        before = lab.results[label]
        if before.status != "ok":
            raise DataError(f"measure '{label}' failed, so there is nothing to pool", "see its reason")
        result.items += [{"measure": label, **item} for item in before.items]
    result.keep(wer=_wer(lab, result.items))
    result.pick_worst("errors", lab.suite.worst)


def measure_spoken_answers(lab: Lab, measure: SpokenAnswersMeasure, result: Result) -> None:
    """Ask questions, transcribe the spoken answers, and compare them with the answers' own text."""
    rows = lab.rows(measure, result, lambda row: lacks_question(row, measure.ways(), lab.can_speak()))

    def speak(row: Row, way: str) -> Reply:
        return lab.ask_row(row, way, spoken_answer=True, batch_parallel=measure.batch_parallel)

    _judge(lab, measure, result, rows, speak, measure.ask)
    for way in measure.ask:
        result.keep(**{f"wer_asked_by_{way}": _wer(lab, [item for item in result.items if item["asked"] == way])})


def measure_reading(lab: Lab, measure: ReadingMeasure, result: Result) -> None:
    """Let the talker read texts aloud, transcribe what it says, and compare both."""
    rows = lab.rows(measure, result, lambda row: None if row.question_text else "has no question_text")
    _judge(lab, measure, result, rows, lambda row, _: lab.ask("T1A1", text=row.question_text), ["aloud"])


def _judge(
    lab: Lab,
    measure: SpokenAnswersMeasure | ReadingMeasure,
    result: Result,
    rows: list[Row],
    speak: Callable[[Row, str], Reply],
    ways: Sequence[str],
) -> None:
    """Transcribe the sound of each row in each way of asking, and keep items and figures."""
    predictor = predictor_or_note(lab, result)
    for number, row, guard in lab.each(rows, result):
        for way in ways:
            with guard:
                reply = speak(row, way)
                item = {"id": row.id, "asked": way, "question": row.question_text or "", **judge_sound(lab, reply)}
                if predictor is not None and not item["silent"]:
                    item["mos"] = predictor.score(reply.wave, reply.sample_rate_hz)
                if measure.keep_sound and len(reply.wave):
                    item["sound"] = f"sound/{measure.label}-{number + 1:04d}-{way}.wav"
                    write_wave(lab.out / item["sound"], reply.wave, reply.sample_rate_hz)
                result.items.append(item)
    result.keep(wer=_wer(lab, result.items))
    result.keep(mos=lab.bootstrap.mean([item["mos"] for item in result.items if "mos" in item]))
    for name in ("silent", "clipped", "truncated"):
        result.keep(**{name: lab.bootstrap.mean([float(item[name]) for item in result.items])})
    loud = [item for item in result.items if not item["silent"]]
    minutes = [item["audio_s"] / 60 for item in loud]
    if loud:
        result.keep(words_per_minute=lab.bootstrap.ratio([item["words"] for item in loud], minutes))
    result.pick_worst("errors", lab.suite.worst)


def judge_sound(lab: Lab, reply: Reply) -> dict[str, Any]:
    """Transcribe an answer and return its wrong words and facts about its sound."""
    peak = float(np.abs(reply.wave).max()) if len(reply.wave) else 0.0
    silent = peak < SILENCE_PEAK
    heard = "" if silent else lab.transcriber.transcribe(reply.wave, reply.sample_rate_hz)
    counts = word_error_rate([reply.text], [heard])
    return {
        "text": reply.text,
        "heard": heard,
        "errors": counts.errors,
        "words": counts.reference_words,
        "silent": silent,
        "clipped": peak >= FULL_SCALE,
        "truncated": reply.truncated,
        "audio_s": reply.audio_s,
    }


def predictor_or_note(lab: Lab, result: Result) -> MosPredictor | None:
    """Return the predictor of opinion scores; if its package is missing, add a note to the report and return None."""
    try:
        return lab.mos
    except PluginError as error:
        result.notes.append(f"No opinion scores: {error.message}. To have them: {error.hint}.")
        return None


def _wer(lab: Lab, items: list[dict[str, Any]]) -> Any:
    return lab.bootstrap.ratio([item["errors"] for item in items], [item["words"] for item in items])


def measure_spoken_qa(lab: Lab, measure: SpokenQaMeasure, result: Result) -> None:
    """Ask questions with known answers and look for these in the talker's answers."""

    def missing(row: Row) -> str | None:
        if not expected_answers(row.answer_text):
            return "has no answer_text to expect"
        return lacks_question(row, measure.ways(), lab.can_speak())

    for _, row, guard in lab.each(lab.rows(measure, result, missing), result):
        expected = expected_answers(row.answer_text)
        for way in measure.ask:
            with guard:
                reply = lab.ask_row(row, way, measure.hear, measure.batch_parallel)
                item: dict[str, Any] = {
                    "id": row.id,
                    "asked": way,
                    "question": row.question_text or "",
                    "expected": row.answer_text,
                    "text": reply.text,
                    "exact": is_exact(reply.text, expected),
                    "contains": is_contained(reply.text, expected),
                }
                item["wrong"] = not item[measure.match]
                if measure.hear:
                    item["heard_text"] = heard(lab, reply)
                    item["heard"] = is_contained(item["heard_text"], expected)
                result.items.append(item)
    for way in measure.ask:
        items = [item for item in result.items if item["asked"] == way]
        for name in ("exact", "contains", *(["heard"] if measure.hear else [])):
            result.keep(**{f"{way}_{name}": lab.bootstrap.mean([float(item[name]) for item in items])})
    first = "speech" if "speech" in measure.ask else "text"
    counted = [float(item[measure.match]) for item in result.items if item["asked"] == first]
    result.keep(accuracy=lab.bootstrap.mean(counted))
    result.pick_worst("wrong", lab.suite.worst)


def heard(lab: Lab, reply: Reply) -> str:
    """Return the transcript of an answer's sound; "" if it has none or can't be transcribed."""
    try:
        return lab.transcriber.transcribe(reply.wave, reply.sample_rate_hz) if len(reply.wave) else ""
    except AudioError:
        return ""
