"""Stop strings: the text ends before the first of them, and its voice says that text and nothing of them."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from served_parts import Scripted, served_talker, slowly
from talkers import hf_talker, make_talker
from test_rounds import run_to_the_end
from test_thinking import CLOSE, END, THINK, letters, scripted, thinker

from anytalk.decode.engine import DecodeOptions, Generation
from anytalk.decode.entering import Slot
from anytalk.decode.jobs import Ended, Event, Job, Question, Said
from anytalk.decode.rounds import Rounds
from anytalk.decode.runner import Runner, columns_of
from anytalk.decode.session import Session, begin_generation
from anytalk.decode.stopping import before_stop
from anytalk.decode.telling import AnswerDone, AudioDelta, TextDelta
from anytalk.errors import ServedError
from anytalk.grid.prompts import Turn
from anytalk.grid.tasks import TASKS
from anytalk.model.talker import Talker

COLUMNS = 40


@pytest.mark.parametrize(
    ("text", "stops", "told", "found"),
    [
        ("One. Two.", (".",), "One", "."),
        ("One. Two.", ("Two", "."), "One", "."),
        ("One. Two.", ("three",), "One. Two.", None),
        ("One. Two.", (), "One. Two.", None),
        ("One\n\nUs", ("\n\nUser:",), "One", None),
        ("One\n\nUsed", ("\n\nUser:",), "One\n\nUsed", None),
        ("aab", ("ab", "abc"), "a", "ab"),
        ("xabcd", ("abcd", "bc"), "xa", "bc"),  # complete before the other is
        ("xabc", ("bc", "abc"), "x", "abc"),  # both at once: the longer
        ("aaa", ("aaaa",), "", None),
        ("", ("a",), "", None),
        ("STOP", ("STOP",), "", "STOP"),
        ("Grüße, 世", ("世界",), "Grüße, ", None),
    ],
)
def test_where_a_text_ends(text: str, stops: tuple[str, ...], told: str, found: str | None) -> None:
    place, by = before_stop(text, stops)
    assert (text[:place], by) == (told, found)


def test_pieces_change_nothing_and_nothing_is_taken_back() -> None:
    """Whatever pieces a text comes in: what was told is a beginning of what is told in the end."""
    chance = random.Random(5)
    for _ in range(2_000):
        text = "".join(chance.choices("abc", k=12))
        stops = tuple("".join(chance.choices("abc", k=chance.randint(1, 4))) for _ in range(chance.randint(1, 3)))
        told, ends = "", []
        for size in range(1, len(text) + 1):
            place, by = before_stop(text[:size], stops)
            assert text[:place].startswith(told)
            told = text[:place]
            if by is not None:
                ends.append(size)
                break
        place, by = before_stop(text, stops)
        assert (by is None) == (not ends)
        if by is not None:
            assert (text[:place], all(stop not in told for stop in stops)) == (told, True)


# A talker's own model


def asked(talker: Talker, task: str, stops: tuple[str, ...] = (), columns: int = COLUMNS) -> tuple[list[str], Any, Any]:
    """Its pieces of text, its sound, and the end."""
    options = DecodeOptions(max_columns=columns, stops=stops)
    *events, done = Session(talker).ask(text="hi", task=task, options=options)
    waves = [event.wave for event in events if isinstance(event, AudioDelta)]
    texts = [event.text for event in events if isinstance(event, TextDelta)]
    assert isinstance(done, AnswerDone)
    assert "".join(texts) == done.text
    return texts, np.concatenate(waves) if waves else None, done


def writes(talker: Talker, text: str) -> None:
    """Let a tiny talker write this, one byte for each token, whoever asks; it needn't be the first answer."""
    model = talker.model
    ids = [*talker.model.backbone.tokenizer.encode(text), model.layout.end_of_text_id]
    made = 0

    def logits(normed: torch.Tensor) -> torch.Tensor:
        nonlocal made
        found = torch.zeros(*normed.shape[:-1], model.layout.text_vocab_size)
        found[..., ids[min(made, len(ids) - 1)]] = 1.0
        made += 1
        return found

    model.text_logits = logits  # type: ignore[method-assign]


def talker_of(kind: str) -> Talker:
    torch.manual_seed(3)
    if kind == "talker":
        return make_talker(
            adapter="talker", adapter_options={"width": 64, "num_layers": 1, "letter_width": 64, "num_letter_layers": 1}
        )
    return make_talker(**({"text_lead": "all"} if kind == "all" else {"pattern": kind} if kind == "flatten" else {}))


