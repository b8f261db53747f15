"""Thoughts before an answer are shown apart and never spoken; answers end before the model's positions do."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
import torch
from test_backbones import CHATML, make_lm, make_tokenizer
from test_model_checks import attached, folder_of

from anytalk.cli.talk import _account
from anytalk.decode.engine import DecodeOptions
from anytalk.decode.jobs import Ended, Failed, Question, Said
from anytalk.decode.session import Session
from anytalk.decode.telling import AnswerDone, AudioDelta, TextDelta, ThoughtDelta
from anytalk.decode.thinking import TextMarks
from anytalk.errors import ConfigError
from anytalk.grid.tasks import T1A2, T1T2, Task
from anytalk.model.config import read_config
from anytalk.model.talker import Talker
from anytalk.plugins.thoughts import ThoughtReader
from anytalk.serve.model_thread import ModelThread

THINK, CLOSE, END = 259, 260, 258
SWITCHED = CHATML.replace(
    "assistant\n{% endif %}",
    "assistant\n{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n"
    "{% endif %}{% endif %}",
)


def thinker(tmp_path: Path, template: str = SWITCHED, *settings: str) -> Talker:
    return attached(tmp_path, folder_of(tmp_path / "lm", template, extra=["<think>", "</think>"]), *settings)


def letters(text: str) -> list[int]:
    return [33 + ord(c) - ord("B") for c in text]


def scripted(talker: Talker, ids: list[int]) -> None:
    """Let the model write these tokens, one after another, whatever it is asked."""
    size, script = talker.model.backbone.text_vocab_size, iter(ids)

    def logits(normed: torch.Tensor) -> torch.Tensor:
        found = torch.zeros(*normed.shape[:-1], size)
        found[..., next(script)] = 1.0
        return found

    talker.model.text_logits = logits  # type: ignore[method-assign]


def asked(talker: Talker, task: Task, columns: int = 20) -> tuple[str, str, AnswerDone]:
    """Thoughts, text and the end of an answer."""
    events = list(Session(talker).ask(text="hi", task=task, options=DecodeOptions(max_columns=columns)))
    done = events[-1]
    assert isinstance(done, AnswerDone)
    return said(events, ThoughtDelta), said(events, TextDelta), done


def said(events: list[Any], kind: type[Any]) -> str:
    return "".join(event.text for event in events if isinstance(event, kind))


@pytest.mark.parametrize("task", [T1T2, T1A2])
def test_thoughts_are_told_apart_and_not_spoken(tmp_path: Path, task: Task) -> None:
    talker = thinker(tmp_path)
    scripted(talker, [THINK, *letters("HMM"), CLOSE, *letters("HI"), END])
    thoughts, text, done = asked(talker, task)
    assert (thoughts, text, done.text) == ("HMM", "HI", "HI")
    base = read_config(tmp_path / "talker").base
    assert base is not None
    assert "it can think before it answers; thoughts are not spoken" in base.findings


@pytest.mark.parametrize(
    ("template", "settings", "script", "thoughts"),
    [
        (SWITCHED, (), [*letters("H"), *letters("HI"), END], ""),  # it answers at once, and is asked again to speak
        (SWITCHED, ("grid.template.enable_thinking=false",), [*letters("HI"), END], ""),
        (CHATML.replace("assistant\n", "assistant\n<think>\n"), (), [*letters("HM"), CLOSE, *letters("HI"), END], "HM"),
        (SWITCHED, (), [THINK, *letters("HM"), END, *letters("HI"), END], "HM"),  # it forgets to close them
    ],
)
def test_where_thoughts_begin_and_end(
    tmp_path: Path, template: str, settings: tuple[str, ...], script: list[int], thoughts: str
) -> None:
    talker = thinker(tmp_path, template, *settings)
    scripted(talker, script)
    found, text, done = asked(talker, T1T2)
    assert (found, text, done.finish_reason) == (thoughts, "HI", "stop")


def bytes_of(text: str) -> list[int]:
    """Ids of a text in which no mark is a token of its own."""
    return make_tokenizer()(text, add_special_tokens=False)["input_ids"]


IN_TEXT = CHATML + "{# it may begin with <think> #}"


@pytest.mark.parametrize(
    ("template", "script", "thoughts", "text"),
    [
        (IN_TEXT, "<think>\nHm <b>.</b>\n</think>HI", "\nHm <b>.</b>\n", "HI"),
        (IN_TEXT, "\n<think>Hm</think>HI", "Hm", "HI"),
        (CHATML.replace("assistant\n", "assistant\n<think>\n"), "Hm</think>HI", "Hm", "HI"),
        (IN_TEXT, "<xHI", "", "HI"),  # no thoughts begin with <x, and it is asked again to speak
        (IN_TEXT, "<thaHI", "", "HI"),
        (IN_TEXT.replace("<think>", "[/THINK]"), "[THINK]Hm[/THINK]HI", "Hm", "HI"),
    ],
)
@pytest.mark.parametrize("task", [T1T2, T1A2])
def test_thoughts_in_ordinary_text_are_not_spoken(
    tmp_path: Path, template: str, script: str, thoughts: str, text: str, task: Task
) -> None:
    talker = attached(tmp_path, folder_of(tmp_path / "lm", template))
    assert talker.model.backbone.thought_ids is None
    scripted(talker, [*bytes_of(script), END])
    assert asked(talker, task, columns=60)[:2] == (thoughts, text)


def test_words_in_the_token_that_ends_thoughts_are_asked_for_again(tmp_path: Path) -> None:
    talker = attached(tmp_path, folder_of(tmp_path / "lm", IN_TEXT))
    tokenizer = talker.model.backbone.tokenizer
    marks = TextMarks(("<think>", "</think>"), tokenizer)
    ids = tokenizer.encode("<think>Hm</think>")
    assert marks.closed(ids[:-1]) is None
    assert marks.closed(ids) == ids
    assert marks.closed([*ids, *tokenizer.encode("\n")]) == [*ids, *tokenizer.encode("\n")]
    assert marks.closed([*ids, *tokenizer.encode("Hi")]) == ids
    assert tokenizer.decode(marks.close(ids[:-8])) == "<think>Hm\n</think>\n\n"


def test_thoughts_that_are_too_long_are_ended(tmp_path: Path) -> None:
    talker = thinker(tmp_path)
    scripted(talker, [THINK, *letters("HMMMMMMM"[:4]), *letters("HI"), END])
    assert asked(talker, T1T2, columns=5)[:2] == ("HMMM", "HI")


def events_of(talker: Talker, *questions: Question) -> list[list[Any]]:
    async def ask(thread: ModelThread, question: Question) -> list[Any]:
        return [event async for event in thread.answer(question)]

    async def ask_all() -> list[list[Any]]:
        thread = ModelThread(talker)
        thread.start()
        try:
            return await asyncio.gather(*(ask(thread, question) for question in questions))
        finally:
            thread.stop()

    return asyncio.run(ask_all())


def question(text: str, columns: int = 20, task: Task = T1T2) -> Question:
    return Question(turns=[Said("user", text)], task=task, options=DecodeOptions(max_columns=columns))


def test_the_server_tells_thoughts_apart(tmp_path: Path) -> None:
    talker = thinker(tmp_path)
    # The first token is that of the prompt that the server reads in advance.
    scripted(talker, [END, THINK, *letters("HMM"), CLOSE, *letters("HI"), END])
    (events,) = events_of(talker, question("hi", task=T1A2))
    assert isinstance(events[-1], Ended)
    assert (said(events, ThoughtDelta), said(events, TextDelta)) == ("HMM", "HI")
    assert [type(event).__name__ for event in events].count("Started") == 1
    spoken = [isinstance(event, AudioDelta) for event in events]
    thought = [isinstance(event, ThoughtDelta) for event in events]
    assert spoken.index(True) > max(place for place, found in enumerate(thought) if found)


@pytest.mark.parametrize("cut", range(1, 30))
def test_thoughts_in_text_are_told_apart_however_it_is_cut(cut: int) -> None:
    whole = "\n<think>\nHm < 3 </thin.\n</think>\n\nHi <think>!"
    reader, words, thoughts = ThoughtReader(), "", ""
    pieces = [whole[i : i + cut] for i in range(0, len(whole), cut)]
    for number, piece in enumerate(pieces, start=1):
        word, thought = reader.push(piece, is_last=number == len(pieces))
        words, thoughts = words + word, thoughts + thought
    assert (words, thoughts) == ("Hi <think>!", "\nHm < 3 </thin.\n")


@pytest.mark.parametrize("text", ["Hi", "<b>Hi</b>", "<thi", " \n", ""])
def test_text_without_thoughts_stays(text: str) -> None:
    reader = ThoughtReader()
    first, rest = reader.push(text), reader.push("", is_last=True)
    assert (first[0] + rest[0], first[1] + rest[1]) == (text, "")


# Positions


def short(tmp_path: Path) -> Talker:
    """A GPT-2 whose table of positions has 64 rows."""
    lm = make_lm("gpt2")
    lm = type(lm)(type(lm.config)(**{**lm.config.to_dict(), "n_positions": 64})).eval()
    return attached(tmp_path, folder_of(tmp_path / "lm", lm=lm))


def test_an_answer_ends_before_the_positions_do(tmp_path: Path) -> None:
    talker = short(tmp_path)
    end = talker.model.layout.end_of_text_id
    talker.model.text_logits = lambda normed: torch.eye(300)[65 if end != 65 else 66].expand(*normed.shape[:-1], -1)
    *_, done = Session(talker).ask(text="hi", task=T1A2, options=DecodeOptions(max_columns=500))
    assert isinstance(done, AnswerDone)
    prompt = len("user\nhi") + len("assistant\n") + 4  # with the template's markup and line break
    assert (done.finish_reason, done.num_columns) == ("length", 64 - prompt)
    assert "no room for more" in _account(done, None, max_columns=500)
    assert "raise --max-columns" in _account(done, None, max_columns=done.num_columns)
    with pytest.raises(ConfigError, match="the model has 64 positions"):
        list(Session(talker).ask(text="hi" * 40, task=T1T2))


def test_a_question_that_is_too_long_fails_alone_in_the_server(tmp_path: Path) -> None:
    talker = short(tmp_path)
    talker.model.text_logits = lambda normed: torch.eye(300)[65].expand(*normed.shape[:-1], -1)
    long, fine = events_of(talker, question("hi" * 40, 500), question("hi", 500))
    assert isinstance(long[-1], Failed)
    assert "more than the 48 columns" in long[-1].message
    assert isinstance(fine[-1], Ended)
    assert fine[-1].done.finish_reason == "length"
