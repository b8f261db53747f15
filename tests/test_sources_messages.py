"""Chat records with sound, in the shapes that people write them in."""

import base64
import json
from pathlib import Path
from typing import Any

import pytest
from helpers import write_lines
from test_sources import good_rows, is_heard, reasons, refused, rows_of, tone_file

from anytalk.plugins.contracts import BadRow, Message, Row, Sound


@pytest.fixture(autouse=True)
def _sounds(tmp_path: Path) -> None:
    for name in ("q1", "a1", "q2", "a2"):
        tone_file(tmp_path / "sounds" / f"{name}.wav")


def says(role: str, content: Any, **more: Any) -> dict[str, Any]:
    return {"role": role, "content": content, **more}


TALK = {
    "messages": [
        says("system", "Be brief."),
        says("user", "<audio>"),
        says("assistant", "Hello.<audio>"),
        says("user", "<|audio|>"),
        says("assistant", "<|audio|>\nFine."),
    ],
    "audios": ["sounds/q1.wav", "sounds/a1.wav", "sounds/q2.wav", "sounds/a2.wav"],
}
"""Tags of ms-swift and of VITA."""


def test_tags_take_the_sounds_in_order(tmp_path: Path) -> None:
    sounds = tmp_path / "sounds"
    path = write_lines(tmp_path / "chat.jsonl", [{**TALK, "speaker": "anna", "images": [], "tasks": ["A1A2"]}])
    (row,) = good_rows("messages", path)
    assert row == Row(
        id="chat.jsonl:1",
        question_audio=sounds / "q2.wav",
        answer_text="Fine.",
        answer_audio=sounds / "a2.wav",
        speaker="anna",
        tasks=("A1A2",),
        history=(
            Message(role="system", text="Be brief."),
            Message(role="user", audio=sounds / "q1.wav"),
            Message(role="assistant", text="Hello.", audio=sounds / "a1.wav"),
        ),
    )


def test_every_turn_of_the_assistant_can_be_a_row(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "chat.jsonl", [TALK])
    first, second = good_rows("messages", path, all_turns=True)
    assert first == Row(
        id="chat.jsonl:1.1",
        question_audio=tmp_path / "sounds" / "q1.wav",
        answer_text="Hello.",
        answer_audio=tmp_path / "sounds" / "a1.wav",
        history=(Message(role="system", text="Be brief."),),
    )
    assert second.id == "chat.jsonl:1.2"
    assert [message.role for message in second.history] == ["system", "user", "assistant"]


def test_sharegpt_and_a_last_turn_without_an_answer(tmp_path: Path) -> None:
    record = {
        "conversations": [
            {"from": "human", "value": "Name a colour."},
            {"from": "gpt", "value": "Red."},
            {"from": "human", "value": "Why?"},
        ],
        "system": "You are kind.",
    }
    (tmp_path / "chat.json").write_text(json.dumps([record]))
    assert good_rows("messages", tmp_path / "chat.json") == [
        Row(
            id="chat.json:1",
            question_text="Name a colour.",
            answer_text="Red.",
            history=(Message(role="system", text="You are kind."),),
        )
    ]


def openai(part: Any) -> dict[str, Any]:
    return {"messages": [says("user", [part] if isinstance(part, dict) else part), says("assistant", "Hi.")]}


def test_content_lists(tmp_path: Path) -> None:
    wav = (tmp_path / "sounds" / "q1.wav").read_bytes()
    encoded = base64.b64encode(wav).decode()
    address = f"file://{tmp_path}/sounds/q1.wav"
    parts = [
        {"type": "input_audio", "input_audio": {"data": encoded, "format": "wav"}},
        {"type": "audio_url", "audio_url": {"url": f"data:audio/wav;base64,{encoded}"}},
        {"type": "audio_url", "audio_url": address},
        {"type": "audio", "url": address},
        {"type": "audio", "audio": "sounds/q1.wav"},
        {"type": "audio", "path": "sounds/q1.wav"},
    ]
    rows = good_rows("messages", write_lines(tmp_path / "chat.jsonl", [openai(part) for part in parts]))
    assert [row.question_audio for row in rows] == [
        Sound(name="chat.jsonl:1, turn 1, audio", data=wav),
        Sound(name="chat.jsonl:2, turn 1, audio", data=wav),
        Sound(name=address, url=address),
        Sound(name=address, url=address),
        tmp_path / "sounds" / "q1.wav",
        tmp_path / "sounds" / "q1.wav",
    ]
    assert all(is_heard(row.question_audio) for row in rows)


def test_other_places_of_a_sound(tmp_path: Path) -> None:
    one = {"messages": [says("user", {"type": "audio"}), says("assistant", "Hi.", audio="sounds/a1.wav")]}
    text = {"messages": [says("user", [{"type": "text", "text": "Hel"}, "lo"]), says("assistant", "Hi.")]}
    path = write_lines(tmp_path / "chat.jsonl", [{**one, "audios": "sounds/q1.wav"}, text])
    first, second = good_rows("messages", path)
    assert (first.question_audio, first.answer_audio, second.question_text) == (
        tmp_path / "sounds" / "q1.wav",
        tmp_path / "sounds" / "a1.wav",
        "Hello",
    )