@pytest.mark.parametrize("kind", ["blocks", "flatten", "all", "talker"])
def test_a_voice_says_what_is_left(kind: str) -> None:
    """As if the model had ended its text there; no column of it has been given a token of the stop string."""
    talker = talker_of(kind)
    writes(talker, "One, two")
    _, sound, wanted = asked(talker, "T1A2")
    writes(talker, "One, two. Three, four.")
    texts, cut, done = asked(talker, "T1A2", (". Thr", "never"))
    assert (done.text, done.stopped_by, done.num_frames) == ("One, two", ". Thr", wanted.num_frames)
    assert np.array_equal(cut, sound)
    assert len(texts) > 3


@pytest.mark.parametrize("kind", ["blocks", "flatten", "all", "talker"])
def test_a_string_that_never_comes_changes_nothing(kind: str) -> None:
    """Also where its beginnings come, and the voice has to wait."""
    talker = talker_of(kind)
    for text in ("One, two. Three. ", "One. Thr"):
        writes(talker, text)
        _, sound, wanted = asked(talker, "T1A2")
        writes(talker, text)
        _, other, done = asked(talker, "T1A2", (". Throw", "two. Three! "))
        assert (done.text, done.stopped_by, done.finish_reason) == (text, None, wanted.finish_reason)
        assert np.array_equal(other, sound)


@pytest.mark.parametrize("rule", ["staircase", "original"])
@pytest.mark.parametrize("task", ["T1T2", "T1A2"])
def test_the_answer_stops(task: str, rule: str) -> None:
    talker = make_talker()
    writes(talker, "Ünder thé sea")
    options = DecodeOptions(max_columns=60, stops=("hé",), rule=rule)
    *events, done = Session(talker).ask(text="hi", task=task, options=options)
    assert isinstance(done, AnswerDone)
    assert (done.text, done.stopped_by) == ("Ünder t", "hé")
    if task == "T1T2":
        assert (done.finish_reason, done.num_columns) == ("stop", len("Ünder thé".encode()))
        assert not any(isinstance(event, AudioDelta) for event in events)


@pytest.mark.parametrize("task", ["T1T2", "T1A2"])
def test_a_budget_that_ends_inside_of_what_may_be_a_stop(task: str) -> None:
    talker = make_talker()
    writes(talker, "One two three")
    _, _, done = asked(talker, task, ("two five",), columns=9)
    assert (done.text, done.finish_reason, done.stopped_by) == ("One two t", "length", None)
    writes(talker, "One tw")
    _, _, done = asked(talker, task, ("two five",))
    assert done.text == "One tw"


def test_a_text_of_which_nothing_is_left() -> None:
    talker = make_talker()
    writes(talker, "One")
    for task in ("T1T2", "T1A2"):
        writes(talker, "One")
        texts, _, done = asked(talker, task, ("On",))
        assert (texts, done.text, done.stopped_by) == ([], "", "On")


def test_thoughts_are_not_looked_at(tmp_path: Path) -> None:
    talker = thinker(tmp_path)
    scripted(talker, [THINK, *letters("HMM"), CLOSE, *letters("HIM"), END])
    *_, done = Session(talker).ask(text="hi", task="T1A2", options=DecodeOptions(max_columns=20, stops=("M",)))
    assert isinstance(done, AnswerDone)
    assert (done.text, done.stopped_by) == ("HI", "M")


def test_reading_aloud_reads_all(tmp_path: Path) -> None:
    *_, done = Session(make_talker()).ask(
        text="One. Two.", task="T1A1", options=DecodeOptions(max_columns=40, stops=(".",))
    )
    assert isinstance(done, AnswerDone)
    assert done.text == "One. Two."


# Many at once


def generation(talker: Talker, number: int, task: str, stops: tuple[str, ...]) -> Generation:
    turn = Turn("user", ["one", "seven?", "the sea"][number % 3])
    options = DecodeOptions(max_columns=16 + 3 * number, stops=stops)
    return begin_generation(talker, TASKS[task], turn, talker.prompts.prompt(TASKS[task], [turn]), [], options, None)


def told(one: Generation) -> Any:
    answer, written = one.answer, one.written
    return written.text_ids, written.text_limit, [column.tolist() for column in answer.columns], answer.finish_reason


