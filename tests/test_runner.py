"""Many answers in one batch: each is what it would have been alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from talkers import end_audio_after, end_text_after, hf_talker, make_talker, with_plain_caches

from anytalk.decode.engine import DecodeOptions, Generation
from anytalk.decode.entering import Slot
from anytalk.decode.jobs import Job, Question, Said, Speech, front_of
from anytalk.decode.memory import Memory
from anytalk.decode.ready import make_talker_ready
from anytalk.decode.runner import Runner, columns_of, run_all
from anytalk.decode.session import Session
from anytalk.decode.telling import AudioDelta
from anytalk.grid.prompts import Turn
from anytalk.grid.tasks import TASKS
from anytalk.model.talker import Talker
from anytalk.plugins.contracts import JoinableCache
from anytalk.serve.ready import arithmetic_for_many


def question(
    talker: Talker, number: int, task: str, *, given: bool = False, speaker: int | None = None, columns: int = 0
) -> Generation:
    """One of several questions of unequal length."""
    spoken, audio_out = TASKS[task].speech_in, TASKS[task].audio_out
    turns = [Turn("user", None if spoken else "why? " * (number + 1), speech_columns=2 + number if spoken else 0)]
    prompt = talker.prompts.prompt(TASKS[task], turns)
    two = audio_out and not given and talker.model.route.num_rows == 2
    generator = torch.Generator().manual_seed(number)
    speech = [torch.randn(n, talker.model.backbone.width, generator=generator) for _, n in prompt.speech_spans]
    return Generation(
        talker.model,
        talker.config.grid.delay_pattern(),
        DecodeOptions(max_columns=columns or 9 + 2 * number),
        [prompt, talker.prompts.text_only_row(prompt)] if two else [prompt],
        speech,
        audio_out=audio_out,
        given_text=talker.model.backbone.tokenizer.encode("aloud") if given else None,
        speaker=speaker,
    )


def told(generation: Generation) -> tuple[list[int], list[list[int]], str | None]:
    answer = generation.answer
    return answer.text_ids, [c.tolist() for c in answer.columns], answer.finish_reason


MIX = [
    ("T1A2", False),
    ("A1T1", True),
    ("A1A2", False),
    ("T1T2", False),
    ("A1T2", False),
    ("T1A1", True),
    ("T1A2", False),
]


def run_alone(talker: Talker, mix: list[tuple[str, bool]], speaker: int | None = None) -> list[Any]:
    found = []
    for number, (task, given) in enumerate(mix):
        generation = question(talker, number, task, given=given, speaker=speaker)
        for _ in columns_of(generation):
            pass
        found.append(told(generation))
    return found


def run_together(talker: Talker, mix: list[tuple[str, bool]], joins: int, speaker: int | None = None) -> list[Any]:
    """All in one batch, a new one every `joins` steps."""
    batch = Runner(talker.model)
    slots = [Slot(question(talker, i, task, given=given, speaker=speaker)) for i, (task, given) in enumerate(mix)]
    for slot in slots:
        batch.add(slot)
        for _ in range(joins):
            batch.step()
    while batch.slots:
        batch.step()
    assert batch._backbone.owners == []
    assert batch._adapter.owners == []
    return [told(slot.generation) for slot in slots]


@pytest.mark.parametrize("joins", [0, 2])
@pytest.mark.parametrize("adapter", ["talker", "blocks", "none"])
def test_each_answer_is_the_one_it_would_be_alone(adapter: str, joins: int, tmp_path: Path) -> None:
    talker = hf_talker(tmp_path, adapter)
    assert isinstance(talker.model.backbone.new_cache(1, 8), JoinableCache)
    assert run_together(talker, MIX, joins) == run_alone(talker, MIX)


@pytest.mark.parametrize("joins", [0, 3])
@pytest.mark.parametrize("adapter", ["blocks", "none"])
def test_parts_whose_caches_do_not_join_are_run_one_by_one(adapter: str, joins: int) -> None:
    talker = with_plain_caches(make_talker(adapter=adapter))
    assert not isinstance(talker.model.backbone.new_cache(1, 8), JoinableCache)
    assert run_together(talker, MIX, joins) == run_alone(talker, MIX)


def test_voices_stay_with_their_answers(tmp_path: Path) -> None:
    talker = hf_talker(tmp_path, "blocks", speakers=("anna", "bob"))
    assert run_together(talker, MIX, 1, speaker=1) == run_alone(talker, MIX, speaker=1)


def test_the_backbone_is_run_once_for_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    talker = hf_talker(tmp_path, "none")
    batch, rows = Runner(talker.model), []
    for number in range(4):
        batch.add(Slot(question(talker, number, "T1T2", columns=12)))
    forward = talker.model.backbone.forward
    monkeypatch.setattr(talker.model.backbone, "forward", lambda x, cache: (rows.append(len(x)), forward(x, cache))[1])
    batch.step()
    assert rows == [4]


def test_answers_that_come_together_begin_to_speak_in_one_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    talker = hf_talker(tmp_path, "talker")
    runner, rows, adapter = Runner(talker.model), [], talker.model.output_adapter
    forward = adapter.forward
    monkeypatch.setattr(adapter, "forward", lambda audio, *rest: (rows.append(len(audio)), forward(audio, *rest))[1])
    given = [{"task": "T1A1", "given": True}, {"task": "T1A2"}] * 4
    slots = [Slot(question(talker, number, **what)) for number, what in enumerate(given)]
    runner.add_all(slots)
    assert rows == [8]
    while runner.step():
        pass
    alone = run_alone(talker, [("T1A1", True), ("T1A2", False)] * 4)
    assert [told(slot.generation) for slot in slots] == alone


def test_an_answer_that_is_taken_out_does_not_change_the_others(tmp_path: Path) -> None:
    talker = hf_talker(tmp_path, "talker")
    batch = Runner(talker.model)
    slots = [Slot(question(talker, i, "A1A2")) for i in range(4)]
    for slot in slots:
        batch.add(slot)
    batch.step()
    batch.remove(slots[0])
    batch.remove(slots[2])
    while batch.slots:
        batch.step()
    alone = run_alone(talker, [("A1A2", False)] * 4)
    assert [told(slots[i].generation) for i in (1, 3)] == [alone[1], alone[3]]


@pytest.mark.parametrize("arithmetic", ["exact", "fused", "packed"])
@pytest.mark.parametrize("adapter", ["talker", "blocks", "none"])
def test_prompts_that_are_read_together(adapter: str, arithmetic: str, tmp_path: Path) -> None:
    """In one call of the backbone for all, once what they begin with is known; and each answer is as if alone."""
    talker = hf_talker(tmp_path, adapter, system="You are a voice assistant.")
    make_talker_ready(talker, arithmetic)
    alone = run_alone(talker, MIX)
    batch, calls = Runner(talker.model), []
    batch.warm_up(front_of(talker))
    forward = talker.model.backbone.forward
    talker.model.backbone.forward = lambda x, cache: (calls.append(len(x)), forward(x, cache))[1]
    for _ in range(2):
        slots = [Slot(question(talker, i, task, given=given)) for i, (task, given) in enumerate(MIX)]
        calls.clear()
        batch.add_all(slots)
        assert len(calls) <= 3, "prompts that begin alike, prompts that don't, and what must be read alone"
        while batch.slots:
            batch.step()
        assert [told(slot.generation) for slot in slots] == alone
    assert batch._backbone.owners == []
    assert batch._adapter.owners == []


def test_servers_choose_their_arithmetic(tmp_path: Path) -> None:
    talker, plain = hf_talker(tmp_path, "none"), make_talker()
    assert arithmetic_for_many(talker) == "packed"
    assert arithmetic_for_many(plain) == "exact", "its backbone doesn't know how"
    assert arithmetic_for_many(plain, "fused") == "fused"
    assert arithmetic_for_many(talker, "exact") == "exact"
    talker.config = talker.config.model_copy(update={"arithmetic": "int8"})
    assert arithmetic_for_many(talker) == "int8", "it says so"


def test_questions_that_are_listened_to_together(tmp_path: Path) -> None:
    talker, rng = hf_talker(tmp_path, "none"), np.random.default_rng(0)
    waves = [rng.normal(0, 0.1, length).astype(np.float32) for length in (9_000, 16_000, 5_000)]
    alone = [Speech(wave).heard(talker).columns for wave in waves]
    asked = [Speech(wave) for wave in waves]
    calls, encoder = [], talker.model.encoder
    assert encoder is not None
    encoder.register_forward_hook(lambda _module, args, _found: calls.append(len(args[0])))
    Speech.hear_all(talker, [*asked, asked[0]])
    assert calls == [3], "all in one call, and nobody twice"
    for speech, wanted in zip(asked, alone, strict=True):
        assert speech.was_heard
        torch.testing.assert_close(speech.heard(talker).columns, wanted)
    assert calls == [3]


def test_what_fails_on_its_way_in_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    talker = hf_talker(tmp_path, "talker")
    batch = Runner(talker.model)
    slots = [Slot(question(talker, number, "T1A2")) for number in range(2)]
    with monkeypatch.context() as broken:
        broken.setattr(talker.model, "text_logits", lambda _: 1 / 0)
        batch.add_all(slots)
    assert [type(slot.error) for slot in slots] == [ZeroDivisionError] * 2
    assert batch._backbone.owners == batch._adapter.owners == batch.slots == []
    assert run_together(talker, MIX, 0) == run_alone(talker, MIX)


# What is remembered from turn to turn


def converse(
    talker: Talker, memory: Memory | None, turns: list[Turn], task: str = "T1A2", batch: Runner | None = None
) -> tuple[Slot, tuple[list[int], list[list[int]], str | None]]:
    prompt = talker.prompts.prompt(TASKS[task], turns)
    two = TASKS[task].audio_out and talker.model.route.num_rows == 2
    prompts = [prompt, talker.prompts.text_only_row(prompt)] if two else [prompt]
    generation = Generation(
        talker.model,
        talker.config.grid.delay_pattern(),
        DecodeOptions(max_columns=10),
        prompts,
        [],
        audio_out=TASKS[task].audio_out,
    )
    batch, slot = batch or Runner(talker.model), Slot(generation, memory)
    batch.add(slot)
    while batch.slots:
        batch.step()
    return slot, told(generation)


@pytest.mark.parametrize("adapter", ["talker", "blocks", "none"])
def test_a_turn_reads_only_what_is_new(adapter: str, tmp_path: Path) -> None:
    talker, memory = hf_talker(tmp_path, adapter), Memory()
    decode = talker.model.backbone.tokenizer.decode
    turns = [Turn("user", "one one one")]
    slot, first = converse(talker, memory, turns)
    assert slot.cached_columns == 0
    begun = slot.generation.prompts[0].num_columns
    turns += [Turn("assistant", decode(first[0])), Turn("user", "two")]
    slot, second = converse(talker, memory, turns)
    assert begun - 1 <= slot.cached_columns < slot.generation.prompts[0].num_columns
    assert second == converse(talker, None, turns)[1]
    # What is taken back is no longer known: the caches are cropped to what was heard.
    shorter = [turns[0], Turn("assistant", decode(first[0])[:1]), Turn("user", "three")]
    slot, third = converse(talker, memory, shorter)
    assert slot.cached_columns >= begun - 1
    assert third == converse(talker, None, shorter)[1]
    other = [Turn("system", "Be brief."), Turn("user", "anew")]
    assert converse(talker, memory, other)[1] == converse(talker, None, other)[1]


@pytest.mark.parametrize("adapter", ["talker", "blocks", "none"])
def test_conversations_share_what_they_begin_with(adapter: str, tmp_path: Path) -> None:
    talker = hf_talker(tmp_path, adapter, system="You are a voice assistant.")
    batch = Runner(talker.model)
    batch.warm_up(front_of(talker))
    assert not batch.slots
    cached = []
    for turns in ([Turn("user", "one two")], [Turn("user", "one three")], [Turn("system", "B"), Turn("user", "one")]):
        slot, found = converse(talker, Memory(), turns, batch=batch)
        assert found == converse(talker, None, turns)[1]
        cached.append(slot.cached_columns)
    assert cached[0] == cached[1] > 20, "the second one must not gain by the words of the first one"
    assert 0 < cached[2] < cached[1]


def test_nothing_is_remembered_of_what_is_over(tmp_path: Path) -> None:
    talker, memory = hf_talker(tmp_path, "talker"), Memory()
    turns = [Turn("user", "one one one")]
    wanted = converse(talker, memory, turns)[1]
    assert memory.cache is not None
    memory.close()
    assert memory.cache is None
    assert converse(talker, memory, turns)[1] == wanted
    assert memory.cache is None, "an answer that ends behind the conversation is not kept either"


def test_speech_is_told_apart_by_its_number(tmp_path: Path) -> None:
    from anytalk.decode.memory import column_keys

    talker = hf_talker(tmp_path, "none")
    prompt = talker.prompts.prompt(TASKS["A1T2"], [Turn("user", speech_columns=3)])
    one, same, two = (column_keys(prompt, [n], slice(None)) for n in (1, 1, 2))
    assert np.array_equal(one, same)
    assert (one != two).any(axis=0).sum() == 3


# What one answer alone and many served ones have in common


def test_both_rows_read_what_they_share_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    talker, shapes = hf_talker(tmp_path, "blocks"), []
    alone = run_alone(talker, [("T1A2", False)] * 3)
    forward = talker.model.backbone.forward
    monkeypatch.setattr(
        talker.model.backbone, "forward", lambda x, cache: (shapes.append(tuple(x.shape[:2])), forward(x, cache))[1]
    )
    generations = [question(talker, number, "T1A2") for number in range(3)]
    runner, slots = Runner(talker.model), [Slot(generation) for generation in generations]
    runner.add_all(slots)
    longest = max(generation.prompts[0].num_columns for generation in generations)
    assert shapes == [(3, longest - 1), (6, 1)], "what they share in one row each, then the last column in two"
    while runner.slots:
        runner.step()
    assert [told(slot.generation) for slot in slots] == alone


def test_the_first_sound_never_waits_for_a_longer_piece(tmp_path: Path) -> None:
    """Neither in a session nor where it is served: the same pieces come after the same columns."""
    talker = hf_talker(tmp_path, "talker")
    options = DecodeOptions(max_columns=24)
    said = [
        len(event.wave)
        for event in Session(talker, stride_frames=4).ask(text="why?", options=options)
        if isinstance(event, AudioDelta)
    ]
    pieces: list[int] = []
    job = Job(
        Question(turns=[Said("user", "why?")], task=TASKS["T1A2"], options=options),
        lambda event: pieces.append(len(event.wave)) if isinstance(event, AudioDelta) else None,
    )
    runner = Runner(talker.model)
    job.prepare(talker, stride_frames=4)
    assert job.slot is not None
    runner.add(job.slot)
    while True:
        job.write()
        if job.has_sound:
            stream, codes = job.take_codes()
            job.speak(stream.push(codes))
        if job.is_done:
            break
        runner.step()
    frame = talker.codec.samples_per_frame
    assert pieces == said
    assert pieces[:2] == [frame, 4 * frame]


def test_text_is_decoded_only_where_it_is_new(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    talker, calls = make_talker(), []
    end_text_after(talker, 3, monkeypatch)
    end_audio_after(talker, 10_000, monkeypatch)
    tokenizer = talker.model.backbone.tokenizer
    decode = tokenizer.decode
    monkeypatch.setattr(tokenizer, "decode", lambda ids: calls.append(len(ids)) or decode(ids))
    job = Job(
        Question(turns=[Said("user", "hi")], task=TASKS["T1A2"], options=DecodeOptions(max_columns=20)), lambda _: None
    )
    runner = Runner(talker.model)
    job.prepare(talker, 1)
    assert job.slot is not None
    runner.add(job.slot)
    while not job.is_done:
        job.write()
        runner.step()
    assert calls == [1, 2, 3]


def test_many_answers_run_to_their_ends(tmp_path: Path) -> None:
    talker = hf_talker(tmp_path, "talker")
    generations = [question(talker, i, task, given=given) for i, (task, given) in enumerate(MIX)]
    assert sorted(run_all(talker.model, generations, at_once=3)) == list(range(len(MIX)))
    assert [told(generation) for generation in generations] == run_alone(talker, MIX)
