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
from torch import Tensor

from anytalk.decode.engine import DecodeOptions
from anytalk.decode.jobs import Ended, Event, Failed, Job, Question, Said
from anytalk.decode.session import Session
from anytalk.decode.telling import AudioDelta
from anytalk.grid.tasks import TASKS
from anytalk.model.talker import Talker
from anytalk.plugins.contracts import CodecStream
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


class Watched(CodecStream):
    """A stream that notes the frames it is given, and can't decode some of them."""

    def __init__(self, inner: CodecStream, refused: set[tuple[int, ...]]) -> None:
        self.inner, self.refused = inner, refused
        self.frames: list[tuple[int, ...]] = []

    def push(self, codes: Tensor) -> Tensor:
        self.frames += [tuple(frame) for frame in codes[0].T.tolist()]
        if self.refused & set(self.frames):
            raise ZeroDivisionError
        return self.inner.push(codes)

    def flush(self) -> Tensor:
        return self.inner.flush()


def test_a_codec_that_fails_ends_the_answer_to_blame_and_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    talker, streams, refused = make_talker(prompt="raw", merge="mean"), [], set[tuple[int, ...]]()
    new_stream = talker.codec.new_stream

    def watched() -> Watched:
        streams.append(Watched(new_stream(), refused))
        return streams[-1]

    monkeypatch.setattr(talker.codec, "new_stream", watched)
    with model_of(talker) as thread:
        whole = [sound(events) for events in ask(thread, QUESTIONS)]
        frames = [stream.frames for stream in streams]
        others = {frame for number, found in enumerate(frames) if number != 1 for frame in found}
        own = [frame for frame in frames[1] if frame not in others and frame != frames[1][0]]
        refused.add(own[0])
        told = ask(thread, QUESTIONS)
        assert isinstance(told[1][-1], Failed)
        assert told[1][-1].is_ours
        assert "ZeroDivisionError" in told[1][-1].message
        assert len(sound(told[1])), "it had begun"
        for number in (0, 2, 3):
            assert isinstance(told[number][-1], Ended)
            np.testing.assert_allclose(sound(told[number]), whole[number], atol=1e-5)
        refused.clear()
        # They are told first; their places are free when the round is over.
        until = time.monotonic() + 10
        while num_answers(thread) and time.monotonic() < until:
            time.sleep(0.01)
        assert num_answers(thread) == 0
        assert all(isinstance(events[-1], Ended) for events in ask(thread, QUESTIONS))
