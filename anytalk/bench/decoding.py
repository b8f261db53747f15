"""``anytalk bench decode``: answers of a talker, timed part by part, beside the straightforward loop."""

from __future__ import annotations

import os
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from anytalk.bench.answering import FIRST_SOUND, Pace, Timed, answer, median, merged
from anytalk.bench.naive import NaiveAnswer, answer_naively
from anytalk.bench.stopwatch import STEP_SEGMENTS
from anytalk.decode.ready import make_talker_ready
from anytalk.model.talk_model import TalkCache
from anytalk.model.talker import Talker

NAIVE_STEPS = 14
"""Columns of the straightforward loop: enough for its first sound and a median."""
_READ_AT_ONCE = 256
_STEPS_AT_LENGTH = 12


@dataclass(frozen=True)
class DecodeBench:
    """What is measured.

    Attributes:
        arithmetic: See :func:`anytalk.decode.ready.make_talker_ready`.
        question_s: Length of the spoken question.
        pace: Length of each answer.
        repeats: Answers that count; one more runs before them.
        baseline: Also run the straightforward loop.
        stride_frames: Codec frames per piece of sound behind the first.
        overlap: Let the codec work in a thread of its own.
        lengths: Conversation lengths at which a step is timed.
    """

    arithmetic: str = "int8"
    question_s: float = 3.0
    pace: Pace = field(default_factory=Pace)
    repeats: int = 2
    baseline: bool = True
    stride_frames: int = 2
    overlap: bool = False
    lengths: tuple[int, ...] = ()


def bench_decode(talker: Talker, bench: DecodeBench, told: Callable[[str], None] = lambda _: None) -> dict[str, Any]:
    """Measure, the straightforward loop first; afterwards the talker is ready for inference only.

    Args:
        talker: Of float32 weights; changed in place.
        bench: What is measured.
        told: Called with what begins now.

    Returns:
        Figures by name, as ``--json`` writes them; times of steps in milliseconds, all others in seconds.

    Raises:
        ConfigError: a talker that can't do this.
    """
    rate_hz = talker.model.encoder.sample_rate_hz if talker.model.encoder is not None else 16_000
    # Sound, not silence: a question that nobody hears is refused.
    wave = np.random.default_rng(0).normal(0, 0.05, int(bench.question_s * rate_hz)).astype(np.float32)
    _ = talker.codec
    naive = None
    if bench.baseline:
        told("the straightforward loop")
        naive = answer_naively(talker, wave, NAIVE_STEPS)
    told(f"making the talker ready ({bench.arithmetic})")
    make_talker_ready(talker, bench.arithmetic)
    answers = []
    for number in range(bench.repeats + 1):
        told(f"answer {number} of {bench.repeats}" if number else "an answer that doesn't count")
        timed = answer(talker, wave, bench.pace, stride_frames=bench.stride_frames, overlap=bench.overlap)
        if number:
            answers.append(timed)
    figures = {"machine": machine(talker), "question_s": bench.question_s, "arithmetic": bench.arithmetic}
    figures["stride_frames"] = bench.stride_frames
    figures |= _figures(talker, answers, bench.pace)
    if naive is not None:
        figures |= _against(naive, figures)
    if bench.lengths:
        told("steps late in a conversation")
        figures["step_ms_at_length"] = {str(n): v for n, v in steps_at_lengths(talker, bench.lengths).items()}
    return figures


def machine(talker: Talker) -> dict[str, Any]:
    """What the figures were taken on."""
    return {
        "torch": torch.__version__,
        "device": talker.device,
        "threads": torch.get_num_threads(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "load_average": round(os.getloadavg()[0], 2),
    }


def _figures(talker: Talker, answers: Sequence[Timed], pace: Pace) -> dict[str, Any]:
    frame_s = _column_s(talker)
    speaking = merged(answers, 1, pace.text_columns)  # the first lap is the prompt's
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


def _column_s(talker: Talker) -> float:
    """Seconds of sound that a column stands for."""
    return 1.0 / talker.codec.frame_rate_hz / talker.config.grid.delay_pattern().steps_per_frame


def _mean_wall(laps: Sequence[dict[str, float]]) -> float:
    return statistics.fmean(lap["wall"] for lap in laps)


def _against(naive: NaiveAnswer, figures: dict[str, Any]) -> dict[str, Any]:
    """The straightforward loop's figures, and how many times faster ours are."""
    step_ms = 1e3 * median(naive.steps_s)
    return {
        "baseline_step_ms": step_ms,
        "baseline_first_audio_s": naive.first_audio_s,
        "baseline_segments": {
            "encode_s": naive.encode_s,
            "prefill_s": naive.prefill_s,
            "codec_s_per_piece": median(naive.codec_s),
        },
        "times_faster_step": step_ms / _without_codec(figures["segments"]["step_ms"]),
        "times_faster_first_audio": naive.first_audio_s / figures["first_audio_s"],
    }


def _without_codec(segments: dict[str, float]) -> float:
    return segments["wall"] - segments["codec"]


@torch.no_grad()
def steps_at_lengths(talker: Talker, lengths: Sequence[int]) -> dict[int, dict[str, float]]:
    """Milliseconds of a step with so many steps held, for two rows and for one: backbone, adapter and heads.

    Args:
        talker: Whose parts.
        lengths: Increasing.
    """
    model = talker.model
    most = max(lengths) + 2 * _STEPS_AT_LENGTH
    found: dict[int, dict[str, float]] = {}
    for rows in (2, 1):
        if rows == 2 and model.speaks_alone:
            continue
        cache = TalkCache(model.backbone.new_cache(rows, most), None)
        if not model.speaks_alone:
            cache.output_adapter = model.output_adapter.new_cache(1, most)
        for length in sorted(lengths):
            _lengthen(talker, cache, rows, length)
            seconds = []
            for _ in range(_STEPS_AT_LENGTH):
                began = _clock(talker)
                run_step(talker, cache, rows, 1)
                seconds.append(_clock(talker) - began)
            cache.backbone.crop(length)
            if cache.output_adapter is not None:
                cache.output_adapter.crop(length)
            found.setdefault(length, {})[f"rows_{rows}"] = 1e3 * statistics.median(seconds)
    return found


def _lengthen(talker: Talker, cache: TalkCache, rows: int, length: int) -> None:
    """Fill caches up to `length` steps: with noise where they can pretend, by reading where not."""
    both = [part for part in (cache.backbone, cache.output_adapter) if part is not None]
    if all(hasattr(part, "pretend") for part in both):
        for part in both:
            part.pretend(length - part.length)  # type: ignore[attr-defined]
    while cache.backbone.length < length:
        run_step(talker, cache, rows, min(_READ_AT_ONCE, length - cache.backbone.length))


def run_step(talker: Talker, cache: TalkCache, rows: int, steps: int) -> None:
    """Noise through backbone, adapter (of the first row) and heads, behind what is held."""
    model = talker.model
    embeds = torch.randn(rows, steps, model.backbone.width, device=talker.device)
    if model.speaks_alone:
        model.backbone(embeds, cache.backbone)
        return
    hidden = model.run(embeds, None, cache, 1)
    assert hidden.audio is not None
    if rows == 2:
        model.text_logits(hidden.states.normed[1:, -1:])
    model.audio_logits(hidden.audio[:, -1:])


def _clock(talker: Talker) -> float:
    from anytalk.bench.stopwatch import Stopwatch

    return Stopwatch(talker.device).now()


__all__ = ["NAIVE_STEPS", "STEP_SEGMENTS", "DecodeBench", "bench_decode", "machine", "run_step", "steps_at_lengths"]
