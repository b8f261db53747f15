"""The cleaner on whole sets: what is kept, what is dropped and why, what is written."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import write_lines
from typer.testing import CliRunner

from anytalk.cli.app import build_app
from anytalk.errors import DataError
from anytalk.grid.audio import write_wave
from anytalk.plugins.contracts import BadRow, CodecCodes, Message, Row, Sound
from anytalk.text.clean import Cleaner, Dropped, clean_to_files, manifest_row
from anytalk.text.rules import Fault, Rules

CODE = "```\nprint(1)\n```"


def cleaned(*rows: Row | BadRow, rules: Rules | None = None) -> list[Row | Dropped]:
    return list(Cleaner(rules or Rules()).clean(rows))


def row(question: str | None, answer: str | None = None, **fields: Any) -> Row:
    return Row(id=f"set:{question}", question_text=question, answer_text=answer, **fields)


def rule_of(result: Row | Dropped) -> str:
    return result.fault.rule if isinstance(result, Dropped) else ""


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_texts_are_normalised_and_the_rest_is_carried_along() -> None:
    made = row("What is *2 + 2*?", "**4**.", speaker="joe", tasks=("T1A2",))
    (result,) = cleaned(made)
    assert isinstance(result, Row)
    assert (result.question_text, result.answer_text) == ("What is two plus two?", "Four.")
    assert (result.id, result.speaker, result.tasks) == (made.id, "joe", ("T1A2",))


def test_drops_say_which_row_and_text_and_why() -> None:
    (result,) = cleaned(row("Write code.", CODE))
    assert result == Dropped("set:Write code.", Fault("code", "answer: 'print(1)'"), CODE)


def test_the_order_of_rows_is_kept() -> None:
    results = cleaned(row("One?", "Yes."), row("Two?", CODE), BadRow(id="x", reason="x: torn"), row("Three?", "No."))
    assert [rule_of(r) for r in results] == ["", "code", "unreadable", ""]


def test_turns_before_the_question_are_cleaned_too() -> None:
    past = (
        Message(role="system", text="Use {braces}."),
        Message(role="user", text="**Hi**"),
        Message(role="assistant", text="It's 5 km."),
    )
    (kept,) = cleaned(row("And now?", "Go on.", history=past))
    assert isinstance(kept, Row)
    assert [turn.text for turn in kept.history] == ["Use {braces}.", "Hi", "It's five kilometers."]
    (dropped,) = cleaned(row("And now?", "Go on.", history=(past[1], Message(role="assistant", text=CODE))))
    assert isinstance(dropped, Dropped)
    assert (dropped.fault.rule, dropped.fault.reason[:7]) == ("code", "turn 2:")


@pytest.mark.parametrize(
    ("mode", "rules_of"),
    [("question", ["", "duplicate", "duplicate"]), ("pair", ["", "", "duplicate"]), ("keep", [""] * 3)],
)
def test_duplicates(mode: str, rules_of: list[str]) -> None:
    rows = [row("What is it?", "A cat."), row("what is it", "A dog."), row("What is... it?", "A **cat**!")]
    assert [rule_of(r) for r in cleaned(*rows, rules=Rules.model_validate({"duplicates": mode}))] == rules_of


def test_a_question_whose_first_answer_was_dropped_may_come_again() -> None:
    assert [rule_of(r) for r in cleaned(row("Why?", CODE), row("Why?", "Because of it."))] == ["code", ""]


def test_the_same_question_after_other_turns_is_no_duplicate() -> None:
    past = (Message(role="user", text="Hi"), Message(role="assistant", text="Hello"))
    assert [rule_of(r) for r in cleaned(row("Why?", "So it is."), row("Why?", "So it is.", history=past))] == ["", ""]


def test_questions_without_answers_and_answers_to_spoken_questions_stay(tmp_path: Path) -> None:
    spoken = Row(id="a", question_audio=tmp_path / "q.wav", answer_text="Yes, **it** is.")
    question, answer = cleaned(row("How are you?"), spoken)
    assert isinstance(question, Row)
    assert isinstance(answer, Row)
    assert answer.answer_text == "Yes, it is."
    assert [rule_of(r) for r in cleaned(Row(id="b"), row("  ", "Yes."))] == ["empty", "empty"]


def test_sounds_are_named_so_that_the_manifest_finds_them(tmp_path: Path) -> None:
    inside, outside = tmp_path / "out/q.wav", tmp_path / "a.wav"
    made = Row(
        id="a",
        question_text="q",
        question_audio=inside,
        answer_audio=outside,
        history=(Message(role="user", audio=Sound(name="far", url="s3://b/x.wav")),),
    )
    record, lost = manifest_row(made, tmp_path / "out")
    assert record == {
        "question_text": "q",
        "question_audio": "q.wav",
        "answer_audio": str(outside),
        "history": [{"role": "user", "audio": "s3://b/x.wav"}],
    }
    assert lost == 0


def test_sounds_that_a_manifest_cannot_hold_are_counted() -> None:
    made = Row(
        id="a",
        question_text="q",
        question_audio=Sound(name="m", samples=np.zeros(4, np.float32), sample_rate_hz=8000),
        answer_codes=CodecCodes(np.zeros((3, 2), np.int64), "x"),
    )
    assert manifest_row(made, Path("/x")) == ({"question_text": "q"}, 2)


def test_files_are_written_whole_or_not_at_all(tmp_path: Path) -> None:
    def rows() -> Iterator[Row]:
        yield row("One?", "Yes.")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        clean_to_files(rows(), tmp_path / "out.jsonl", Cleaner(Rules()))
    assert list(tmp_path.iterdir()) == []


def test_a_set_of_which_nothing_stays_keeps_its_reasons(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="none of 1 rows"):
        clean_to_files([row("Code?", CODE)], tmp_path / "out.jsonl", Cleaner(Rules()))
    assert [path.name for path in tmp_path.iterdir()] == ["out.dropped.jsonl"]


def test_memory_does_not_grow_with_the_rows(tmp_path: Path) -> None:
    """Rows are written before later ones are read: a generator sees the file grow."""
    seen: list[int] = []

    def rows() -> Iterator[Row]:
        for number in range(3):
            seen.append(cleaner.tally.kept)
            yield row(f"Question {number}?", "Yes.")

    cleaner = Cleaner(Rules())
    clean_to_files(rows(), tmp_path / "out.jsonl", cleaner)
    assert seen == [0, 1, 2]


def test_the_command_cleans_all_sources_and_counts(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    write_wave(tmp_path / "in/q.wav", np.ones(1600, np.float32) * 0.1, 16_000)
    write_lines(
        tmp_path / "in/one.jsonl",
        [
            {"question_text": "How far is 5 km?", "question_audio": "q.wav", "answer_text": "About *3* miles."},
            {"question_text": "Code?", "answer_text": CODE},
            {"question_text": 5},
        ],
    )
    (tmp_path / "in/two.csv").write_text("question_text,answer_text\nWhy?,Because it is so.\nWhy?,Again.\n")
    (tmp_path / "in/data.yaml").write_text(
        "sources:\n  - {kind: jsonl, path: one.jsonl}\n  - {kind: csv, path: two.csv}\n", encoding="utf-8"
    )
    target = tmp_path / "out/clean.jsonl"
    result = CliRunner().invoke(build_app(), ["data", "clean", str(tmp_path / "in/data.yaml"), "-o", str(target)])
    assert result.exit_code == 0, result.output
    assert lines_of(target) == [
        {
            "question_text": "How far is five kilometers?",
            "question_audio": str(tmp_path / "in/q.wav"),
            "answer_text": "About three miles.",
        },
        {"question_text": "Why?", "answer_text": "Because it is so."},
    ]
    drops = lines_of(tmp_path / "out/clean.dropped.jsonl")
    assert [(drop["id"], drop["rule"]) for drop in drops] == [
        ("one.jsonl:2", "code"),
        ("one.jsonl:3", "unreadable"),
        ("two.csv:3", "duplicate"),
    ]
    assert "2 of 5 rows kept (40.0%)" in result.output
    assert "1 of them rewritten or spelled out" in result.output
    # Cleaned again, nothing changes.
    again = tmp_path / "out/again.jsonl"
    result = CliRunner().invoke(build_app(), ["data", "clean", str(target), "-o", str(again)])
    assert again.read_bytes() == target.read_bytes()
    assert "0 of them rewritten" in result.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-o", "out.csv"], "not a .jsonl file"),
        (["-o", "in.jsonl"], "would overwrite"),
        (["-o", "o.jsonl", "--rewrite", "some"], "--rewrite is 'some'"),
        (["-o", "o.jsonl", "--rewrite", "all"], "a model that rewrites"),
        (["-o", "o.jsonl", "--rewrite", "all", "--endpoint", "http://x"], "needs --model"),
        (["-o", "o.jsonl", "--model", "m"], "need --rewrite"),
        (["-o", "o.jsonl", "--set", "max_answer=3"], "max_answer: Extra inputs"),
    ],
)
def test_wrong_options_are_sentences(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    write_lines(tmp_path / "in.jsonl", [{"question_text": "Why?"}])
    result = CliRunner().invoke(build_app(), ["data", "clean", "in.jsonl", *arguments])
    assert result.exit_code == 1
    assert message in result.output
    assert "bug" not in result.output
    assert [path.name for path in tmp_path.iterdir()] == ["in.jsonl"]
