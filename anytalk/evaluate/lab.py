"""Share the talker, the judges, the rows and the asking of questions among measures."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from anytalk.data.augment import Augment
from anytalk.data.config import SourceConfig, read_rows
from anytalk.data.examples import Progress
from anytalk.decode.engine import DecodeOptions
from anytalk.decode.session import Session
from anytalk.decode.telling import AnswerDone, AudioDelta
from anytalk.errors import AudioError, ConfigError, DataError
from anytalk.evaluate.config import AnyMeasure, Suite
from anytalk.evaluate.mos import MosPredictor, load_predictor
from anytalk.evaluate.results import Result
from anytalk.evaluate.stats import Bootstrap
from anytalk.grid.audio import check_speech, joined, read_wave, resample
from anytalk.model.parent import load_parent
from anytalk.model.talker import Talker
from anytalk.plugins.components import BuildContext, PartRef
from anytalk.plugins.contracts import Backbone, BadRow, Row, Synthesizer, Transcriber


@dataclass(frozen=True)
class Reply:
    """Holds an answer and the times at which its pieces came."""

    text: str  # the whole text
    wave: np.ndarray  # (N,) float32; empty if the task doesn't speak
    sample_rate_hz: int  # sample rate of the wave
    truncated: bool  # whether the answer was cut off
    # Seconds from the question to `encoded`, `prefilled`, `first_frame` and `first_sound`, if reached (`Session.mark`).
    marks: dict[str, float]
    arrivals: list[tuple[float, float]]  # (seconds from the question, seconds of sound) per piece
    wall_s: float  # seconds from the question to the end

    @property
    def audio_s(self) -> float:
        return len(self.wave) / self.sample_rate_hz


@dataclass
class Lab:
    """Holds what the measures of one run share; judges are built when they are first needed."""

    talker: Talker  # the talker that is measured
    suite: Suite
    out: Path  # folder of the report
    progress: Progress = field(default=lambda done, total: None)  # called while a measure runs
    augment: Augment | None = None  # changes the running measure's questions
    results: dict[str, Result] = field(default_factory=dict)  # of earlier measures, by label

    @cached_property
    def transcriber(self) -> Transcriber:
        found: Transcriber = self.build("transcriber", self.suite.transcriber)
        return found

    @cached_property
    def synthesizer(self) -> Synthesizer:
        """Return the synthesizer that reads questions aloud; ConfigError if the suite names none."""
        if self.suite.synthesizer is None:
            raise ConfigError(
                "questions without sound need a synthesizer", "name one in the suite: synthesizer: {name: piper}"
            )
        found: Synthesizer = self.build("synthesizer", self.suite.synthesizer)
        return found

    @cached_property
    def mos(self) -> MosPredictor | None:
        """Return the suite's predictor of opinion scores, or None; PluginError if its package is missing."""
        return None if self.suite.mos is None else load_predictor(self.suite.mos)

    @cached_property
    def parent(self) -> Backbone:
        """Return the language model that the talker was made from."""
        return load_parent(self.talker)

    @property
    def bootstrap(self) -> Bootstrap:
        return Bootstrap(self.suite.bootstrap_samples, self.suite.seed)

    def build(self, kind: str, ref: PartRef) -> Any:
        """Build a part on the talker's device."""
        return self.talker.registry.build(kind, ref, BuildContext(device=self.talker.device))

    # ---- rows

    def source(self, measure: AnyMeasure) -> SourceConfig:
        source = measure.source or self.suite.source
        if source is None:
            raise ConfigError(f"measure '{measure.label}' has no source", "give it one: source: {kind: ..., path: ...}")
        return source

    def rows(self, measure: AnyMeasure, result: Result, missing: Callable[[Row], str | None]) -> list[Row]:
        """Return the usable rows of a measure; the others are added to `result.skipped`.

        Args:
            missing: Returns what a row lacks, in words; None if the row is usable.

        Raises:
            DataError: no row is usable, or the source can't be read.
        """
        found: list[Row] = []
        source = self.source(measure)
        for row in read_rows(source, self.talker.registry, strict=False):
            if isinstance(row, BadRow):
                result.skipped.append({"id": row.id, "reason": row.reason.removeprefix(f"{row.id}: ")})
                continue
            lacks = missing(row)
            if lacks is not None:
                result.skipped.append({"id": row.id, "reason": lacks})
                continue
            found.append(row)
            if len(found) == measure.limit:
                break
        if not found:
            why = f": {result.skipped[0]['id']} {result.skipped[0]['reason']}" if result.skipped else ""
            raise DataError(f"'{source.path}' has no row that measure '{measure.label}' can use{why}", "see the suite")
        return found

    def each(self, rows: list[Row], result: Result) -> Iterator[tuple[int, Row, _Guard]]:
        """Yield rows with a guard and report progress; use it as ``for i, row, guard in ...: with guard: ...``.

        The guard notes an AudioError or DataError of its row, and the loop continues with the next row.
        """
        for number, row in enumerate(rows):
            yield number, row, _Guard(row.id, result)
            self.progress(number + 1, len(rows))

    def can_speak(self) -> bool:
        """Return whether questions without sound can be read aloud."""
        return self.suite.synthesizer is not None

    def question_wave(self, row: Row) -> np.ndarray:
        """Return the spoken question, (N,) float32 at the encoder's rate; a question without sound is read aloud.

        The measure's ``augment`` changes it, in the same way for the same row and seed.

        Raises:
            ConfigError: the talker has no ears, or there is neither sound nor a synthesizer.
            AudioError: sound that can't be read or isn't speech.
        """
        ears = self.talker.model.listener
        if ears is None:
            raise ConfigError("this talker has no ears", "leave measures with spoken questions out of the suite")
        rate_hz = ears.sample_rate_hz
        if row.question_audio is not None:
            wave = read_wave(row.question_audio, rate_hz)
        else:
            voice = self.suite.question_voice
            spoken = self.synthesizer.speak(row.question_text or "", voice)
            wave = resample(spoken, self.synthesizer.sample_rate_hz, rate_hz)
        if self.augment is not None:
            wave = self.augment(wave, rate_hz, row.id)
        # Checked last, because an augmentation may make a question too long or silent.
        check_speech(wave, rate_hz, row.id, ears.max_duration_s)
        return wave

    # ---- asking

    def now(self) -> float:
        """Return the time in seconds once the device has finished its work."""
        if self.talker.device.startswith("cuda"):  # CUDA kernels run asynchronously
            torch.cuda.synchronize()
        return time.perf_counter()

    def ask(
        self,
        task: str,
        *,
        text: str | None = None,
        wave: np.ndarray | None = None,
        stride_frames: int = 1,
        batch_parallel: bool = True,
    ) -> Reply:
        """Ask one question in a new conversation, decoded greedily; `wave` has the encoder's sample rate."""
        suite, talker = self.suite, self.talker
        options = DecodeOptions(
            max_columns=suite.max_columns,
            rule=talker.config.decode_rule,
            seed=suite.seed,
            batch_parallel=batch_parallel,
        )
        codec = talker.codec  # loads it before the clock starts
        marks: dict[str, float] = {}
        pieces, arrivals, done = [], [], None
        began = self.now()

        def mark(name: str) -> None:
            marks.setdefault(name, self.now() - began)

        session = Session(talker, stride_frames=stride_frames, mark=mark)
        for event in session.ask(text=text, wave=wave, task=task, options=options, speaker=suite.speaker):
            if isinstance(event, AudioDelta):
                arrivals.append((self.now() - began, len(event.wave) / codec.sample_rate_hz))
                pieces.append(event.wave)
            elif isinstance(event, AnswerDone):
                done = event
        assert done is not None
        return Reply(
            done.text.strip(),
            joined(pieces),
            codec.sample_rate_hz,
            done.finish_reason == "length",
            marks,
            arrivals,
            self.now() - began,
        )

    def ask_row(self, row: Row, way: str, spoken_answer: bool, batch_parallel: bool = True) -> Reply:
        """Ask a row's question by ``"text"`` or ``"speech"``, for a spoken or a written answer."""
        answer = "A2" if spoken_answer else "T2"
        if way == "text":
            return self.ask(f"T1{answer}", text=row.question_text, batch_parallel=batch_parallel)
        return self.ask(f"A1{answer}", wave=self.question_wave(row), batch_parallel=batch_parallel)


@dataclass(frozen=True)
class _Guard:
    """Notes an error of a row and suppresses it; each way of asking enters the guard again."""

    row_id: str
    result: Result

    def __enter__(self) -> None: ...

    def __exit__(self, kind: object, error: BaseException | None, _: object) -> bool:
        if not isinstance(error, AudioError | DataError):
            return False
        self.result.skipped.append({"id": self.row_id, "reason": error.message})
        return True


def lacks_question(row: Row, ways: tuple[str, ...], can_speak: bool) -> str | None:
    """Return what a row lacks to be asked in these ways, None if it is usable; rows with several turns aren't."""
    if row.history:
        return "has turns before its question"
    if row.question_text is None and ("text" in ways or row.question_audio is None):
        return "has no question_text"
    if "speech" in ways and row.question_audio is None and not can_speak:
        return "has no question_audio, and the suite names no synthesizer"
    return None