def test_text_beside_a_sound_has_to_be_told_apart(tmp_path: Path) -> None:
    turns = [says("system", "Be brief."), says("user", "Write down what you hear.\n<audio>"), says("assistant", "hi")]
    path = write_lines(tmp_path / "chat.jsonl", [{"messages": turns, "audios": ["sounds/q1.wav"]}])
    (bad,) = rows_of("messages", path)
    assert isinstance(bad, BadRow)
    assert bad.reason.startswith("chat.jsonl:1, turn 2 has both sound and the text 'Write down what you hear.'")
    assert "words: transcript" in bad.hint
    (row,) = good_rows("messages", path, words="transcript")
    assert (row.question_text, row.history[0].text) == ("Write down what you hear.", "Be brief.")
    (row,) = good_rows("messages", path, words="instruction")
    assert row.question_text is None
    assert row.question_audio == tmp_path / "sounds" / "q1.wav"
    assert row.history == (Message(role="system", text="Be brief.\nWrite down what you hear."),)


def test_an_instruction_that_is_repeated_is_given_once(tmp_path: Path) -> None:
    turns = [
        *[says("user", "Answer.<audio>"), says("assistant", "one")],
        *[says("user", "Answer.<audio>"), says("assistant", "two")],
    ]
    record = {"messages": turns, "audios": ["sounds/q1.wav", "sounds/q2.wav"]}
    path = write_lines(tmp_path / "chat.jsonl", [record])
    first, second = good_rows("messages", path, words="instruction", all_turns=True)
    assert first.history == (Message(role="system", text="Answer."),)
    assert [message.text for message in second.history] == ["Answer.", None, "one"]


HI = says("assistant", "Hi.")


@pytest.mark.parametrize(
    ("record", "words"),
    [
        ({"messages": []}, " has no 'messages'"),
        ({"messges": [HI]}, " has no 'messages'; is it 'messges'?"),
        ({"messages": ["hi"]}, ", turn 1 is a str; an object is expected"),
        ({"messages": [says("usr", "x"), HI]}, ", turn 1: unknown role 'usr'; did you mean 'user'?"),
        ({"messages": [says("tool", "x"), HI]}, ", turn 1: unknown role 'tool'"),
        ({"messages": [says("user", 3), HI]}, ", turn 1: its content is a int"),
        ({"messages": [says("user", "x")]}, ": no turn is the assistant's"),
        ({"messages": [HI]}, ": turn 1, the assistant's, doesn't follow on the user's"),
        ({"messages": [says("user", ""), HI]}, ": its question or its answer is empty"),
        ({"messages": [says("user", "<audio>"), HI]}, ": its messages have more audio tags than there are sounds (0)"),
        ({"messages": [says("user", "x"), HI], "audios": ["sounds/q1.wav"]}, ": 1 sounds, but 0 audio tags"),
        ({"messages": [says("user", "x"), HI], "audios": 3}, ": field 'audios' is a int"),
        (
            {"messages": [says("user", "<audio><audio>"), HI], "audios": ["sounds/q1.wav"] * 2},
            ", turn 1 holds 2 sounds; one is expected",
        ),
        (
            {"messages": [says("user", "<audio>"), HI], "audios": ["sounds/none.wav"]},
            ": sound file 'sounds/none.wav' doesn't exist",
        ),
        (openai({"type": "image_url", "image_url": "x"}), ", turn 1: a part of its content is of type 'image_url'"),
        (openai({"type": "input_audio", "input_audio": {"data": "?"}}), ", turn 1: its audio is not base64"),
        (openai({"type": "input_audio", "input_audio": {"data": "\u202e"}}), ", turn 1: its audio is not base64"),
        (
            {"messages": [says("user", "a"), HI, says("user", "b"), says("user", "c"), HI]},
            ": the history ends with the user's turn",
        ),
        (
            {"messages": [says("user", "a"), says("user", "b"), HI, says("user", "c"), HI]},
            ", turn 2 is the user's; the assistant's is expected",
        ),
    ],
)
def test_a_wrong_record_is_named(record: dict[str, Any], words: str, tmp_path: Path) -> None:
    fine = {"messages": [says("user", "x"), HI]}
    first, bad, last = reasons(rows_of("messages", write_lines(tmp_path / "chat.jsonl", [fine, record, fine])))
    assert (first, last) == ("chat.jsonl:1", "chat.jsonl:3")
    assert bad.startswith(f"chat.jsonl:2{words}")


def test_a_file_of_something_else_is_refused(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "rows.jsonl", [{"message": [], "audio": "x"}])
    assert refused("messages", path) == "rows.jsonl: column 'messages' is missing; is it 'message'?"
    (tmp_path / "broken.json").write_text("[{]")
    assert "is not JSON" in refused("messages", tmp_path / "broken.json")
