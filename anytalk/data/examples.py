"""Define examples (rows with sound as features and codes) and lay out their grids for a task."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from torch import Tensor

from anytalk.grid.prompts import TrainingGrid, Turn
from anytalk.grid.tasks import T1T2, Task
from anytalk.model.talker import Talker

_MOST_MARKUP = 512
"""Bound on the tokens that a chat template writes around the texts."""

Progress = Callable[[int, int | None], None]
"""Called with the rows done and their total; the total is None if unknown."""


@dataclass(frozen=True)
class Clip:
    """Holds a spoken turn of the user."""

    num_frames: int  # F
    duration_s: float  # length in seconds
    features: Tensor | None = None  # (F,E) float32 encoder features; None if they aren't kept
    wave: Tensor | None = None  # (N,) float32 at the encoder's rate; None if it isn't kept


@dataclass(frozen=True)
class PastTurn:
    """Holds a turn before the question."""

    role: str
    text: str | None
    clip: Clip | None = None


@dataclass(frozen=True, kw_only=True)
class Example:
    """Holds a row with its sound as features and codes."""

    id: str  # its name in messages
    tasks: tuple[str, ...]  # names of the tasks that it can serve
    question_text: str | None = None  # the question as text
    clip: Clip | None = None  # the question as sound
    answer_text: str | None = None  # the answer as text
    codes: np.ndarray | None = None  # (codec streams, frames) int64, the spoken answer
    answer_s: float = 0.0  # length of the spoken answer in seconds; 0 without one
    speaker: str | None = None  # name of the answer's voice
    history: tuple[PastTurn, ...] = ()  # turns before the question

    def heard(self, task: Task) -> list[PastTurn]:
        """Return the spoken turns of the prompt for this task, in order; each fills one speech span of the grid."""
        turns = [*_past(self, task), PastTurn("user", self.question_text, self.clip if task.speech_in else None)]
        return [t for t in turns if t.clip is not None and (task.speech_in or t.text is None)]

    def clips(self, task: Task) -> list[Clip]:
        return [turn.clip for turn in self.heard(task) if turn.clip is not None]


def _past(example: Example, task: Task) -> Sequence[PastTurn]:
    """Return the turns before the question; tasks that only transcribe or read aloud use none."""
    return example.history if task.answer == "answer" else ()


def make_turns(talker: Talker, example: Example, task: Task) -> list[Turn]:
    """Return the conversation before the answer, in the form that the prompt builder takes."""
    adapter = talker.model.input_adapter

    def columns(clip: Clip | None) -> int:
        return 0 if clip is None or adapter is None else adapter.output_length(clip.num_frames)

    # Reading aloud repeats the answer's text; transcription writes the question's.
    said = example.answer_text if task.answer == "answer" or task.audio_out else example.question_text
    question = example.question_text if task.answer == "answer" else said
    past = [Turn(turn.role, turn.text, columns(turn.clip)) for turn in _past(example, task)]
    return [*past, Turn("user", question, columns(example.clip) if task.speech_in else 0)]


def make_grid(talker: Talker, example: Example, task: Task, learn_pads: bool = False) -> TrainingGrid:
    """Lay out the training grid of an example for a task."""
    said = example.answer_text if task.answer == "answer" or task.audio_out else example.question_text
    return talker.prompts.training_grid(
        task,
        make_turns(talker, example, task),
        said or "",
        codes=example.codes,
        pattern=talker.config.grid.delay_pattern(),
        learn_pads=learn_pads,
    )


def why_too_long(talker: Talker, example: Example, task: Task) -> str:
    """Return a sentence if the example's grid is longer than the model's positions, "" if it fits."""
    positions = talker.model.backbone.max_positions
    # The bound is cheap and settles most examples; the others are laid out to count their columns.
    if positions is None or _most_columns(talker, example) <= positions:
        return ""
    columns = make_grid(talker, without_sound(example), task).tokens.shape[1]
    if columns <= positions:
        return ""
    return f"it takes {columns} columns for {task.name}, and the model has {positions} positions"


def _most_columns(talker: Talker, example: Example) -> int:
    """Return an upper bound on the columns of an example: a token is at least one byte of text."""
    texts = [example.question_text, example.answer_text, *(turn.text for turn in example.history)]
    clips = [example.clip, *(turn.clip for turn in example.history)]
    frames = 0 if example.codes is None else example.codes.size
    said = sum(len((text or "").encode()) for text in texts)
    return _MOST_MARKUP + said + sum(clip.num_frames for clip in clips if clip is not None) + frames


def without_sound(example: Example) -> Example:
    """Return the example without features and waves, which its grid doesn't need."""

    def light(clip: Clip | None) -> Clip | None:
        return None if clip is None else replace(clip, features=None, wave=None)

    past = tuple(replace(turn, clip=light(turn.clip)) for turn in example.history)
    return replace(example, clip=light(example.clip), history=past)


def text_twin(talker: Talker, example: Example) -> TrainingGrid:
    """Lay out the same conversation in text, as the teacher, which only reads, gets it."""
    typed = [Turn(turn.role, turn.text or "") for turn in example.history]
    turns = [*typed, Turn("user", example.question_text or "")]
    return talker.prompts.training_grid(T1T2, turns, example.answer_text or "")