@pytest.mark.parametrize("joins", [0, 2])
@pytest.mark.parametrize("adapter", ["talker", "blocks", "none"])
def test_in_a_batch_each_answer_is_the_one_it_would_be_alone(adapter: str, joins: int, tmp_path: Path) -> None:
    talker = hf_talker(tmp_path, adapter)
    plain = generation(talker, 0, "T1T2", ())
    list(columns_of(plain))
    text = talker.model.backbone.tokenizer.decode(plain.answer.text_ids)
    mix = [("T1A2", (text[5:8],)), ("T1T2", (text[4:6],)), ("T1A2", ()), ("T1A2", (text[1:3] + "\0", text[6:9]))] * 2
    alone = [generation(talker, number, *one) for number, one in enumerate(mix)]
    for one in alone:
        list(columns_of(one))
    assert {one.written.stopped_by is None for one in alone} == {True, False}
    runner = Runner(talker.model)
    together = [generation(talker, number, *one) for number, one in enumerate(mix)]
    for one in together:
        runner.add(Slot(one))
        for _ in range(joins):
            runner.step()
    while runner.slots or runner._expected:
        runner.step()
    assert (runner._backbone.owners, runner._adapter.owners) == ([], [])
    assert (runner._adapter._parked, runner._backbone._parked) == ({}, {})
    assert [told(one) for one in together] == [told(one) for one in alone]


def test_a_writer_that_fails_ends_its_own_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    talker = make_talker()
    good, bad = (Slot(generation(talker, number, "T1A2", ("never",))) for number in range(2))
    assert bad.generation.writer is not None
    choose, made = bad.generation.writer.choose, 0

    def fails(*given: Any) -> Any:
        nonlocal made
        made += 1
        return choose(*given) if made < 4 else 1 / 0

    monkeypatch.setattr(bad.generation.writer, "choose", fails)
    runner = Runner(talker.model)
    runner.add_all([good, bad])
    while runner.slots or runner._expected:
        runner.step()
    assert isinstance(bad.error, ZeroDivisionError)
    assert (good.error, good.is_done) == (None, True)
    assert runner._backbone.owners == []


def test_columns_are_counted_once_and_who_is_cancelled_leaves_nothing() -> None:
    talker = make_talker()
    rounds, events = Rounds(talker), list[Event]()
    asking = Question(
        turns=[Said("user", "hi")], task=TASKS["T1A2"], options=DecodeOptions(max_columns=20, stops=("never",))
    )
    first, second = Job(asking, events.append), Job(asking, events.append)
    rounds.add(first)
    made = run_to_the_end(rounds)
    assert (sum(made), max(made)) == (20, 1)
    (ended,) = [event for event in events if isinstance(event, Ended)]
    assert ended.text_tokens == 20
    rounds.add(second)
    for _ in range(4):
        rounds.run()
    second.cancel()
    assert run_to_the_end(rounds) == [0]
    assert rounds._runner._backbone.owners == rounds._runner._adapter.owners == []


def test_a_token_that_the_stop_string_begins_in() -> None:
    """The voice gets what is kept of it, in tokens of their own."""
    talker = served_talker(Scripted(slowly("One ", "twothree")))
    one = generation(talker, 0, "T1A2", ("three",))
    list(columns_of(one))
    assert talker.model.backbone.tokenizer.decode(one.answer.text_ids) == "One two"


# Models that are served elsewhere


@pytest.mark.parametrize(
    "pieces", [("One two. Three four.",), tuple("One two. Three four."), ("One two. T", "hree four.")]
)
def test_a_served_model_is_cut_alike_and_asked_no_further(pieces: tuple[str, ...]) -> None:
    whole = served_talker(Scripted(slowly("One two", pause_s=0.002)))
    _, sound, _ = asked(whole, "T1A2")
    backbone = Scripted(slowly(*pieces, *["more "] * 50, pause_s=0.01))
    talker = served_talker(backbone)
    _, cut, done = asked(talker, "T1A2", (". Thr", "!"))
    assert (done.text, done.stopped_by, backbone.cancelled) == ("One two", ". Thr", 1)
    assert (cut is None) == (sound is None)
    assert len(cut) == len(sound)
    assert asked(served_talker(Scripted(slowly(*pieces))), "T1T2", ("T",))[2].text == "One two. "


def test_a_stop_string_of_two_halves() -> None:
    talker = served_talker(Scripted(slowly("One \ud83d", "\ude00 two")))
    assert asked(talker, "T1T2", ("😀 t",))[2].text == "One "


def test_what_comes_after_the_stop_is_nobodys_fault() -> None:
    talker = served_talker(Scripted(slowly("One. Two", error=ServedError("gone", "try again"))))
    assert asked(talker, "T1T2", (".",))[2].finish_reason == "stop"
    with pytest.raises(ServedError, match="gone"):
        asked(served_talker(Scripted(slowly("One", error=ServedError("gone", "try again")))), "T1T2", (".",))
    *_, done = asked(served_talker(Scripted(slowly("One. Two", was_cut=True))), "T1T2", (".",))
    assert done.finish_reason == "stop"
