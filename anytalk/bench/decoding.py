"""Implements ``anytalk bench decode``: times a talker's answers part by part, and a straightforward loop."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from anytalk.bench.answering import FIRST_SOUND, Pace, Timed, answer, median, merged
from anytalk.bench.memory import pretend
from anytalk.bench.naive import NaiveAnswer, answer_naively
from anytalk.bench.stopwatch import STEP_SEGMENTS
from anytalk.decode.lanes import Lane
from anytalk.decode.reach import columns_held
from anytalk.decode.ready import make_talker_ready
from anytalk.evaluate.provenance import load_average
from anytalk.grid.audio import read_wave
from anytalk.model.talk_model import TalkCache
from anytalk.model.talker import Talker
from anytalk.plugins.caches import KeyValueCache
from anytalk.plugins.contracts import Columns, ForgetfulCache, Merged

NAIVE_STEPS = 14
"""How many columns the straightforward loop generates: enough for its first sound and a median."""
_READ_AT_ONCE = 256
_TURNS = 8
_STEPS_A_TURN = 5
TEXT_SHARE = 0.3
"""Text tokens per column of an answer: 200 tokens a minute in SNAC's 703 columns, rounded up."""


@dataclass(frozen=True)
class DecodeBench:
    """Options of the measurement."""

    arithmetic: str = "int8"  # see `anytalk.decode.ready.make_talker_ready`
    question_s: float = 3.0  # duration of the question, which is noise
    question: Path | None = None  # sound file of a question to use instead, for transcribing ears
    pace: Pace = field(default_factory=Pace)  # length of each answer
    repeats: int = 2  # how many answers count; one more runs before them
    baseline: bool = True  # whether to run the straightforward loop, too
    stride_frames: int = 2  # codec frames per piece of sound, after the first
    lengths: tuple[int, ...] = ()  # conversation lengths in columns at which a step is timed


def bench_decode(talker: Talker, bench: DecodeBench, told: Callable[[str], None] = lambda _: None) -> dict[str, Any]:
    """Measure the straightforward loop and then the talker, which can be used for inference only afterwards.

    Args:
        talker: A talker with float32 weights; it is changed in place.
        told: Called with a description of each measurement when it starts.

    Returns:
        Figures by name, as ``--json`` writes them; times of steps in milliseconds, all others in seconds.

    Raises:
        ConfigError: The talker can't be measured in this way.
    """
    rate_hz = 16_000 if talker.model.listener is None else talker.model.listener.sample_rate_hz
    if bench.question is not None:
        wave = read_wave(bench.question, rate_hz)
    else:  # noise, because a silent question is refused
        wave = np.random.default_rng(0).normal(0, 0.05, int(bench.question_s * rate_hz)).astype(np.float32)
    _ = talker.codec  # load it now, so that no measurement includes that
    naive = None
    if bench.baseline:
        told("the straightforward loop")
        naive = answer_naively(talker, wave, NAIVE_STEPS)
    told(f"making the talker ready ({bench.arithmetic})")
    make_talker_ready(talker, bench.arithmetic)
    answers = []
    for number in range(bench.repeats + 1):
        told(f"answer {number} of {bench.repeats}" if number else "an answer that doesn't count")
        timed = answer(talker, wave, bench.pace, stride_frames=bench.stride_frames)
        if number:
            answers.append(timed)
    figures = {"machine": machine(talker), "question_s": len(wave) / rate_hz, "arithmetic": bench.arithmetic}
    figures["stride_frames"] = bench.stride_frames
    figures |= _figures(talker, answers, bench.pace)
    if naive is not None:
        figures |= _against(naive, figures)
    if bench.lengths:
        told("steps late in a conversation")
        figures["step_ms_at_length"] = {str(n): v for n, v in steps_at_lengths(talker, bench.lengths).items()}
    return figures


