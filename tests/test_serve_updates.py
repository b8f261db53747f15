"""What clients send with ``session.update`` that can't be done doesn't undo what can."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from serve_lab import Running, pcm, question, run, running, talking
from talkers import make_talker

GOOD = {
    "instructions": "You are a pirate.",
    "audio": {
        "input": {"format": {"type": "audio/pcmu"}, "transcription": {"model": "whisper-1", "language": "en"}},
        "output": {"format": {"type": "audio/pcma"}, "voice": "bob"},
    },
}


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    with running(make_talker(speakers=("anna", "bob"))) as found:
        yield found


def heard(**fields: Any) -> dict[str, Any]:
    return {"audio": {"input": fields}}


def said(**fields: Any) -> dict[str, Any]:
    return {"audio": {"output": fields}}


LEFT_OUT: list[tuple[dict[str, Any], str, str]] = [
    ({"type": "translation"}, "type", "'realtime' or 'transcription'"),
    ({"nonsense": 1}, "nonsense", "not permitted"),
    ({"tools": [{"type": "function"}]}, "tools", "doesn't support functions"),
    ({"tool_choice": "maybe"}, "tool_choice", "'auto', 'none' or 'required'"),
    ({"output_modalities": ["text", "audio"]}, "output_modalities", "['audio']"),
    ({"output_modalities": "audio"}, "output_modalities", "valid list"),
    ({"max_output_tokens": 0}, "max_output_tokens", "expected 1 or more"),
    ({"instructions": "x" * 20_001}, "instructions", "20000 are allowed"),
    ({"tracing": "auto"}, "tracing", "no traces"),
    ({"include": ["item.input_audio_transcription.logprobs"]}, "include", "log probabilities"),
    ({"prompt": {"id": "p"}}, "prompt", "instructions"),
    ({"reasoning": {"effort": "low"}}, "reasoning", "reason"),
    ({"truncation": "disabled"}, "truncation", "oldest turns"),
    ({"audio": 3}, "audio", "audio"),
    (said(voice="ana"), "audio.output.voice", "did you mean 'anna'"),
    (said(speed=5), "audio.output.speed", "less than or equal to 4"),
    (said(format={"type": "audio/mp3"}), "audio.output.format", "audio/pcmu"),
    (heard(format={"type": "audio/pcm", "rate": 1}), "audio.input.format", "24000"),
    (heard(noise_reduction={"type": "near_field"}), "audio.input.noise_reduction", "client"),
    (heard(turn_detection={"type": "semantic_vad"}), "audio.input.turn_detection.type", "server_vad"),
    (heard(turn_detection={"eagerness": "low"}), "audio.input.turn_detection.eagerness", "silence_duration_ms"),
    (heard(turn_detection={"threshold": 7}), "audio.input.turn_detection.threshold", "less than 1"),
    (heard(transcription={"prompt": "Ann"}), "audio.input.transcription.prompt", "don't read a text"),
    (heard(transcription={"delay": "low"}), "audio.input.transcription.delay", "certain"),
    (heard(transcription={"model": "x" * 9_999}), "audio.input.transcription.model", "200 characters"),
]


def merged(one: Any, other: Any) -> Any:
    """Two trees as one."""
    if not isinstance(one, dict) or not isinstance(other, dict):
        return other
    return {**one, **{name: merged(one[name], value) if name in one else value for name, value in other.items()}}


def test_a_field_that_can_not_be_undoes_no_other(server: Running) -> None:
    async def talk() -> None:
        for asked, param, why in LEFT_OUT:
            async with talking(server) as client:
                wanted = {**GOOD, **asked} if asked.get("audio") == 3 else merged(GOOD, asked)
                told = await client.setup(**wanted)
                assert [field["param"] for field in told.anytalk["left_out"]] == [f"session.{param}"], told
                assert why in told.anytalk["left_out"][0]["reason"], told
                session = told.session
                assert session.instructions == ("" if param == "instructions" else GOOD["instructions"])
                if param == "audio":
                    continue
                out, into = session.audio.output, session.audio.input
                assert param == "audio.output.voice" or out.voice == "bob"
                assert out.format.type == ("audio/pcm" if param == "audio.output.format" else "audio/pcma")
                assert into.format.type == ("audio/pcm" if param == "audio.input.format" else "audio/pcmu")
                assert into.transcription.language == "en"
                assert into.turn_detection.type == "server_vad"

    run(talk())


def test_answers_are_spoken_at_the_sessions_speed(server: Running) -> None:
    async def talk() -> None:
        async with talking(server, **said(speed=1), max_output_tokens=12) as client:
            await client.type("Hello!")
            lengths = []
            for speed in (1.0, 2.0, 0.5):
                shown = await client.setup(**said(speed=speed))
                assert shown.session.audio.output.speed == speed
                _, sound = await client.answer(conversation="none")
                lengths.append(len(sound) * speed)
            assert lengths == pytest.approx([lengths[0]] * 3, abs=8)

    run(talk())


def test_nothing_is_told_where_nothing_was_left_out(server: Running) -> None:
    """The values of a stock client that ask for nothing, and any name of the model."""
    asked = {
        "model": "gpt-realtime",
        "tools": [],
        "tool_choice": "auto",
        "tracing": None,
        "truncation": "auto",
        "max_output_tokens": "inf",
        **merged(heard(noise_reduction=None), said(speed=1.0, voice="marin")),
    }

    async def talk() -> None:
        async with talking(server) as client:
            told = await client.setup(**asked)
            assert not hasattr(told, "anytalk")
            assert told.session.model == "tiny"
            assert (await client.setup(voice="x")).anytalk["left_out"][0]["param"] == "session.voice"

    run(talk())


def test_null_switches_off_what_can_be_off(server: Running) -> None:
    async def talk() -> None:
        async with talking(server, **GOOD) as client:
            nothing = merged(heard(format=None, turn_detection={"idle_timeout_ms": None}), said(voice=None))
            told = await client.setup(instructions=None, tools=None, output_modalities=None, **nothing)
            assert not hasattr(told, "anytalk")
            assert told.session.instructions == GOOD["instructions"]
            assert told.session.audio.output.voice == "bob"
            session = (await client.setup(**heard(turn_detection=None, transcription=None))).session
            assert session.audio.input.turn_detection is None
            assert session.audio.input.transcription is None
            back = await client.setup(**heard(turn_detection={"type": "semantic_vad", "create_response": False}))
            assert back.session.audio.input.turn_detection.type == "server_vad"
            assert back.session.audio.input.turn_detection.create_response is False

    run(talk())


def nulls(tree: Any, path: str = "") -> list[str]:
    """Where a tree holds null."""
    if isinstance(tree, dict):
        return [place for name, value in tree.items() for place in nulls(value, f"{path}.{name}")]
    return [path] if tree is None else []


def test_only_what_is_off_is_shown_as_null(server: Running) -> None:
    import json

    async def talk() -> list[str]:
        async with talking(server) as client:
            session = {"type": "realtime", "audio": {"input": {"transcription": {"model": "whisper-1"}}}}
            await client.connection.send({"type": "session.update", "session": session})
            raw = json.loads(await client.connection.recv_bytes())
            assert raw["session"]["audio"]["input"]["transcription"] == {"model": "whisper-1"}
            return nulls(raw)

    assert run(talk()) == [".session.audio.input.noise_reduction"]


def test_a_session_that_only_writes_down(server: Running) -> None:
    async def talk() -> None:
        async with talking(server) as client:
            await client.connection.session.update(session={"type": "transcription"})
            session = (await client.until("session.updated")).session
            assert session.type == "transcription"
            assert session.audio.input.turn_detection.type == "server_vad"
            await client.say(pcm(question()))
            await client.until("conversation.item.input_audio_transcription.completed")
            assert "response.created" not in client.types()
            await client.connection.response.create()
            assert "is not answered" in (await client.error_among()).message

    run(talk())


def test_an_update_has_a_bounded_number_of_fields(server: Running) -> None:
    async def talk() -> None:
        async with talking(server) as client:
            await client.connection.session.update(session={f"f{n}": 1 for n in range(101)})
            assert "100 fields" in (await client.error()).message
            told = await client.setup(**{"n" * 100_000: 1, "tracing": {"group_id": "x" * 100_000}})
            assert len(told.model_dump_json()) < 3_000

    run(talk())
