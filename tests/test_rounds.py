"""The rounds of a talker by plain calls: who is listened to, read and told when, and whose error ends which answer."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from talkers import hf_talker, make_talker, with_plain_caches
from test_runner import question, run_alone, told

from anytalk.decode.engine import DecodeOptions
from anytalk.decode.entering import Slot
from anytalk.decode.jobs import Ended, Event, Failed, Job, Question, Said, Speech, Started
from anytalk.decode.rounds import Rounds
from anytalk.decode.runner import Runner, columns_of, run_all
from anytalk.decode.session import Session
from anytalk.decode.telling import AnswerDone, AudioDelta, TextDelta
from anytalk.grid.tasks import TASKS
from anytalk.model.talker import Talker
from anytalk.plugins.contracts import BackboneStates
from anytalk.plugins.testing.backbone import check_cache
from anytalk_backbones.tiny import TinyBackbone

QUESTIONS = ["one", "seven?", "the sea", "zebra crossing"]


class Asked:
    """A question in rounds, and everything that is told of it."""

    def __init__(self, rounds: Rounds, said: Said, task: str = "T1A2", columns: int = 12) -> None:
        self.events: list[Event] = []
        options = DecodeOptions(max_columns=columns)
        self.job = Job(Question(turns=[said], task=TASKS[task], options=options), self.events.append)
        rounds.add(self.job)

    @property
    def text(self) -> str:
        return "".join(event.text for event in self.events if isinstance(event, TextDelta))

    @property
    def sound(self) -> list[np.ndarray]:
        return [event.wave for event in self.events if isinstance(event, AudioDelta)]


def run_to_the_end(rounds: Rounds) -> list[int]:
    """Columns of each round."""
    made = []
    while rounds.jobs:
        assert rounds.can_go_on
        made.append(rounds.run())
    assert not rounds.can_go_on
    return made


def alone(talker: Talker, text: str) -> tuple[str, np.ndarray]:
    *events, done = Session(talker).ask(text=text, options=DecodeOptions(max_columns=12))
    assert isinstance(done, AnswerDone)
    return done.text, np.concatenate([event.wave for event in events if isinstance(event, AudioDelta)])


def test_one_column_of_all_answers_in_each_round() -> None:
    talker = make_talker()
    rounds = Rounds(talker)
    assert not rounds.can_go_on
    first, second = Asked(rounds, Said("user", "one"), columns=6), Asked(rounds, Said("user", "two"), columns=9)
    assert [len(asked.events) for asked in (first, second)] == [0, 0]
    assert rounds.run() == 2
    third = Asked(rounds, Said("user", "three"), columns=3)
    assert rounds.run() == 3, "who comes later joins"
    run_to_the_end(rounds)
    for asked, columns in ((first, 6), (second, 9), (third, 3)):
        start, *_, end = asked.events
        assert isinstance(start, Started)
        assert isinstance(end, Ended)
        assert end.done.num_columns == columns
        assert end.done.text == asked.text


def test_questions_are_listened_to_together_and_then_read() -> None:
    talker, order = make_talker(), []
    rounds = Rounds(talker)
    encoder = talker.model.encoder
    assert encoder is not None
    encoder.register_forward_hook(lambda _module, given, _found: order.append(f"hear {len(given[0])}"))
    wave = np.random.default_rng(0).normal(0, 0.1, 16_000).astype(np.float32)
    spoken = [Asked(rounds, Said("user", None, Speech(wave)), "A1A2", columns=3) for _ in range(2)]
    typed = Asked(rounds, Said("user", "typed"), columns=3)
    rounds.run()
    assert order == [], "who needs no ears doesn't wait for them"
    assert isinstance(typed.events[0], Started)
    rounds.run()
    assert order[0] == "hear 2"
    assert not spoken[0].events
    rounds.run()
    assert all(isinstance(asked.events[0], Started) for asked in spoken)
    run_to_the_end(rounds)


def test_a_turn_that_may_be_over_is_listened_to_when_nobody_waits() -> None:
    rounds = Rounds(make_talker())
    wave = np.random.default_rng(0).normal(0, 0.1, 16_000).astype(np.float32)
    ahead, dropped = Speech(wave), Speech(wave)
    Asked(rounds, Said("user", "first"), columns=3)
    rounds.listen_ahead(ahead)
    rounds.run()
    assert not ahead.was_heard
    while rounds.jobs:
        rounds.run()
    assert rounds.can_go_on
    rounds.run()
    assert ahead.was_heard
    rounds.listen_ahead(dropped)
    del dropped
    gc.collect()
    assert not rounds.can_go_on, "its speaker went on"


def test_who_is_cancelled_is_told_nothing_more() -> None:
    talker = make_talker()
    rounds = Rounds(talker)
    first, second = Asked(rounds, Said("user", "one")), Asked(rounds, Said("user", "seven?"))
    rounds.run()
    before = list(first.events)
    first.job.cancel()
    run_to_the_end(rounds)
    assert first.events == before
    assert second.text == alone(talker, "seven?")[0]


def test_a_muted_answer_has_no_more_sound_and_ends_with_its_text() -> None:
    talker = make_talker()
    rounds, said = Rounds(talker), Said("user", "zebra crossing")
    aloud, muted = (Asked(rounds, said, "T1A1", columns=60) for _ in range(2))
    while not muted.sound:
        rounds.run()
    heard, beside = len(muted.sound), len(aloud.sound)
    muted.job.mute.set()
    run_to_the_end(rounds)
    assert muted.text == aloud.text == "zebra crossing"
    assert (len(muted.sound), len(aloud.sound) > beside) == (heard, True)
    muted_end, end = muted.events[-1], aloud.events[-1]
    assert isinstance(muted_end, Ended)
    assert isinstance(end, Ended)
    assert muted_end.done.num_columns < end.done.num_columns
    assert muted_end.done.finish_reason == "stop"


def test_answers_that_are_given_up_are_returned_once() -> None:
    rounds = Rounds(make_talker())
    first = Asked(rounds, Said("user", "one"))
    rounds.run()
    second = Asked(rounds, Said("user", "two"))
    assert rounds.give_up() == [second.job, first.job]
    assert rounds.give_up() == rounds.jobs == []


# One answer's error is its own


class FaultError(Exception):
    """Of one row."""


def break_layer(talker: Talker, part: str, slot: Slot, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Let the last layer of a part raise at the third column of an answer; returns the rows of these calls."""
    run, is_fed, raised = Runner._run, [False], []

    def watched(runner: Runner, active: list[Slot]) -> Any:
        is_fed[0] = slot in active and slot.index == 2
        return run(runner, active)

    monkeypatch.setattr(Runner, "_run", watched)
    layer = [module for module in getattr(talker.model, part).modules() if type(module).__name__ in LAYERS][-1]
    forward = layer.forward

    def broken(x: torch.Tensor, *rest: Any, **named: Any) -> Any:
        if is_fed[0]:
            raised.append(len(x))
            raise FaultError
        return forward(x, *rest, **named)

    monkeypatch.setattr(layer, "forward", broken)
    return raised


