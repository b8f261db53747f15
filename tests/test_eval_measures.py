"""Measures on scripted answers: figures counted by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from eval_parts import RATE_HZ, Tape, lab_of, questions, reply, script, suite_of

from anytalk.errors import AnytalkError
from anytalk.evaluate import text_measures
from anytalk.evaluate.lab import Lab, Reply
from anytalk.evaluate.provenance import models
from anytalk.evaluate.results import Result
from anytalk.evaluate.run import run_measure
from anytalk.grid.audio import write_wave
from anytalk.grid.prompts import Prompt
from anytalk.model.talker import Talker

CAPITALS = [
    {"question_text": "Italy?", "answer_text": "Rome"},
    {"question_text": "Spain?", "answer_text": "Madrid"},
    {"question_text": "Japan?", "answer_text": "Tokyo | Tokio"},
    {"question_text": "Why?"},
]
HEARD = ["italy", "", "Kuba?"]
"""What a cascade hears of three questions."""


def run(lab: Lab) -> Result:
    result = run_measure(lab, lab.suite.measures[0])
    assert result.status == "ok", result.reason
    return result


def values(result: Result) -> dict[str, float]:
    return {name: figure.value for name, figure in result.figures.items()}


def test_asr_counts_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows: list[dict[str, Any]] = []
    for i, text in enumerate(["the cat sat", "he ran away fast", "no sound"]):
        if text != "no sound":
            write_wave(tmp_path / f"{i}.wav", np.full(4_000 + i, 0.2, np.float32), 16_000)
        rows.append({"question_text": text, **({"question_audio": f"{i}.wav"} if text != "no sound" else {})})
    write_wave(tmp_path / "mute.wav", np.zeros(5_000, np.float32), 16_000)
    rows.append({"question_text": "silence", "question_audio": "mute.wav"})
    monkeypatch.setattr(Tape, "heard", {4_000: "the cat sat", 4_001: "she ran"})
    measure = {"kind": "asr", "with_transcriber": True}
    lab = lab_of(suite_of(questions(tmp_path, rows), measure, synthesizer=None), tmp_path)
    asked = script(lab, {"4000": reply("the dog sat down"), "4001": reply("he ran fast")})
    result = run(lab)
    assert [task for task, _ in asked] == ["A1T1", "A1T1"]
    # cat -> dog and "down" added; "away" missing; 3 + 4 words. The tape: he -> she, "away fast" missing.
    assert values(result) == {
        "wer": 3 / 7, "substitutions": 1, "insertions": 1, "deletions": 1, "transcriber_wer": 3 / 7
    }  # fmt: skip
    assert result.transcriber == "a tape"
    assert result.skipped[0]["reason"] == "has no question_audio"
    assert "silent" in result.skipped[1]["reason"]
    assert [item["written"] for item in result.worst] == ["the dog sat down", "he ran fast"]


def test_asr_hears_the_synthesizer_where_there_is_no_sound(tmp_path: Path) -> None:
    lab = lab_of(suite_of(questions(tmp_path, CAPITALS[:1]), {"kind": "asr"}), tmp_path)
    script(lab, {str(2 * 300 * len("Italy?")): reply("italy")})  # 8 kHz -> 16 kHz
    assert values(run(lab))["wer"] == 0


def test_spoken_answers_are_judged_against_their_own_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measure = {"kind": "spoken_answers", "ask": ["text"], "keep_sound": True}
    lab = lab_of(suite_of(questions(tmp_path, CAPITALS), measure), tmp_path)
    monkeypatch.setattr(Tape, "heard", {RATE_HZ: "rome it is", 2 * RATE_HZ: "Madrid is big"})
    asked = script(
        lab,
        {
            "Italy?": reply("It is Rome.", RATE_HZ),
            "Spain?": reply("Madrid is big", 2 * RATE_HZ, peak=1.0),
            "Japan?": reply("Tokyo", 400, peak=0.0, truncated=True),
            "Why?": reply("Because", 0),
        },
    )
    result = run(lab)
    assert asked[0] == ("T1A2", "Italy?")
    found = values(result)
    # "it is rome" heard as "rome it is": one word added in front, one lost behind. Two silent answers lose a word each.
    assert found["wer"] == found["wer_asked_by_text"] == (2 + 0 + 1 + 1) / (3 + 3 + 1 + 1)
    assert (found["silent"], found["clipped"], found["truncated"]) == (2 / 4, 1 / 4, 1 / 4)
    assert found["words_per_minute"] == pytest.approx(6 / (3 / 60))
    assert "mos" not in found
    assert sorted(path.name for path in (tmp_path / "sound").iterdir()) == [
        f"spoken_answers-000{i}-text.wav" for i in (1, 2, 3)
    ]
    assert [item["heard"] for item in result.worst] == ["rome it is", "", ""]


def test_texts_are_read_aloud_and_judged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lab = lab_of(suite_of(questions(tmp_path, CAPITALS[:2]), {"kind": "reading"}), tmp_path)
    monkeypatch.setattr(Tape, "heard", {800: "italy", 801: "pain"})
    asked = script(lab, {"Italy?": reply("Italy?", 800), "Spain?": reply("Spain?", 801)})
    result = run(lab)
    assert asked == [("T1A1", "Italy?"), ("T1A1", "Spain?")]
    assert values(result)["wer"] == 1 / 2
    assert [item["heard"] for item in result.worst] == ["pain"]


def test_spoken_qa_finds_expected_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measure = {"kind": "spoken_qa", "ask": ["text"], "hear": True}
    lab = lab_of(suite_of(questions(tmp_path, CAPITALS), measure), tmp_path)
    monkeypatch.setattr(Tape, "heard", {800: "rum", 801: "Madrid", 802: "tokio"})
    script(
        lab,
        {"Italy?": reply("It is Rome.", 800), "Spain?": reply("Madrid.", 801), "Japan?": reply("Kyoto", 802)},
    )
    result = run(lab)
    assert values(result) == {"accuracy": 2 / 3, "text_exact": 1 / 3, "text_contains": 2 / 3, "text_heard": 2 / 3}
    assert result.skipped == [{"id": "questions.jsonl:4", "reason": "has no answer_text to expect"}]
    assert [item["question"] for item in result.worst] == ["Japan?"]


def test_accuracy_counts_what_match_says(tmp_path: Path) -> None:
    measure = {"kind": "spoken_qa", "ask": ["text"], "match": "exact", "limit": 2}
    lab = lab_of(suite_of(questions(tmp_path, CAPITALS), measure), tmp_path)
    asked = script(lab, {"Italy?": reply("It is Rome."), "Spain?": reply("Madrid.")})
    assert values(run(lab)) == {"accuracy": 0.5, "text_exact": 0.5, "text_contains": 1.0}
    assert [task for task, _ in asked] == ["T1T2", "T1T2"]


def test_questions_without_sound_are_read_aloud_by_the_voice_that_was_asked_for(tmp_path: Path) -> None:
    measure = {"kind": "spoken_qa", "ask": ["speech"], "limit": 1}
    suite = suite_of(questions(tmp_path, CAPITALS[1:]), measure, question_voice="high")
    lab = lab_of(suite, tmp_path)
    row = lab.rows(suite.measures[0], Result("a", "spoken_qa", "accuracy"), lambda row: None)[0]
    wave = lab.question_wave(row)
    assert len(wave) == 2 * 200 * len("Spain?")  # 8 kHz -> 16 kHz
    script(lab, {str(len(wave)): reply("madrid")})
    assert values(run(lab))["speech_exact"] == 1.0
    silent = lab_of(suite_of(tmp_path / "questions.jsonl", measure, synthesizer=None), tmp_path)
    failed = run_measure(silent, silent.suite.measures[0])
    assert failed.status == "failed"
    assert "names no synthesizer" in failed.reason


def test_the_same_question_typed_and_spoken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    suite = suite_of(questions(tmp_path, CAPITALS), {"kind": "modality_gap"})
    lab = lab_of(suite, tmp_path)
    # Typed and spoken by turns. Agreeing but for case and punctuation; right by text only; right by both in other
    # words; agreeing without anything that was expected.
    answers = iter(["It is Rome.", "it is rome", "Madrid", "Milan", "Tokyo", "It's Tokio", "Because", "because!"])
    encode = lab.talker.model.backbone.tokenizer.encode
    monkeypatch.setattr(text_measures, "write_answer", lambda *_: (encode(next(answers)), True))
    found = run(lab)
    assert values(found)["answer_agreement"] == 2 / 4
    assert (values(found)["accuracy_text"], values(found)["accuracy_speech"]) == (3 / 3, 2 / 3)
    assert (found.figures["expected_kept"].value, found.figures["expected_kept"].n) == (2 / 3, 3)


def test_spoken_questions_beside_what_a_cascade_hears(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{"question_text": question} for question in ("Italy?", "Sweden?", "Cuba?")]
    measure = {"kind": "modality_gap", "transcriber": {"name": "tape"}}
    lab = lab_of(suite_of(questions(tmp_path, rows), measure), tmp_path)
    found = zip(lab.rows(lab.suite.measures[0], Result("a", "modality_gap", ""), lambda _: None), HEARD, strict=True)
    monkeypatch.setattr(Tape, "heard", {len(lab.question_wave(row)): text for row, text in found})
    tokenizer, spoken = lab.talker.model.backbone.tokenizer, iter(["rome.", "Stockholm", "Kuba"])
    typed = {"Italy?": "Rome", "italy": "Rome!", "Sweden?": "Stockholm", "Cuba?": "Havana", "Kuba?": "Kuba"}

    def write(talker: Talker, prompt: Prompt, *_: object) -> tuple[list[int], bool]:
        if prompt.speech_spans:
            return tokenizer.encode(next(spoken)), True
        text = tokenizer.decode(prompt.tokens[talker.model.layout.text_row].tolist())
        return tokenizer.encode(next(answer for question, answer in typed.items() if question in text)), True

    monkeypatch.setattr(text_measures, "write_answer", write)
    result = run(lab)
    # The cascade hears nothing of the second question and the third one wrong; the talker the third one, too.
    assert values(result)["answer_agreement"] == 2 / 3
    assert values(result)["cascade_agreement"] == 1 / 3
    assert values(result)["agreement_lead"] == 1 / 3
    assert [item["cascade_heard"] for item in result.items] == HEARD
    assert [item["asked_by_cascade"] for item in result.items] == ["Rome!", "", "Kuba"]
    parts = {one["role"]: one["part"] for one in models(lab.talker.config, lab.suite, lab.talker.registry)}
    assert parts["modality_gap: transcriber"] == "tape"


def test_nothing_right_by_text_leaves_nothing_to_keep(tmp_path: Path) -> None:
    result = run(lab_of(suite_of(questions(tmp_path, CAPITALS[:2]), {"kind": "modality_gap"}), tmp_path))
    assert values(result)["accuracy_text"] == 0
    assert "expected_kept" not in result.figures


def test_latency_figures(tmp_path: Path) -> None:
    measure = {"kind": "latency", "ask": ["text"], "warmup": 3, "repeats": 2}
    lab = lab_of(suite_of(questions(tmp_path, CAPITALS[:2]), measure), tmp_path)

    def timed(first: float, arrivals: list[tuple[float, float]]) -> Reply:
        marks = {"encoded": 0.0, "prefilled": first / 4, "first_frame": first / 2, "first_sound": first}
        return Reply("x", np.zeros(RATE_HZ, np.float32), RATE_HZ, False, marks, arrivals, 2 * first)

    asked = script(
        lab, {"Italy?": timed(1.0, [(1.0, 0.5), (2.0, 0.5)]), "Spain?": timed(0.5, [(0.5, 0.5), (0.75, 0.5)])}
    )
    found = values(run(lab))
    assert len(asked) == 3 + 4
    assert found["first_sound_p50_s"] == 0.75
    assert found["first_sound_p90_s"] == pytest.approx(1.0)
    assert (found["encode_p50_s"], found["delay_p50_s"], found["codec_p90_s"]) == (0.0, 0.1875, 0.5)
    assert found["real_time_factor"] == (2 * 2 + 2 * 1) / 4
    assert found["underruns"] == 0.5
    assert found["needed_buffer_p90_s"] == pytest.approx(0.5)


def test_an_answer_without_sound_has_no_latency(tmp_path: Path) -> None:
    lab = lab_of(suite_of(questions(tmp_path, CAPITALS[:1]), {"kind": "latency", "ask": ["text"]}), tmp_path)
    script(lab, {"Italy?": reply("x")})
    result = run_measure(lab, lab.suite.measures[0])
    assert result.status == "failed"
    assert "answered without sound" in result.reason


@pytest.mark.parametrize("kind", ["asr", "spoken_qa", "latency", "modality_gap", "cascade"])
def test_a_talker_without_ears_says_so(tmp_path: Path, kind: str) -> None:
    write_wave(tmp_path / "a.wav", np.full(4_000, 0.2, np.float32), 16_000)
    row = {"question_text": "Italy?", "question_audio": "a.wav", "answer_text": "Rome"}
    lab = lab_of(suite_of(questions(tmp_path, [row]), {"kind": kind}), tmp_path)
    lab.talker.model.encoder = None
    lab.parent = lab.talker.model.backbone
    result = run_measure(lab, lab.suite.measures[0])
    assert result.status == "failed"
    assert "no ears" in result.reason


def test_bugs_of_parts_fail_the_measure_only(tmp_path: Path) -> None:
    lab = lab_of(suite_of(questions(tmp_path, CAPITALS), {"kind": "spoken_qa", "ask": ["text"]}), tmp_path)

    def ask(*_: Any, **__: Any) -> Reply:
        raise RuntimeError("no memory left")

    lab.ask = ask  # type: ignore[method-assign]
    result = run_measure(lab, lab.suite.measures[0])
    assert result.reason == "a bug of anytalk or of a plugin: RuntimeError: no memory left"
    assert not result.figures


def test_no_rows_is_an_error_with_the_reason(tmp_path: Path) -> None:
    lab = lab_of(suite_of(questions(tmp_path, [{"question_text": "Why?"}]), {"kind": "spoken_qa"}), tmp_path)
    with pytest.raises(AnytalkError, match="no row that measure 'spoken_qa' can use"):
        lab.rows(lab.suite.measures[0], Result("a", "spoken_qa", "accuracy"), lambda row: "is odd")


def test_questions_are_heard_in_noise_the_same_each_time(tmp_path: Path) -> None:
    rows = [{"question_text": "a cat", "question_audio": f"{i}.wav"} for i in range(2)]
    for i in range(2):
        write_wave(tmp_path / f"{i}.wav", (0.1 * np.sin(np.arange(16_000) / 9)).astype(np.float32), 16_000)
    noise = [{"name": "noise", "options": {"min_snr_db": 10, "max_snr_db": 10}}]
    measures = [{"kind": "asr"}, {"kind": "asr", "name": "again"}, {"kind": "asr", "name": "clean", "augment": []}]

    def heard(seed: int) -> dict[str, list[np.ndarray]]:
        lab = lab_of(suite_of(questions(tmp_path, rows), *measures, augment=noise, seed=seed), tmp_path)
        waves: dict[str, list[np.ndarray]] = {}

        def ask(task: str, *, wave: np.ndarray, **_: Any) -> Reply:
            waves[label].append(wave)
            return reply("a cat")

        lab.ask = ask  # type: ignore[method-assign]
        for measure in lab.suite.measures:
            label = measure.label
            waves[label] = []
            assert run_measure(lab, measure).status == "ok"
        return waves

    first, other = heard(0), heard(1)
    for row, (noisy, clean) in enumerate(zip(first["asr"], first["clean"], strict=True)):
        snr_db = 10 * np.log10(np.mean(clean**2) / np.mean((noisy - clean) ** 2))
        assert snr_db == pytest.approx(10, abs=0.1)
        assert np.array_equal(noisy, first["again"][row])
        assert not np.array_equal(noisy, other["asr"][row])
    assert not np.array_equal(first["asr"][0], first["asr"][1])


def test_an_unknown_augmentation_fails_its_measure_with_a_sentence(tmp_path: Path) -> None:
    measure = {"kind": "spoken_qa", "augment": [{"name": "nois"}]}
    lab = lab_of(suite_of(questions(tmp_path, CAPITALS), measure), tmp_path)
    assert "did you mean 'noise'" in run_measure(lab, lab.suite.measures[0]).reason
