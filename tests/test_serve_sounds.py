"""The codec is asked once for the sounds of all answers, and each sounds as it would alone."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from serve_lab import num_answers
from talkers import make_talker

from anytalk.decode.engine import DecodeOptions
from anytalk.decode.jobs import Ended, Event, Failed, Job, Question, Said
from anytalk.decode.session import Session
from anytalk.decode.telling import AudioDelta
from anytalk.grid.tasks import TASKS
from anytalk.model.talker import Talker
from anytalk.serve.model_thread import ModelThread

QUESTIONS = ["one", "seven?", "the sea", "zebra crossing"]


@contextmanager
def model_of(talker: Talker) -> Iterator[ModelThread]:
    """Two frames for each piece of sound, as servers have it."""
    thread = ModelThread(talker, stride_frames=2)
    thread.start()
    try:
        yield thread
    finally:
        thread.stop()


def ask(thread: ModelThread, questions: list[str]) -> list[list[Event]]:
    """All at once; the events of each answer."""
    told: list[list[Event]] = [[] for _ in questions]
    over = [threading.Event() for _ in questions]

    def teller(number: int) -> Callable[[Event], None]:
        def emit(event: Event) -> None:
            told[number].append(event)
            if isinstance(event, Ended | Failed):
                over[number].set()

        return emit

    # Of unequal length, so that they end in different rounds.
    for number, text in enumerate(questions):
        options = DecodeOptions(max_columns=12 + 3 * number)
        question = Question(turns=[Said("user", text)], task=TASKS["T1A2"], options=options)
        thread.submit(Job(question, teller(number)))
    for event in over:
        assert event.wait(30)
    return told


def sound(events: list[Any]) -> np.ndarray:
    return np.concatenate([event.wave for event in events if isinstance(event, AudioDelta)])


def test_one_call_of_the_codec_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    talker = make_talker()
    alone = [
        sound(list(Session(talker, stride_frames=2).ask(text=text, options=DecodeOptions(max_columns=12 + 3 * number))))
        for number, text in enumerate(QUESTIONS)
    ]
    calls, push_all = [], talker.codec.push_all
    monkeypatch.setattr(
        talker.codec, "push_all", lambda streams, codes: (calls.append(len(streams)), push_all(streams, codes))[1]
    )
    with model_of(talker) as thread:
        told = ask(thread, QUESTIONS)
    assert max(calls) == len(QUESTIONS)
    for events, wanted in zip(told, alone, strict=True):
        assert isinstance(events[-1], Ended)
        np.testing.assert_allclose(sound(events), wanted, atol=1e-5)


def test_a_codec_that_fails_ends_the_answers_it_was_asked_for_and_no_others(monkeypatch: pytest.MonkeyPatch) -> None:
    talker = make_talker()
    with model_of(talker) as thread:
        with monkeypatch.context() as broken:
            broken.setattr(talker.codec, "push_all", lambda *_: 1 / 0)
            for events in ask(thread, QUESTIONS):
                assert isinstance(events[-1], Failed)
                assert events[-1].is_ours
                assert "ZeroDivisionError" in events[-1].message
        # They are told first; their places are free when the round is over.
        until = time.monotonic() + 10
        while num_answers(thread) and time.monotonic() < until:
            time.sleep(0.01)
        assert num_answers(thread) == 0
        for events in ask(thread, QUESTIONS):
            assert isinstance(events[-1], Ended)
            assert len(sound(events))