LAYERS = ("TinyBlock", "LlamaDecoderLayer")


@pytest.fixture(params=["joined", "hf", "plain"])
def talker(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Talker]:
    """Caches of three kinds: our own in one batch, transformers', and such as don't join."""
    if request.param == "hf":
        yield hf_talker(tmp_path, "blocks")
    else:
        made = make_talker()
        yield with_plain_caches(made) if request.param == "plain" else made


@pytest.mark.parametrize("part", ["backbone", "output_adapter"])
def test_a_layer_that_raises_in_a_step_ends_the_answer_it_raises_for(
    talker: Talker, part: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    mix = [("T1A2", False), ("T1T2", False), ("T1A2", False), ("T1A1", True)]
    wanted = run_alone(talker, mix)
    slots = [Slot(question(talker, i, task, given=given)) for i, (task, given) in enumerate(mix)]
    raised = break_layer(talker, part, slots[2], monkeypatch)
    runner = Runner(talker.model)
    runner.add_all(slots)
    while runner.slots:
        runner.step()
    assert raised, "it was never run"
    assert [type(slot.error) for slot in slots] == [type(None), type(None), FaultError, type(None)]
    assert [told(slots[i].generation) for i in (0, 1, 3)] == [wanted[i] for i in (0, 1, 3)]
    assert runner._backbone.owners == runner._adapter.owners == []
    begun = told(slots[2].generation)
    assert begun[0] == wanted[2][0][: len(begun[0])], "what it had said until then was right"


def test_an_answer_that_is_longer_than_the_positions_ends_by_itself(tmp_path: Path) -> None:
    talker = hf_talker(tmp_path, "none", family="gpt2")
    positions = talker.model.backbone.lm.config.n_positions
    alone = run_alone(talker, [("T1T2", False)] * 2)
    slots = [
        Slot(question(talker, number, "T1T2", columns=columns)) for number, columns in ((0, 0), (1, 0), (2, positions))
    ]
    runner = Runner(talker.model)
    runner.add_all(slots)
    while runner.slots:
        runner.step()
    assert isinstance(slots[2].error, IndexError)
    assert [told(slot.generation) for slot in slots[:2]] == alone


def test_a_choice_that_fails_is_of_its_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    talker = make_talker()
    wanted = run_alone(talker, [("T1A2", False)] * 3)
    slots = [Slot(question(talker, number, "T1A2")) for number in range(3)]
    monkeypatch.setattr(slots[1].generation, "choose", lambda *_: 1 / 0)
    runner = Runner(talker.model)
    runner.add_all(slots)
    while runner.slots:
        runner.step()
    assert isinstance(slots[1].error, ZeroDivisionError)
    assert [told(slots[i].generation) for i in (0, 2)] == [wanted[0], wanted[2]]


def test_many_answers_run_on_beside_one_that_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    talker = make_talker()
    wanted = run_alone(talker, [("T1A2", False)] * 4)
    generations = [question(talker, number, "T1A2") for number in range(4)]
    monkeypatch.setattr(generations[1], "choose", lambda *_: 1 / 0)
    ended = []
    with pytest.raises(ZeroDivisionError):
        ended.extend(number for number in run_all(talker.model, generations, at_once=2))
    assert [told(generations[i]) for i in (0, 2, 3)] == [wanted[i] for i in (0, 2, 3)]
    with pytest.raises(ZeroDivisionError):
        list(columns_of(generations[1]))


def test_a_prompt_that_cannot_be_read_ends_its_own_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    talker, failed = make_talker(), []
    rounds = Rounds(talker, failed=lambda job, error: failed.append((job, type(error))))
    asked = [Asked(rounds, Said("user", text)) for text in QUESTIONS]
    lay_out = Runner._lay_out

    def broken(runner: Runner, slot: Slot) -> Any:
        if slot is asked[3].job.slot:
            raise FaultError
        return lay_out(runner, slot)

    monkeypatch.setattr(Runner, "_lay_out", broken)
    run_to_the_end(rounds)
    assert failed == [(asked[3].job, FaultError)]
    for one, text in zip(asked[:3], QUESTIONS, strict=False):
        assert one.text == alone(talker, text)[0]


def test_a_failure_that_is_nobodys_ends_those_who_speak_and_the_next_ones_are_answered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    talker, failed = make_talker(), []
    rounds = Rounds(talker, failed=lambda job, error: failed.append(job))
    asked = [Asked(rounds, Said("user", text)) for text in QUESTIONS]
    rounds.run()
    with monkeypatch.context() as broken:
        broken.setattr(rounds._runner, "step", lambda: 1 / 0)
        rounds.run()
    assert failed == [one.job for one in asked]
    again = Asked(rounds, Said("user", "one"))
    run_to_the_end(rounds)
    text, wave = alone(talker, "one")
    assert again.text == text
    np.testing.assert_allclose(np.concatenate(again.sound), wave, atol=1e-5)
    assert not any(isinstance(event, Failed) for event in again.events)


class LosesItsCacheByAnError(TinyBackbone):
    def forward(self, embeds: torch.Tensor, cache: Any = None) -> BackboneStates:
        try:
            return super().forward(embeds, cache)
        except Exception:
            cache.crop(1)
            raise


def test_the_check_catches_a_cache_that_an_error_breaks() -> None:
    with pytest.raises(AssertionError, match="after a call that failed"), torch.no_grad():
        check_cache(LosesItsCacheByAnError(TinyBackbone.Options()))