def machine(talker: Talker) -> dict[str, Any]:
    """Return the versions and hardware that the figures depend on, and the load."""
    return {
        "torch": torch.__version__,
        "device": talker.device,
        "threads": torch.get_num_threads(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "load_average": load_average(),
    }


def _figures(talker: Talker, answers: Sequence[Timed], pace: Pace) -> dict[str, Any]:
    frame_s = 1.0 / talker.codec.frame_rate_hz / talker.config.grid.delay_pattern().steps_per_frame
    speaking = merged(answers, 1, pace.text_columns)  # the first lap is the prompt
    ended = merged(answers, pace.text_columns, None)
    firsts = [timed.first_sound() for timed in answers]
    figures: dict[str, Any] = {
        "real_time_factor": _mean_wall(speaking.laps) / frame_s,
        "real_time_factor_text_ended": _mean_wall(ended.laps) / frame_s,
        "real_time_factor_whole": median([timed.wall_s / timed.audio_s for timed in answers]),
        "first_audio_s": median([timed.marks["first_sound"] for timed in answers]),
        "step_ms": 1e3 * _mean_wall(speaking.laps),
        "step_text_ended_ms": 1e3 * _mean_wall(ended.laps),
        "cache_mb": answers[0].cache_bytes / 1e6,
        "segments": {
            "step_ms": {name: 1e3 * value for name, value in speaking.medians().items()},
            "step_text_ended_ms": {name: 1e3 * value for name, value in ended.medians().items()},
            "first_sound_s": {name: median([first[name] for first in firsts]) for name in FIRST_SOUND},
        },
    }
    figures["codec_real_time_factor"] = figures["segments"]["step_text_ended_ms"]["codec"] / 1e3 / frame_s
    return figures


def _mean_wall(laps: Sequence[dict[str, float]]) -> float:
    return statistics.fmean(lap["wall"] for lap in laps)


def _against(naive: NaiveAnswer, figures: dict[str, Any]) -> dict[str, Any]:
    """Return the straightforward loop's figures, and by what factor the talker is faster."""
    step_ms, ours = 1e3 * median(naive.steps_s), figures["segments"]["step_ms"]
    return {
        "baseline_step_ms": step_ms,
        "baseline_first_audio_s": naive.first_audio_s,
        "baseline_segments": {
            "encode_s": naive.encode_s,
            "prefill_s": naive.prefill_s,
            "codec_s_per_piece": median(naive.codec_s),
        },
        "times_faster_step": step_ms / (ours["wall"] - ours["codec"]),
        "times_faster_first_audio": naive.first_audio_s / figures["first_audio_s"],
    }


@torch.no_grad()
def steps_at_lengths(talker: Talker, lengths: Sequence[int]) -> dict[int, dict[str, float]]:
    """Time a step of the backbone, output adapter and heads after conversations of several lengths.

    With two rows, text is written after a conversation of that length, which both rows share. With one row, speech goes
    on after the end of the text; it holds what :mod:`anytalk.decode.reach` keeps of an answer whose text filled
    :data:`TEXT_SHARE` of its columns.

    Args:
        lengths: Lengths in columns, increasing.

    Returns:
        For each length: milliseconds ``rows_2`` (if an answer has two rows) and ``rows_1``, and ``rows_1_held``, the
        number of columns that the single row holds.
    """
    model = talker.model
    found: dict[int, dict[str, float]] = {length: {} for length in sorted(lengths)}
    for rows in range(model.route.num_rows, 0, -1):
        caches = {}
        for length in found:
            most = length + _STEPS_A_TURN
            adapters = model.output_adapter.new_cache(1, most) if model.route.reads_prompt else None
            caches[length] = cache = TalkCache(model.backbone.new_cache(1, most), adapters)
            # With one row the text has ended, so older speech has been dropped.
            held = length if rows == 2 else _held_behind_text(cache, length)
            _lengthen(talker, cache, held)
            cache.backbone.keep_rows([0] * rows)
            if rows == 1:
                found[length]["rows_1_held"] = held
        seconds: dict[int, list[float]] = {length: [] for length in found}
        for _ in range(_TURNS):  # alternating, so that other work on the machine slows all lengths alike
            for length, cache in caches.items():
                seconds[length] += _timed_steps(talker, cache, rows)
        for length, times in seconds.items():
            found[length][f"rows_{rows}"] = 1e3 * statistics.median(times)
    return found


def _timed_steps(talker: Talker, cache: TalkCache, rows: int) -> list[float]:
    """Return the seconds of a few steps, which are cropped again; the first step only warms the processor's caches."""
    held, seconds = cache.backbone.length, []
    for _ in range(_STEPS_A_TURN):
        began = _clock(talker)
        run_step(talker, cache, rows, 1)
        seconds.append(_clock(talker) - began)
    for part in (cache.backbone, cache.output_adapter):
        if part is not None:
            part.crop(held)
    return seconds[1:]


def _held_behind_text(cache: TalkCache, length: int) -> int:
    parts = [part for part in (cache.backbone, cache.output_adapter) if part is not None]
    forgets = cache.output_adapter is not None and all(isinstance(part, ForgetfulCache) for part in parts)
    return columns_held(round(TEXT_SHARE * length), length) if forgets else length


def _lengthen(talker: Talker, cache: TalkCache, length: int) -> None:
    """Extend caches of one row to `length` steps: with noise if they reserve memory, otherwise by reading."""
    both = [part for part in (cache.backbone, cache.output_adapter) if part is not None]
    reserved = [part for part in both if isinstance(part, KeyValueCache)]
    if len(reserved) == len(both):
        run_step(talker, cache, 1, 1)
        for part in reserved:
            pretend(part, length)
    while cache.backbone.length < length:
        run_step(talker, cache, 1, min(_READ_AT_ONCE, length - cache.backbone.length))


def run_step(talker: Talker, cache: TalkCache, rows: int, steps: int) -> None:
    """Run noise through backbone, output adapter (first row only) and heads, after the cached steps."""
    model = talker.model
    embeds = torch.randn(rows, steps, model.backbone.width, device=talker.device)
    tokens = torch.full((rows, model.layout.num_streams, steps), model.layout.pad_t, device=talker.device)
    backbone, adapter = Lane(), Lane()
    backbone.join(range(rows), cache.backbone)
    if model.route.reads_prompt:
        adapter.join([0], cache.output_adapter)
    lanes = (lane.at({row: row for row in range(rows)}, model.device) for lane in (backbone, adapter))
    columns = Columns(tokens, Merged(embeds, None))
    hidden = model.route.step(model, columns, *lanes)
    if rows == 2:
        model.text_logits(hidden.states.normed[1:, -1:])
    if hidden.audio is not None:
        model.audio_logits(hidden.audio[:1, -1:])


def _clock(talker: Talker) -> float:
    from anytalk.bench.stopwatch import Stopwatch

    return Stopwatch(talker.device).now()


__all__ = ["NAIVE_STEPS", "STEP_SEGMENTS", "DecodeBench", "bench_decode", "machine", "run_step", "steps_at_lengths"]
