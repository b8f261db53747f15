"""The column loop on tiny parts: what it feeds, what it says, and where it ends."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from talkers import (
    CODES,
    STREAMS,
    base_text,
    columns_from,
    end_audio_after,
    end_text_after,
    generation_of,
    make_talker,
    randomise,
    spoken,
)
from torch import Tensor

from anytalk.decode.answer import Answer
from anytalk.decode.runner import columns_of
from anytalk.decode.sampling import SamplingOptions
from anytalk.errors import ConfigError
from anytalk.grid.delay import PATTERNS, DelayPattern

SAMPLED = SamplingOptions(temperature=1.0)


# Text


def test_text_is_the_base_models_when_decoded_in_its_own_row() -> None:
    talker = make_talker()
    expected = base_text(talker, "hi", 12)
    for task in ("T1T2", "T1A2"):
        generation = generation_of(talker, task)
        list(columns_of(generation))
        assert generation.answer.text_ids == expected
    single = generation_of(talker, batch_parallel=False)
    list(columns_of(single))
    assert single.answer.text_ids != expected, "speaking in the same row should have moved this model's text"


@pytest.mark.parametrize("text_lead", [0, "all"])
def test_given_text_is_spoken_and_nothing_else(text_lead: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    talker = make_talker(text_lead=text_lead)

    def never(normed: Tensor) -> Tensor:
        raise AssertionError("text was sampled")

    monkeypatch.setattr(talker.model, "text_logits", never)
    end_audio_after(talker, 9, monkeypatch)
    generation = generation_of(talker, "T1A1", given_text=[104, 105], max_columns=40)
    columns = list(columns_of(generation))
    assert generation.answer.text_ids == [104, 105]
    assert [column.text for column in columns][:4] == [104, 105, talker.model.layout.end_of_text_id, None]
    assert generation.answer.finish_reason == "stop"


def test_text_may_not_be_a_special_token(monkeypatch: pytest.MonkeyPatch) -> None:
    talker = make_talker(end_of_text="eot", prompt="raw")
    layout, text_logits = talker.model.layout, talker.model.text_logits

    def tempted(normed: Tensor) -> Tensor:
        logits = text_logits(normed)
        logits[..., layout.pad_t] = 1e4
        logits[..., layout.asr] = 1e4
        return logits

    monkeypatch.setattr(talker.model, "text_logits", tempted)
    generation = generation_of(talker, "T1T2")
    list(columns_of(generation))
    assert max(generation.answer.text_ids) < layout.text_vocab_size
    original = generation_of(talker, "T1T2", rule="original")
    list(columns_of(original))
    assert set(original.answer.text_ids) == {layout.pad_t}


# Ends


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("text_lead", [0, 2, "all"])
@pytest.mark.parametrize("two_rows", [True, False])
def test_an_answer_ends_at_the_foot_of_the_staircase(
    pattern: str, text_lead: Any, two_rows: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    talker = make_talker(pattern=pattern, text_lead=text_lead)
    end_text_after(talker, 6, monkeypatch)
    end_audio_after(talker, 10, monkeypatch)
    generation = generation_of(talker, max_columns=60, batch_parallel=two_rows)
    columns, answer = list(columns_of(generation)), generation.answer
    assert answer.finish_reason == "stop"
    assert len(answer.text_ids) == 6
    assert [column.index for column in columns] == list(range(len(columns)))
    assert answer.num_frames is not None
    assert answer.num_frames > 0
    assert answer.frames_ready == answer.num_frames
    rows, _ = answer.pattern.apply(answer.codes(), talker.model.layout, num_text=6)
    assert np.array_equal(spoken(columns), rows)


def test_sound_goes_on_until_the_text_has_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    talker = make_talker()
    end_text_after(talker, 8, monkeypatch)
    end_audio_after(talker, 0, monkeypatch)
    generation = generation_of(talker, max_columns=40)
    columns = list(columns_of(generation))
    # The end of the text stands in column 8; the first stream may end in column 9, at frame 8.
    assert generation.answer.num_frames == 8
    assert spoken(columns)[0, 9] == talker.model.layout.eoa


def test_text_goes_on_when_sound_can_not(monkeypatch: pytest.MonkeyPatch) -> None:
    talker = make_talker()
    end_text_after(talker, 3, monkeypatch)
    end_audio_after(talker, 0, monkeypatch)
    generation = generation_of(talker)
    list(columns_of(generation))
    assert len(generation.answer.text_ids) == 3
    assert generation.answer.finish_reason == "stop"


@pytest.mark.parametrize("rule", ["staircase", "original"])
@pytest.mark.parametrize("task", ["T1A2", "T1T2"])
def test_the_budget_is_kept(rule: str, task: str, monkeypatch: pytest.MonkeyPatch) -> None:
    talker = make_talker()
    end_text_after(talker, 99, monkeypatch)
    end_audio_after(talker, 99, monkeypatch, stream=STREAMS - 1)
    generation = generation_of(talker, task, rule=rule, max_columns=9)
    columns = list(columns_of(generation))
    assert (len(columns), generation.answer.finish_reason) == (9, "length")
    if task == "T1A2":
        # Nine columns, of which the last stream's first three are pads.
        assert generation.answer.frames_ready == 6
        assert generation.answer.codes().shape == (STREAMS, 6)
        assert generation.answer.codes(4).shape == (STREAMS, 2)
    else:
        assert generation.answer.frames_ready == 0


def test_the_original_ends_with_the_last_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    talker = make_talker()
    # It may be said in any stream and in the very first column without ending anything.
    end_audio_after(talker, 0, monkeypatch, stream=0)
    original, made = talker.model.audio_logits, 0

    def ends(hidden: Tensor) -> Tensor:
        nonlocal made
        logits = original(hidden)
        logits[:, -1, :, talker.model.layout.eoa] = 1e4 if made in (0, 8) else -1e4
        made += 1
        return logits

    monkeypatch.setattr(talker.model, "audio_logits", ends)
    end_text_after(talker, 2, monkeypatch)
    generation = generation_of(talker, rule="original", max_columns=40)
    columns = list(columns_of(generation))
    # Column 8 is dropped; the last stream's codes stand in columns 3 to 7.
    assert len(columns) == 8
    assert (generation.answer.num_frames, generation.answer.finish_reason) == (5, "stop")
    assert (spoken(columns)[0] == talker.model.layout.eoa).all()
    # Ids that are no codes never reach a codec.
    assert (generation.answer.codes()[0] == 0).all()


def test_the_original_does_not_end_in_the_first_column(monkeypatch: pytest.MonkeyPatch) -> None:
    talker = make_talker(end_of_text="eot")
    end = talker.model.layout.eot
    end_text_after(talker, 0, monkeypatch)
    generation = generation_of(talker, "T1T2", rule="original")
    assert [column.text for column in columns_of(generation)] == [end]
    assert generation.answer.finish_reason == "stop"
    again = generation_of(talker, "T1T2", rule="staircase")
    assert [column.text for column in columns_of(again)] == [end]
    assert again.answer.text_ids == []


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("rule", ["staircase", "original"])
@pytest.mark.parametrize("text_lead", [0, 2, "all"])
def test_no_sequence_of_tokens_breaks_anything(
    pattern: str, rule: str, text_lead: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    talker = make_talker(pattern=pattern, text_lead=text_lead, end_of_text="eot", prompt="raw")
    reasons = set()
    for seed in range(12):
        with monkeypatch.context() as patch:
            randomise(talker, seed, patch)
            options: dict[str, Any] = {"text": SAMPLED, "audio": SAMPLED, "seed": seed, "max_columns": 25}
            generation = generation_of(talker, rule=rule, batch_parallel=seed % 2 == 0, **options)
            emitted = 0
            pieces = []
            for _ in columns_of(generation):
                ready = generation.answer.frames_ready
                assert ready >= emitted
                pieces.append(generation.answer.codes(emitted, ready))
                emitted = ready
            answer = generation.answer
            reasons.add(answer.finish_reason)
            pieces.append(answer.codes(emitted, answer.frames_ready))
            codes = answer.codes()
            assert codes.shape == (STREAMS, answer.frames_ready)
            assert ((codes >= 0) & (codes < CODES)).all()
            assert np.array_equal(np.concatenate(pieces, axis=1), codes)
            wave = talker.codec.decode(torch.from_numpy(codes)[None])
            assert wave.shape == (1, answer.frames_ready * talker.codec.samples_per_frame)
    assert "stop" in reasons


def test_an_id_that_is_no_code_is_replaced_by_the_one_before() -> None:
    pattern = DelayPattern("parallel", 2, 10)
    answer = Answer(pattern, columns=[np.array(c) for c in ([0, 0], [10, 3], [4, 13], [11, 5], [12, 6])])
    assert answer.codes().tolist() == [[0, 4, 4, 4], [3, 3, 5, 6]]
    assert answer.codes(1, 3).tolist() == [[4, 4], [3, 5]]
    assert answer.codes(2, 2).shape == (2, 0)


# Sampling


def test_a_seed_repeats_an_answer_and_another_one_does_not() -> None:
    talker = make_talker()

    def answer(seed: int) -> list[list[int]]:
        rows: list[list[int]] = spoken(list(columns_from(talker, text=SAMPLED, audio=SAMPLED, seed=seed))).tolist()
        return rows

    assert answer(1) == answer(1)
    assert answer(1) != answer(2)


def test_each_stream_may_be_sampled_in_its_own_way(monkeypatch: pytest.MonkeyPatch) -> None:
    talker = make_talker()
    end_text_after(talker, 99, monkeypatch)
    greedy = spoken(list(columns_from(talker)))
    hot = SamplingOptions(temperature=50.0)
    first_greedy = (SamplingOptions(), hot, hot)
    mixed = spoken(list(columns_from(talker, audio=first_greedy, seed=0)))
    # Until the first hot token is fed back, the greedy stream says the same; columns 1 and 2 of stream 0.
    assert mixed[0, :3].tolist() == greedy[0, :3].tolist()
    assert not np.array_equal(mixed, greedy)


def test_the_repetition_window_reaches_as_far_as_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    talker = make_talker(pattern="parallel")
    preference = torch.linspace(5.0, 4.0, CODES)

    def fixed(hidden: Tensor) -> Tensor:
        logits = torch.full((1, STREAMS, hidden.shape[1], talker.model.layout.stream_vocab_size), 0.1)
        logits[..., :CODES] = preference
        return logits

    monkeypatch.setattr(talker.model, "audio_logits", fixed)
    penalised = SamplingOptions(repetition_penalty=10.0, repetition_window=200)
    codes = spoken(list(columns_from(talker, audio=penalised, max_columns=80)))[0, 1:]
    # Each code once in the order of preference; all being penalised alike then, the best one for ever.
    assert codes.tolist() == [*range(CODES), *[0] * (79 - CODES)]


def test_options_that_do_not_fit() -> None:
    talker = make_talker()
    with pytest.raises(ConfigError, match="unknown decode rule 'stairs'"):
        generation_of(talker, rule="stairs")
    with pytest.raises(ConfigError, match="2 sampling options for 3 audio streams"):
        generation_of(talker, audio=(SAMPLED, SAMPLED))


# Voices and small dtypes


def test_a_voice_changes_the_sound_and_not_the_text() -> None:
    talker = make_talker(speakers=("anna", "bob"))
    assert talker.model.speaker is not None
    torch.nn.init.normal_(talker.model.speaker.weight, std=3.0)
    answers = []
    for speaker in (0, 1, None):
        generation = generation_of(talker, speaker=speaker)
        answers.append((spoken(list(columns_of(generation))).tolist(), generation.answer.text_ids))
    sounds, texts = zip(*answers, strict=True)
    assert sounds[0] != sounds[1] != sounds[2] != sounds[0]
    assert texts[0] == texts[1] == texts[2] == base_text(talker, "hi", 12)


@pytest.mark.parametrize("end_of_text", ["eos", "eot"])
@pytest.mark.parametrize("adapter", ["blocks", "none"])
def test_a_small_dtype_speaks_too(adapter: str, end_of_text: str) -> None:
    talker = make_talker(adapter=adapter, dtype="bfloat16", end_of_text=end_of_text, speakers=("anna",))
    columns = list(columns_from(talker, "A1A2", max_columns=8, speaker=0))
    assert spoken(columns).shape == (STREAMS, 8)
