"""Answers whose text is written elsewhere: spoken as it comes, the same however it comes."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest
import torch
from served_parts import Scripted, served_talker, slowly

from anytalk.decode.engine import DecodeOptions, Generation
from anytalk.decode.entering import Slot
from anytalk.decode.greedy import greedy_answers
from anytalk.decode.ready import make_talker_ready
from anytalk.decode.runner import Runner, columns_of, run_all
from anytalk.decode.session import Session, begin_generation
from anytalk.decode.telling import AnswerDone, AudioDelta, TextDelta
from anytalk.errors import ConfigError, ServedError
from anytalk.grid.prompts import Turn
from anytalk.grid.tasks import TASKS
from anytalk.model.talker import Talker
from anytalk.plugins.contracts import TextRequest, TextStream
from anytalk.plugins.piece_tokenizer import MAX_BYTES, VOCAB_SIZE, PieceTokenizer, pieces_of
from anytalk_adapters import spelling

SHORT = DecodeOptions(max_columns=45)
TEXTS = [
    "Hello, it is half past nine.",
    "internationalisation\n\n  of  \t everything ",
    "Grüße, 世界! Straßenbahnhaltestelle 👩‍👩‍👧 …",
    "",
    "   ",
    "\0 and \0",
]


@pytest.mark.parametrize("text", TEXTS)
def test_pieces_are_their_own_numbers(text: str) -> None:
    tokenizer = PieceTokenizer()
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert "".join(pieces_of(text)) == text
    assert all(0 < i < VOCAB_SIZE for i in ids)
    assert all(0 < len(piece.encode()) <= MAX_BYTES for piece in pieces_of(text))
    assert [tokenizer.decode([i]) for i in ids] == pieces_of(text)
    assert tokenizer.decode([tokenizer.eos_id]) == ""


@pytest.mark.parametrize("text", TEXTS)
def test_a_voice_reads_the_letters_of_each_piece(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spelling, "MOST_KEPT", 3)
    spelt = spelling.Spelling(PieceTokenizer(), max_letters=24)
    letters = [spelt.letters_of(i) for i in PieceTokenizer().encode(text)]
    assert [letter for piece in letters for letter in piece] == list(text.encode())
    assert len(spelt._spelt) <= 3


@pytest.mark.parametrize("text", TEXTS)
def test_what_is_written_later_changes_the_last_piece_at_most(text: str) -> None:
    whole = pieces_of(text)
    for end in range(len(text)):
        before = pieces_of(text[:end])[:-1]
        assert whole[: len(before)] == before


def test_half_a_surrogate_pair_is_no_reason_to_fail() -> None:
    assert PieceTokenizer().decode(PieceTokenizer().encode("a\ud83d b")) == "a\ufffd b"


def generation_of(talker: Talker, question: str = "hi", task: str = "T1A2", **options: Any) -> Generation:
    turn = Turn("user", question)
    prompt = talker.prompts.prompt(TASKS[task], [turn])
    chosen = DecodeOptions(**{"max_columns": 40, **options})
    return begin_generation(talker, TASKS[task], turn, prompt, [], chosen, None)


def told(generation: Generation) -> tuple[list[int], list[list[int]], str | None]:
    answer = generation.answer
    return answer.text_ids, [c.tolist() for c in answer.columns], answer.finish_reason


def alone(talker: Talker, task: str = "T1A2") -> Any:
    generation = generation_of(talker, task=task)
    for _ in columns_of(generation):
        pass
    return told(generation)


@pytest.mark.parametrize(
    "pieces", [("One two three four.",), tuple("One two three four."), ("One tw", "o three four.")]
)
def test_the_same_text_sounds_the_same_however_it_comes(pieces: tuple[str, ...]) -> None:
    talker = served_talker(Scripted(slowly(*pieces, pause_s=0.002)))
    given = Generation(
        talker.model,
        talker.config.grid.delay_pattern(),
        DecodeOptions(max_columns=40),
        [talker.prompts.prompt(TASKS["T1A2"], [Turn("user", "hi")])],
        [],
        audio_out=True,
        given_text=PieceTokenizer().encode("One two three four."),
    )
    for _ in columns_of(given):
        pass
    assert len(given.answer.columns) > 5
    assert alone(talker) == told(given)


def test_what_is_asked(tmp_path: Any) -> None:
    backbone = Scripted(slowly("Yes."))
    talker = served_talker(backbone, grid={"codec_streams": 3, "codebook_size": 12, "system": "Be brief."})
    session = Session(talker)
    for question in ("First?", "Second?"):
        list(session.ask(text=question, options=DecodeOptions(max_columns=9, seed=3)))
    assert backbone.asked[0] == TextRequest(
        messages=({"role": "system", "content": "Be brief."}, {"role": "user", "content": "First?"}),
        max_tokens=9,
        seed=3,
    )
    said = [(message["role"], message["content"]) for message in backbone.asked[1].messages]
    assert said[1:] == [("user", "First?"), ("assistant", "Yes."), ("user", "Second?")]


def test_sound_comes_while_the_text_is_still_being_written() -> None:
    more = threading.Event()

    def script(_: TextRequest, stream: TextStream) -> None:
        stream.put("one two three four five six ")
        assert more.wait(10)
        stream.put("seven.")
        stream.end()

    events = Session(served_talker(Scripted(script))).ask(text="count", options=SHORT)
    heard = []
    for event in events:
        heard.append(event)
        if isinstance(event, AudioDelta):
            more.set()
    first = next(i for i, event in enumerate(heard) if isinstance(event, AudioDelta))
    text = [event.text for event in heard[first:] if isinstance(event, TextDelta)]
    assert "seven." in "".join(text)
    assert isinstance(heard[-1], AnswerDone)
    assert heard[-1].text == "one two three four five six seven."


def test_waiting_takes_no_processor_time() -> None:
    def script(_: TextRequest, stream: TextStream) -> None:
        time.sleep(0.6)
        stream.put("Yes.")
        stream.end()

    talker = served_talker(Scripted(script))
    before, began = time.thread_time(), time.perf_counter()
    generation = generation_of(talker, task="T1T2")
    list(columns_of(generation))
    assert time.perf_counter() - began >= 0.6
    assert time.thread_time() - before < 0.3


@pytest.mark.parametrize("task", ["T1A2", "T1T2"])
def test_many_at_once_are_what_each_is_alone(task: str) -> None:
    def script(request: TextRequest, stream: TextStream) -> None:
        number = int(request.messages[-1]["content"])
        for word in range(4 + number):
            time.sleep(0.003 * (1 + (number + word) % 3))
            stream.put(f" word{word} of{number}")
        stream.end()

    talker = served_talker(Scripted(script))
    together = [generation_of(talker, str(number), task, max_columns=30) for number in range(5)]
    assert sorted(run_all(talker.model, together, at_once=3)) == [0, 1, 2, 3, 4]
    for number, generation in enumerate(together):
        by_itself = generation_of(talker, str(number), task, max_columns=30)
        for _ in columns_of(by_itself):
            pass
        assert told(generation) == told(by_itself)


def test_one_that_waits_holds_nobody_up() -> None:
    """Its row leaves the batch, and comes back when text has come."""
    more = threading.Event()

    def script(request: TextRequest, stream: TextStream) -> None:
        stream.put("one two three ")
        if request.messages[-1]["content"] == "slow":
            assert more.wait(10)
        stream.put("four five.")
        stream.end()

    talker = served_talker(Scripted(script))
    runner = Runner(talker.model)
    slots = [Slot(generation_of(talker, question)) for question in ("slow", "quick")]
    runner.add_all(slots)
    deadline = time.monotonic() + 10
    while not slots[1].is_done:
        assert time.monotonic() < deadline
        runner.wait()
        runner.step()
    assert not slots[0].is_done
    assert slots[0].generation.is_waiting
    assert runner.is_waiting
    more.set()
    while runner.slots:
        runner.wait()
        runner.step()
    assert runner._adapter.owners == []
    assert runner._adapter._parked == {}
    assert told(slots[0].generation)[1] == told(slots[1].generation)[1] == alone(talker)[1]


def test_an_answer_that_is_abandoned_cancels_its_request() -> None:
    def script(_: TextRequest, stream: TextStream) -> None:
        stream.put("one two three four five six ")  # and never ends

    backbone = Scripted(script)
    session = Session(served_talker(backbone))
    events = session.ask(text="hi", options=SHORT)
    next(events)
    assert backbone.cancelled == 0
    events.close()
    assert backbone.cancelled == 1
    assert session._turns == []


def test_an_endless_answer_is_cut_at_its_longest() -> None:
    def script(_: TextRequest, stream: TextStream) -> None:
        for number in range(10_000):
            stream.put(f"{number} ")

    backbone = Scripted(script)
    *_, done = Session(served_talker(backbone)).ask(text="count", options=DecodeOptions(max_columns=12))
    assert isinstance(done, AnswerDone)
    assert (done.finish_reason, done.num_columns, backbone.cancelled) == ("length", 12, 1)


def test_what_the_model_was_not_allowed_to_say_is_told() -> None:
    *_, done = Session(served_talker(Scripted(slowly("It was a ", was_cut=True)))).ask(text="tell me", options=SHORT)
    assert isinstance(done, AnswerDone)
    assert done.finish_reason == "length"


LOST = ServedError("the connection was lost", "try again")


def test_what_came_before_a_failure_is_said_and_the_conversation_goes_on() -> None:
    backbone = Scripted(slowly("It is ni", error=LOST))
    session = Session(served_talker(backbone))
    events: list[Any] = []
    asking = session.ask(text="What time is it?", options=SHORT)
    with pytest.raises(ServedError, match="lost"):
        events += iter(lambda: next(asking), None)
    assert "".join(event.text for event in events if isinstance(event, TextDelta)) == "It is ni"
    assert any(isinstance(event, AudioDelta) for event in events)
    backbone.script = slowly("Nine.")
    *_, done = session.ask(text="Again?", options=SHORT)
    assert isinstance(done, AnswerDone)
    assert done.text == "Nine."
    assert [m["content"] for m in backbone.asked[-1].messages] == ["What time is it?", "It is ni", "Again?"]


@pytest.mark.parametrize("task", ["T1A2", "T1T2"])
def test_a_failure_before_the_first_word_leaves_no_turn(task: str) -> None:
    backbone = Scripted(slowly(error=LOST))
    session = Session(served_talker(backbone))
    with pytest.raises(ServedError, match="lost"):
        list(session.ask(text="What time is it?", task=task, options=SHORT))
    assert session._turns == []


def test_reading_aloud_asks_nobody() -> None:
    backbone = Scripted(slowly("never"))
    *_, done = Session(served_talker(backbone)).ask(text="Good morning.", task="T1A1", options=SHORT)
    assert isinstance(done, AnswerDone)
    assert (done.text, backbone.asked) == ("Good morning.", [])
    assert done.audio_s > 0


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"adapter": "none"}, "needs the language model itself"),
        ({"adapter": "blocks"}, "a voice that reads text alone"),
        ({"encoder": {"name": "tiny"}, "input_adapter": {"name": "stack"}}, "ears that write"),
        ({"grid": {"codec_streams": 3, "codebook_size": 12, "prompt": "raw"}}, "chat"),
    ],
)
def test_parts_that_need_the_models_inside_are_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        served_talker(Scripted(slowly()), **changes)


@pytest.mark.parametrize("arithmetic", ["packed", "int8"])
def test_its_voice_can_be_made_faster(arithmetic: str) -> None:
    talker = make_talker_ready(served_talker(Scripted(slowly("One two three."))), arithmetic)
    *_, done = Session(talker).ask(text="count", options=SHORT)
    assert isinstance(done, AnswerDone)
    assert done.text == "One two three."
    assert done.audio_s > 0


def test_many_typed_questions_at_once() -> None:
    under_way, most = 0, 0

    def script(request: TextRequest, stream: TextStream) -> None:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        time.sleep(0.02)
        under_way -= 1
        asked = request.messages[-1]["content"]
        stream.put(f"{asked}? ")
        stream.end(LOST if asked == "bad" else None)

    talker = served_talker(Scripted(script))
    assert greedy_answers(talker, ["a", "b", "c"], batch_size=2) == ["a?", "b?", "c?"]
    assert most <= 2
    with pytest.raises(ServedError, match="lost"):
        greedy_answers(talker, ["a", "bad"])


def test_its_inside_is_refused_with_a_sentence() -> None:
    backbone = Scripted(slowly())
    for ask in (lambda: backbone(torch.zeros(1, 1, 1)), lambda: backbone.text_logits(torch.zeros(1, 1, 1))):
        with pytest.raises(ConfigError, match="served elsewhere"):
            ask()
