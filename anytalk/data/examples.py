"""Rows to examples: what is frozen (encoder features, codec codes) is computed once; then to grids of a task."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from anytalk.errors import AudioError, ConfigError, DataError, did_you_mean
from anytalk.grid.audio import check_speech, read_wave
from anytalk.grid.prompts import TrainingGrid, Turn
from anytalk.grid.tasks import Task
from anytalk.model.talker import Talker
from anytalk.plugins.contracts import Row

Progress = Callable[[int, int], None]
"""Called with (done, total)."""


@dataclass(frozen=True)
class Example:
    """A row with its sound already turned into numbers.

    Attributes:
        row: Where it came from.
        wave: (N,) float32, kept only when the encoder is trained; None else.
        features: (F,E) encoder features; None without a spoken question or when the encoder is trained.
        num_frames: F; 0 without a spoken question.
        codes: (codec streams, frames) int64; None without a spoken answer.
    """

    row: Row
    wave: Tensor | None
    features: Tensor | None
    num_frames: int
    codes: np.ndarray | None


@torch.no_grad()
def make_examples(
    talker: Talker,
    rows: Iterable[Row],
    tasks: Iterable[Task],
    *,
    keep_waves: bool = False,
    progress: Progress | None = None,
) -> list[Example]:
    """Encode what the tasks need of every row.

    Args:
        talker: Whose encoder and codec are used.
        rows: Training rows.
        tasks: Tasks that will be built from them: only their sound is read.
        keep_waves: Keep the questions as sound (for a stage that trains the encoder).
        progress: Told after each row.

    Raises:
        ConfigError: spoken questions for a talker without a speech encoder.
        DataError: a row without what a task needs, or with sound that can't be read; it names the row.
    """
    rows, tasks = list(rows), list(tasks)
    if not rows:
        raise DataError("the data holds no rows", "add lines to the manifest")
    needs_question = any(task.speech_in for task in tasks)
    speaks = any(task.audio_out for task in tasks)
    if needs_question and talker.model.encoder is None:
        spoken = ", ".join(task.name for task in tasks if task.speech_in)
        raise ConfigError(
            f"this talker has no ears; the tasks {spoken} need them",
            "attach it with a speech encoder, or leave them out",
        )
    examples = []
    for done, row in enumerate(rows, start=1):
        for task in tasks:
            _check(row, task)
        voices = talker.config.speakers
        if voices and row.speaker is not None and row.speaker not in voices:
            raise DataError(
                f"{row.id}: unknown speaker '{row.speaker}'{did_you_mean(row.speaker, voices)}",
                f"voices: {', '.join(voices)}",
            )
        examples.append(_example(talker, row, needs_question, speaks, keep_waves))
        if progress is not None:
            progress(done, len(rows))
    return examples


def _check(row: Row, task: Task) -> None:
    needed = {
        "question_audio": task.speech_in,
        "answer_audio": task.audio_out,
        "answer_text": task.answer == "answer" or task.audio_out,
        "question_text": (not task.speech_in and task.answer == "answer")
        or (task.speech_in and task.answer == "question"),
    }
    for field, is_needed in needed.items():
        if is_needed and getattr(row, field) is None:
            raise DataError(
                f"{row.id}: task {task.name} needs '{field}'", "add it, or leave that task out of the stage"
            )


def _example(talker: Talker, row: Row, needs_question: bool, speaks: bool, keep_waves: bool) -> Example:
    wave = features = codes = None
    num_frames = 0
    try:
        encoder = talker.model.encoder
        if needs_question and row.question_audio is not None and encoder is not None:
            samples = read_wave(row.question_audio, encoder.sample_rate_hz)
            check_speech(samples, encoder.sample_rate_hz, str(row.question_audio))
            tensor = torch.from_numpy(samples)[None].to(talker.device)
            encoded, frames = talker.model.encode_speech(tensor, torch.tensor([tensor.shape[1]], device=talker.device))
            num_frames = int(frames[0])
            wave, features = (tensor[0], None) if keep_waves else (None, encoded[0, :num_frames].clone())
        if speaks and row.answer_audio is not None:
            samples = read_wave(row.answer_audio, talker.codec.sample_rate_hz)
            codes = talker.codec.encode(torch.from_numpy(samples)[None].to(talker.device))[0].cpu().numpy()
    except AudioError as error:
        raise DataError(f"{row.id}: {error.message}", error.hint) from None
    return Example(row, wave, features, num_frames, codes)


def make_grid(talker: Talker, example: Example, task: Task, learn_pads: bool = False) -> TrainingGrid:
    """The training grid of an example for a task."""
    adapter, row = talker.model.input_adapter, example.row
    columns = adapter.output_length(example.num_frames) if task.speech_in and adapter is not None else 0
    said = row.answer_text if task.answer == "answer" or task.audio_out else row.question_text
    question = row.question_text if task.answer == "answer" else said
    return talker.prompts.training_grid(
        task,
        [Turn("user", question, speech_columns=columns)],
        said or "",
        codes=example.codes,
        pattern=talker.config.grid.delay_pattern(),
        learn_pads=learn_pads,
    )
