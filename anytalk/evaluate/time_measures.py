"""Measure how long answers take: ``latency`` by segment, and ``cascade``, the baseline that a talker has to beat."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from anytalk.decode.greedy import bare_answer
from anytalk.errors import AudioError
from anytalk.evaluate.config import CascadeMeasure, LatencyMeasure
from anytalk.evaluate.lab import Lab, Reply, lacks_question
from anytalk.evaluate.matching import expected_answers, is_contained
from anytalk.evaluate.parent import parent_prompt
from anytalk.evaluate.results import Result
from anytalk.evaluate.speech_measures import judge_sound, predictor_or_note
from anytalk.grid.audio import joined
from anytalk.plugins.contracts import Row, Synthesizer, Transcriber

SEGMENTS = ("encode", "prefill", "delay", "codec")
_SENTENCE = re.compile(r"(?<=[.!?])[\"')\]]*\s+")


def segments(marks: dict[str, float]) -> dict[str, float]:
    """Convert the times of an answer's events to seconds per segment, and of all together (``first_sound``)."""
    moments = [0.0, *(marks[name] for name in ("encoded", "prefilled", "first_frame", "first_sound"))]
    lengths = [after - before for before, after in itertools.pairwise(moments)]
    return {**dict(zip(SEGMENTS, lengths, strict=True)), "first_sound": moments[-1]}


