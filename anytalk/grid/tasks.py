"""Defines the tasks, in whose names A is audio and T text, 1 the question and 2 the answer."""

from __future__ import annotations

from dataclasses import dataclass

from anytalk.errors import UnknownNameError, did_you_mean


@dataclass(frozen=True, kw_only=True)
class Task:
    """Says what goes into the model and what comes out."""

    name: str  # short name of the original's code, e.g. `"A1A2"`
    speech_in: bool  # whether the question is spoken
    audio_out: bool  # whether the answer is spoken
    # What the text row contains: `"answer"`, or `"question"` (a transcript; in T1A1 the text to read aloud, which is
    # given and not generated).
    answer: str = "answer"
    text_in_loss: bool = True  # whether the text row is learnt
    summary: str = ""  # one line


A1A2 = Task(name="A1A2", speech_in=True, audio_out=True, summary="speech in, text and speech out")
A1T2 = Task(name="A1T2", speech_in=True, audio_out=False, summary="speech in, text out")
A1T1 = Task(name="A1T1", speech_in=True, audio_out=False, answer="question", summary="speech in, transcript out (ASR)")
T1A2 = Task(name="T1A2", speech_in=False, audio_out=True, summary="text in, text and speech out")
T1T2 = Task(name="T1T2", speech_in=False, audio_out=False, summary="text in, text out")
T1A1 = Task(
    name="T1A1",
    speech_in=False,
    audio_out=True,
    answer="question",
    text_in_loss=False,
    summary="text in, the same text spoken (TTS)",
)

TASKS = {task.name: task for task in (A1A2, A1T1, A1T2, T1A1, T1A2, T1T2)}
"""All tasks by their names."""


def find_task(name: str) -> Task:
    """Find a task by its name, in upper or lower case (UnknownNameError: the task doesn't exist)."""
    task = TASKS.get(name.upper())
    if task is None:
        nearest = did_you_mean(name.upper(), list(TASKS))
        raise UnknownNameError(f"unknown task '{name}'{nearest}", f"tasks: {', '.join(TASKS)}")
    return task
