"""Rows to examples (sound as numbers: encoder features, codec codes), and examples to the grids of a task."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from torch import Tensor

from anytalk.grid.prompts import TrainingGrid, Turn
from anytalk.grid.tasks import T1T2, Task
from anytalk.model.talker import Talker

_MOST_MARKUP = 512
"""Tokens that a chat template may write around what was said."""

Progress = Callable[[int, int | None], None]
"""Called with (done, total); None: nobody knows."""


@dataclass(frozen=True)
class Clip:
    """A spoken turn of the user."""

    num_frames: int  # F
    duration_s: float  # its length
    features: Tensor | None = None  # (F,E) float32 encoder features, or None where they are not kept
    wave: Tensor | None = None  # (N,) float32 at the encoder's rate, or None where it is not kept


@dataclass(frozen=True)
class PastTurn:
    """A turn before the question."""

    role: str
    text: str | None
    clip: Clip | None = None


@dataclass(frozen=True, kw_only=True)
class Example:
    """A row with its sound turned into numbers."""

    id: str  # its name in messages
    tasks: tuple[str, ...]  # tasks that it serves
    question_text: str | None = None  # what was asked, as text
    clip: Clip | None = None  # what was asked, as sound
    answer_text: str | None = None  # what is answered
    codes: np.ndarray | None = None  # (codec streams, frames) int64 of the spoken answer
    answer_s: float = 0.0  # length of the spoken answer; 0 without one
    speaker: str | None = None  # name of the answering voice
    history: tuple[PastTurn, ...] = ()  # turns before the question

    def heard(self, task: Task) -> list[PastTurn]:
        """Return the spoken turns of this task's prompt, in order: one for each of its grid's speech spans."""
        turns = [*_past(self, task), PastTurn("user", self.question_text, self.clip if task.speech_in else None)]
        return [t for t in turns if t.clip is not None and (task.speech_in or t.text is None)]

    def clips(self, task: Task) -> list[Clip]:
        return [turn.clip for turn in self.heard(task) if turn.clip is not None]


def _past(example: Example, task: Task) -> Sequence[PastTurn]:
    """Turns before the question; what is only written down or read aloud has none."""
    return example.history if task.answer == "answer" else ()


def make_turns(talker: Talker, example: Example, task: Task) -> list[Turn]:
    """Return the conversation up to the answer, as the prompt builder wants it."""
    adapter = talker.model.input_adapter

    def columns(clip: Clip | None) -> int:
        return 0 if clip is None or adapter is None else adapter.output_length(clip.num_frames)

    said = example.answer_text if task.answer == "answer" or task.audio_out else example.question_text
    question = example.question_text if task.answer == "answer" else said
    past = [Turn(turn.role, turn.text, columns(turn.clip)) for turn in _past(example, task)]
    return [*past, Turn("user", question, columns(example.clip) if task.speech_in else 0)]


def make_grid(talker: Talker, example: Example, task: Task, learn_pads: bool = False) -> TrainingGrid:
    """Return the training grid of an example for a task."""
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
    """Say how much longer the grid of an example is than the positions that the model knows; empty where it fits."""
    positions = talker.model.backbone.max_positions
    if positions is None or _most_columns(talker, example) <= positions:
        return ""
    columns = make_grid(talker, without_sound(example), task).tokens.shape[1]
    if columns <= positions:
        return ""
    return f"it takes {columns} columns for {task.name}, and the model has {positions} positions"


def _most_columns(talker: Talker, example: Example) -> int:
    """Bound the columns of an example: a token is at least a byte."""
    texts = [example.question_text, example.answer_text, *(turn.text for turn in example.history)]
    clips = [example.clip, *(turn.clip for turn in example.history)]
    frames = 0 if example.codes is None else example.codes.size
    said = sum(len((text or "").encode()) for text in texts)
    return _MOST_MARKUP + said + sum(clip.num_frames for clip in clips if clip is not None) + frames


def without_sound(example: Example) -> Example:
    """Return the same example without features and waves: enough to lay out its grid."""

    def light(clip: Clip | None) -> Clip | None:
        return None if clip is None else replace(clip, features=None, wave=None)

    past = tuple(replace(turn, clip=light(turn.clip)) for turn in example.history)
    return replace(example, clip=light(example.clip), history=past)


def text_twin(talker: Talker, example: Example) -> TrainingGrid:
    """Return the same conversation typed, with the answer as text: what a teacher that only reads is asked."""
    typed = [Turn(turn.role, turn.text or "") for turn in example.history]
    turns = [*typed, Turn("user", example.question_text or "")]
    return talker.prompts.training_grid(T1T2, turns, example.answer_text or "")