def playback(arrivals: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Simulate the playback of pieces as they arrive, in real time from the first one.

    Args:
        arrivals: (arrival in seconds, seconds of sound) of each piece.

    Returns:
        Seconds of silence between pieces, and how long playback would have to wait after the first piece to avoid them.
    """
    stalled = needed = 0.0
    heard_until = played = 0.0
    for number, (when, duration_s) in enumerate(arrivals):
        if number == 0:
            heard_until = when
        elif when > heard_until:
            stalled += when - heard_until
            heard_until = when
        # This piece is due once all sound before it was played.
        needed = max(needed, when - arrivals[0][0] - played)
        heard_until += duration_s
        played += duration_s
    return stalled, needed


def measure_latency(lab: Lab, measure: LatencyMeasure, result: Result) -> None:
    """Measure the time of answers that come piece by piece."""
    way = measure.ask[0]
    rows = lab.rows(measure, result, lambda row: lacks_question(row, measure.ways(), lab.can_speak()))
    usable = _questions(lab, rows, way, result)

    def ask(row: Row, wave: np.ndarray | None) -> Reply:
        if wave is None:
            return lab.ask("T1A2", text=row.question_text, stride_frames=measure.stride_frames)
        return lab.ask("A1A2", wave=wave, stride_frames=measure.stride_frames)

    for number in range(measure.warmup if usable else 0):
        ask(*usable[number % len(usable)])
    total = len(usable) * measure.repeats
    for done in range(total):
        row, wave = usable[done % len(usable)]
        reply = ask(row, wave)
        if "first_sound" in reply.marks:
            stalled, needed = playback(reply.arrivals)
            result.items.append(
                {
                    "id": row.id,
                    "question": row.question_text or "",
                    **segments(reply.marks),
                    "wall_s": reply.wall_s,
                    "audio_s": reply.audio_s,
                    "stalled_s": stalled,
                    "needed_buffer_s": needed,
                }
            )
        else:
            result.skipped.append({"id": row.id, "reason": "was answered without sound"})
        lab.progress(done + 1, total)
    items, bootstrap = result.items, lab.bootstrap
    for name in (*SEGMENTS, "first_sound"):
        for percent in (50, 90):
            result.keep(**{f"{name}_p{percent}_s": bootstrap.percentile([item[name] for item in items], percent)})
    result.keep(
        real_time_factor=bootstrap.ratio([item["wall_s"] for item in items], [item["audio_s"] for item in items]),
        underruns=bootstrap.mean([float(item["stalled_s"] > 0) for item in items]),
        needed_buffer_p90_s=bootstrap.percentile([item["needed_buffer_s"] for item in items], 90),
    )
    result.notes.append(
        f"{measure.warmup} answers before the clock counted; {measure.stride_frames} codec frame(s) per piece of "
        "sound. The question is encoded in one go when the user's sound has ended."
    )
    result.pick_worst("first_sound", lab.suite.worst)


def _questions(lab: Lab, rows: Sequence[Row], way: str, result: Result) -> list[tuple[Row, np.ndarray | None]]:
    """Return rows with their sound, which is read before any clock starts."""
    found: list[tuple[Row, np.ndarray | None]] = []
    for row in rows:
        try:
            found.append((row, lab.question_wave(row) if way == "speech" else None))
        except AudioError as error:
            result.skipped.append({"id": row.id, "reason": error.message})
    return found


def sentences(pieces: Iterable[str]) -> Iterator[str]:
    """Yield sentences as soon as they are complete, then the rest; sentences without a word are left out.

    Each of `pieces` is the whole text so far.
    """
    said, text = 0, ""
    for text in pieces:
        while (found := _SENTENCE.search(text, said)) is not None:
            sentence, said = text[said : found.end()].strip(), found.end()
            if any(letter.isalnum() for letter in sentence):
                yield sentence
    rest = text[said:].strip()
    if any(letter.isalnum() for letter in rest):
        yield rest


class Cascade:
    """Chains a recogniser, the talker's parent and a synthesizer."""

    def __init__(self, lab: Lab, measure: CascadeMeasure) -> None:
        self.lab = lab
        self.measure = measure
        ears, synthesizer = measure.transcriber, measure.synthesizer
        self.ears: Transcriber = lab.transcriber if ears is None else lab.build("transcriber", ears)
        self.synthesizer: Synthesizer = (
            lab.synthesizer if synthesizer is None else lab.build("synthesizer", synthesizer)
        )
        self.parent = lab.parent

    def ask(self, wave: np.ndarray, sample_rate_hz: int) -> tuple[Reply, str]:
        """Answer a spoken question; return the answer, and what was heard of the question."""
        lab = self.lab
        began = lab.now()
        heard = self.ears.transcribe(wave, sample_rate_hz)
        marks = {"encoded": lab.now() - began}
        prompt = parent_prompt(lab.talker, self.parent, heard)
        ids: list[int] = []

        def written() -> Iterator[str]:
            for token in bare_answer(self.parent, prompt, self.measure.max_tokens):
                if token not in self.parent.end_ids:
                    ids.append(token)
                yield self.parent.tokenizer.decode(ids)

        parts = sentences(written()) if self.measure.by_sentence else list(written())[-1:]
        pieces, arrivals = [], []
        for sentence in parts:
            if not any(letter.isalnum() for letter in sentence):
                continue
            sound = self.synthesizer.speak(sentence, self.measure.voice)
            arrivals.append((lab.now() - began, len(sound) / self.synthesizer.sample_rate_hz))
            pieces.append(sound)
        if arrivals:
            marks["first_sound"] = arrivals[0][0]
        reply = Reply(
            self.parent.tokenizer.decode(ids).strip(),
            joined(pieces),
            self.synthesizer.sample_rate_hz,
            len(ids) >= self.measure.max_tokens,
            marks,
            arrivals,
            lab.now() - began,
        )
        return reply, heard


def measure_cascade(lab: Lab, measure: CascadeMeasure, result: Result) -> None:
    """Ask the talker and the cascade the same spoken questions in turn."""
    predictor = predictor_or_note(lab, result)
    rows = lab.rows(measure, result, lambda row: lacks_question(row, ("speech",), lab.can_speak()))
    cascade = Cascade(lab, measure)
    usable = _questions(lab, rows, "speech", result)
    ears = lab.talker.model.listener
    rate_hz = 0 if ears is None else ears.sample_rate_hz
    for number in range(measure.warmup if usable else 0):
        wave = usable[number % len(usable)][1]
        assert wave is not None
        lab.ask("A1A2", wave=wave)
        cascade.ask(wave, rate_hz)
    for done, (row, wave) in enumerate(usable):
        assert wave is not None
        expected = expected_answers(row.answer_text)
        item: dict[str, Any] = {"id": row.id, "question": row.question_text or "", "expected": row.answer_text}
        reply, question_heard = cascade.ask(wave, rate_hz)
        item["cascade_heard_question"] = question_heard
        for who, answer in (("talker", lab.ask("A1A2", wave=wave)), ("cascade", reply)):
            facts = judge_sound(lab, answer)
            item |= {f"{who}_{name}": facts[name] for name in ("text", "heard", "errors", "words", "audio_s")}
            item |= {f"{who}_first_sound_s": answer.marks.get("first_sound"), f"{who}_total_s": answer.wall_s}
            if expected:
                item[f"{who}_right"] = is_contained(answer.text, expected)
                item[f"{who}_right_heard"] = is_contained(facts["heard"], expected)
            if predictor is not None and not facts["silent"]:
                item[f"{who}_mos"] = predictor.score(answer.wave, answer.sample_rate_hz)
        result.items.append(item)
        lab.progress(done + 1, len(usable))
    for who in ("talker", "cascade"):
        _keep(lab, result, who)
    same = measure.transcriber is None
    result.notes.append(
        "The cascade speaks "
        + ("each sentence as soon as it is written" if measure.by_sentence else "when the whole answer is written")
        + ", on the same threads as its language model."
        + (" Its ears are the judge's own recogniser." if same else "")
    )
    result.pick_worst("talker_errors", lab.suite.worst)


def _keep(lab: Lab, result: Result, who: str) -> None:
    items, bootstrap = result.items, lab.bootstrap

    def column(name: str) -> list[float]:
        return [float(i[f"{who}_{name}"]) for i in items if i.get(f"{who}_{name}") is not None]

    first = column("first_sound_s")
    figures = {
        "accuracy": bootstrap.mean(column("right")),
        "heard": bootstrap.mean(column("right_heard")),
        "wer": bootstrap.ratio(column("errors"), column("words")),
        "mos": bootstrap.mean(column("mos")),
        "first_sound_p50_s": bootstrap.percentile(first, 50),
        "first_sound_p90_s": bootstrap.percentile(first, 90),
        "total_p50_s": bootstrap.percentile(column("total_s"), 50),
        "real_time_factor": bootstrap.ratio(column("total_s"), column("audio_s")),
    }
    result.keep(**{f"{who}_{name}": figure for name, figure in figures.items()})
