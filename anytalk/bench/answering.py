"""Generates one spoken answer and times each part of it."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from anytalk.bench.memory import num_bytes
from anytalk.bench.paced import PacedGeneration
from anytalk.bench.stopwatch import Stopwatch, timed_parts
from anytalk.decode.engine import DecodeOptions
from anytalk.decode.reach import REACH
from anytalk.decode.runner import columns_of
from anytalk.decode.session import listen, spoken_turn, task_after
from anytalk.decode.telling import Telling
from anytalk.evaluate.time_measures import SEGMENTS, segments
from anytalk.grid.tasks import TASKS
from anytalk.model.talker import Talker

FIRST_SOUND = SEGMENTS
"""What the first sound waits for: listening, the prompt, columns up to a frame of codes, the codec's look-ahead."""


@dataclass(frozen=True)
class Pace:
    """Sets the length of an answer."""

    text_columns: int = 48  # columns with text
    audio_columns: int = 48  # columns after the end of the text

    @property
    def columns(self) -> int:
        return self.text_columns + self.audio_columns


@dataclass
class Timed:
    """Holds the times of an answer."""

    watch: Stopwatch  # its first lap is the prompt, each other lap a step
    marks: dict[str, float]  # seconds from the question to each mark of `anytalk.decode.session.Session`
    wall_s: float  # seconds from the question to the last sample
    audio_s: float  # seconds of sound
    cache_bytes: int  # memory that the caches of backbone and output adapter reserved; 0 for caches that grow

    def first_sound(self) -> dict[str, float]:
        """Return the seconds of each of :data:`FIRST_SOUND`."""
        found = segments(self.marks)
        return {name: found[name] for name in FIRST_SOUND}


@torch.no_grad()
def answer(
    talker: Talker,
    wave: np.ndarray,
    pace: Pace,
    *,
    stride_frames: int = 1,
    reach: int = REACH,
    lapped: Callable[[], None] = lambda: None,
) -> Timed:
    """Answer a spoken question as :class:`anytalk.decode.session.Session` does, but with a fixed length.

    Args:
        wave: (N,) float32 at the encoder's rate.
        stride_frames: How many codec frames make a piece of sound, after the first piece.
        reach: See :class:`anytalk.decode.engine.DecodeOptions`.
        lapped: Called after each column; the time it takes is counted.
    """
    watch = Stopwatch(talker.device)
    marks: dict[str, float] = {}
    began = watch.now()

    def mark(name: str) -> None:
        marks.setdefault(name, watch.now() - began)

    watch.start()
    heard = listen(talker, wave)
    mark("encoded")
    prompt = talker.prompts.prompt(task_after(TASKS["A1A2"], heard), [spoken_turn("user", None, heard)])
    prompts = [prompt, talker.prompts.text_only_row(prompt)][: talker.model.route.num_rows]
    generation = PacedGeneration(
        talker.model,
        talker.config.grid.delay_pattern(),
        DecodeOptions(max_columns=pace.columns, rule="staircase", reach=reach),
        prompts,
        [] if heard.columns is None else [heard.columns],
        audio_out=True,
        speaker=talker.speaker_index(None),
        mark=mark,
        text_columns=pace.text_columns,
    )
    telling = Telling(
        talker,
        generation.answer,
        speaks=True,
        started=time.perf_counter(),
        stride_frames=stride_frames,
        mark=mark,
    )
    caches = _Caches(talker)
    generation.choose = watch.around("sampling", generation.choose)  # type: ignore[method-assign]
    say = watch.around("codec", lambda last: list(telling.say(last)))
    with timed_parts(talker, watch), caches:
        for _ in columns_of(generation):
            if telling.is_due:
                say(False)
            watch.lap()
            lapped()
    say(True)
    return Timed(watch, marks, watch.now() - began, telling.done().audio_s, caches.num_bytes)


class _Caches:
    """Records how much memory the caches reserve that a model creates during an answer."""

    def __init__(self, talker: Talker) -> None:
        self.model, self.num_bytes = talker.model, 0

    def __enter__(self) -> None:
        make = self.model.new_cache

        def watched(*args: int, **kwargs: int) -> object:
            cache = make(*args, **kwargs)
            self._held = cache
            return cache

        self.model.new_cache = watched  # type: ignore[method-assign,assignment]

    def __exit__(self, *_: object) -> None:
        del self.model.new_cache
        parts = (self._held.backbone, self._held.output_adapter)
        self.num_bytes = sum(num_bytes(part) for part in parts)


def merged(answers: Sequence[Timed], first: int, stop: int | None) -> Stopwatch:
    """Return a stopwatch with the laps of several answers, from `first` to `stop` of each."""
    watch = Stopwatch()
    for timed in answers:
        watch.laps += timed.watch.laps[first:stop]
    return watch


def median(values: Sequence[float]) -> float:
    """Return the median; 0 for no values."""
    return statistics.median(values) if values else 0.0
