"""The official client holds conversations; every event is checked against its own types."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from serve_lab import (
    MANUAL,
    ORDER,
    PATIENCE_S,
    SMALL,
    Running,
    pcm,
    question,
    record,
    run,
    running,
    talking,
    texts,
    without_deltas,
)
from serve_mistakes import MISTAKES
from talkers import make_talker

from anytalk.decode.jobs import Question


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    with running(make_talker(speakers=("anna", "bob"))) as found:
        yield found


@pytest.fixture
def asked(server: Running, monkeypatch: pytest.MonkeyPatch) -> list[Question]:
    return record(server, monkeypatch)


# Turns


def test_a_hands_free_turn(server: Running) -> None:
    async def talk() -> None:
        async with talking(server, **SMALL) as client:
            begin = len(client.events)
            await client.say(pcm(question()), piece_ms=20)
            done = await client.until("response.done")
            types = without_deltas(client.types(begin))
            turn = [
                "input_audio_buffer.speech_started",
                "input_audio_buffer.speech_stopped",
                "input_audio_buffer.committed",
                "conversation.item.added",
                "conversation.item.done",
            ]
            assert types == turn + ORDER
            started, stopped, committed, added = client.events[begin : begin + 4]
            assert started.item_id == stopped.item_id == committed.item_id == added.item.id
            assert 200 <= started.audio_start_ms <= 800
            # The question ends a second before the sound does; 500 ms of silence end the turn.
            length_ms = len(question()) / 24
            assert length_ms - 1000 <= stopped.audio_end_ms <= length_ms
            assert done.response.status == "incomplete"
            assert done.response.status_details.reason == "max_output_tokens"
            item = done.response.output[0]
            assert item.role == "assistant"
            assert item.content[0].type == "output_audio"
            deltas = [e.delta for e in client.events if e.type == "response.output_audio_transcript.delta"]
            assert "".join(deltas) == item.content[0].transcript
            assert done.response.usage.output_tokens > 0
            assert len(client.sound(begin)) > 0
            ids = [event.event_id for event in client.events]
            assert len(set(ids)) == len(ids)

    run(talk())


def test_a_manual_turn_and_its_buffer(server: Running) -> None:
    async def talk() -> None:
        async with talking(server, **MANUAL, **SMALL) as client:
            await client.connection.input_audio_buffer.commit()
            assert (await client.error()).code == "input_audio_buffer_commit_empty"
            await client.say(pcm(question(2)))
            await client.connection.input_audio_buffer.clear()
            await client.until("input_audio_buffer.cleared")
            await client.connection.input_audio_buffer.commit()
            assert (await client.error()).code == "input_audio_buffer_commit_empty"
            await client.say(pcm(question(2)))
            await client.connection.input_audio_buffer.commit()
            committed = await client.until("input_audio_buffer.committed")
            assert (await client.until("conversation.item.done")).item.id == committed.item_id
            response, sound = await client.answer()
            assert response.output[0].role == "assistant"
            assert sound
            # No turn was detected, and no answer came by itself.
            assert not {"input_audio_buffer.speech_started"} & set(client.types())
            assert client.types().count("response.created") == 1

    run(talk())


def test_a_typed_turn_and_an_answer_in_text(server: Running) -> None:
    async def talk() -> None:
        async with talking(server, output_modalities=["text"]) as client:
            item = await client.type("Hello!")
            assert item.content[0].text == "Hello!"
            begin = len(client.events)
            response, sound = await client.answer(metadata={"topic": "a"})
            assert sound == b""
            assert response.output_modalities == ["text"]
            assert response.metadata == {"topic": "a"}
            assert response.output[0].content[0].type == "output_text"
            types = client.types(begin)
            assert "response.output_text.delta" in types
            assert [name for name in ORDER if "audio" not in name] == [
                name for name in without_deltas(types) if name != "response.output_text.done"
            ]
            deltas = [e.delta for e in client.events[begin:] if e.type == "response.output_text.delta"]
            assert "".join(deltas) == response.output[0].content[0].text

    run(talk())


def test_three_turns_are_one_conversation(server: Running, asked: list[Question]) -> None:
    async def talk() -> None:
        async with talking(server, **MANUAL, **SMALL, instructions="Be kind.") as client:
            await client.type("one")
            first, _ = await client.answer()
            await client.say(pcm(question(3)))
            await client.connection.input_audio_buffer.commit()
            second, _ = await client.answer()
            await client.type("three")
            third, _ = await client.answer()
            said = [r.output[0].content[0].transcript for r in (first, second)]
            assert texts(asked[-1]) == [
                ("system", "Be kind."),
                ("user", "one"),
                ("assistant", said[0]),
                ("user", None),
                ("assistant", said[1]),
                ("user", "three"),
            ]
            assert [q.task.name for q in asked] == ["T1A2", "A1A2", "T1A2"]
            assert third.usage.input_tokens > second.usage.input_tokens > first.usage.input_tokens
            # What was read before is not read again.
            assert second.usage.input_token_details.cached_tokens > 0
            assert third.usage.input_token_details.cached_tokens >= second.usage.input_tokens - 1

    run(talk())


def test_a_response_of_its_own(server: Running, asked: list[Question]) -> None:
    async def talk() -> None:
        async with talking(server, **MANUAL, **SMALL) as client:
            await client.connection.response.create()
            assert (await client.error()).code == "nothing_to_answer"
            greeting, _ = await client.answer(instructions="Greet the user.")
            assert texts(asked[-1])[-1] == ("user", "Greet the user.")
            given = [{"type": "message", "role": "user", "content": [{"type": "input_text", "text": "aside"}]}]
            aside, _ = await client.answer(conversation="none", input=given, output_modalities=["text"])
            assert aside.conversation_id is None
            assert texts(asked[-1]) == [("user", "aside")]
            await client.type("go on")
            response, _ = await client.answer(audio={"output": {"voice": "bob"}})
            assert response.audio.output.voice == "bob"
            assert asked[-1].speaker == "bob"
            assert texts(asked[-1])[0] == ("assistant", greeting.output[0].content[0].transcript)
            assert "aside" not in str(texts(asked[-1]))

    run(talk())


def test_the_talkers_transcript_of_the_user(server: Running) -> None:
    async def talk() -> None:
        async with talking(
            server, audio={"input": {"turn_detection": None, "transcription": {"model": "whisper-1"}}}, **SMALL
        ) as client:
            await client.say(pcm(question()))
            await client.connection.input_audio_buffer.commit()
            completed = await client.until("conversation.item.input_audio_transcription.completed")
            assert completed.usage.type == "duration"
            assert completed.usage.seconds > 1
            await client.connection.conversation.item.retrieve(item_id=completed.item_id)
            item = (await client.until("conversation.item.retrieved")).item
            assert item.content[0].transcript == completed.transcript

    run(talk())


def test_a_model_that_fails_is_told_in_the_protocols_words(server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    async def talk() -> None:
        heard = {"turn_detection": None, "transcription": {"model": "whisper-1"}}
        async with talking(server, audio={"input": heard}, **SMALL) as client:
            with monkeypatch.context() as broken:
                broken.setattr(server.state.talker.model, "text_logits", lambda _: 1 / 0)
                await client.say(pcm(question()))
                await client.connection.input_audio_buffer.commit()
                failed = await client.until("conversation.item.input_audio_transcription.failed")
                assert failed.error.code == "model_failed"
                response, _ = await client.answer()
                assert response.status == "failed"
                assert response.status_details.error.code == "model_failed"
                assert "ZeroDivisionError" in str(response.status_details.error)
            await client.type("still there?")
            response, _ = await client.answer()
            assert response.output, "the session goes on"

    run(talk())


# Items


def test_what_the_user_said_is_given_back(server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """As long as it is kept: of two turns the server here keeps one."""
    said = pcm(question()[: 24_000 * 2])

    async def talk() -> None:
        async with talking(server, **MANUAL, **SMALL) as client:
            items = client.connection.conversation.item
            await client.say(said)
            await client.connection.input_audio_buffer.commit()
            first = (await client.until("conversation.item.added")).item
            assert first.content[0].audio is None, "it is shown when it is asked for"
            await items.retrieve(item_id=first.id)
            shown = (await client.until("conversation.item.retrieved")).item.content[0]
            back = np.frombuffer(base64.b64decode(shown.audio), dtype="<i2").astype(np.float64)
            sent = np.frombuffer(said, dtype="<i2").astype(np.float64)
            assert abs(len(back) - len(sent)) < 240
            # What lies above 8 kHz is gone, because that is all that the ears hear.
            assert np.corrcoef(back[: len(sent)], sent[: len(back)])[0, 1] > 0.95
            content = [{"type": "input_audio", "audio": base64.b64encode(said).decode()}]
            await items.create(item={"type": "message", "role": "user", "content": content, "id": "second"})
            await items.retrieve(item_id="second")
            assert (await client.until("conversation.item.retrieved")).item.content[0].audio is not None
            await items.retrieve(item_id=first.id)
            assert (await client.until("conversation.item.retrieved")).item.content[0].audio is None
            response, sound = await client.answer()
            assert response.output
            assert sound

    monkeypatch.setattr(server.state, "settings", replace(server.state.settings, max_sound_s=3.0))
    run(talk())


def test_sound_is_not_given_back_without_end(server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    async def talk() -> None:
        async with talking(server, **MANUAL) as client:
            await client.say(pcm(question()[: 24_000 * 2]))
            await client.connection.input_audio_buffer.commit()
            item = (await client.until("conversation.item.added")).item
            for _ in range(40):
                await client.connection.conversation.item.retrieve(item_id=item.id)
            told = [await client.next() for _ in range(1 + 40)][1:]  # behind `conversation.item.done`
            assert {event.type for event in told} == {"conversation.item.retrieved", "error"}
            assert {event.error.code for event in told if event.type == "error"} == {"rate_limit_exceeded"}
            response, _ = await client.answer(max_output_tokens=3)
            assert response.output, "the session goes on"

    monkeypatch.setattr(server.state, "settings", replace(server.state.settings, max_sound_s=3.0))
    run(talk())


def test_items_are_shown_moved_and_deleted(server: Running, asked: list[Question]) -> None:
    async def talk() -> None:
        async with talking(server, **MANUAL, **SMALL) as client:
            one, two = await client.type("one"), await client.type("two")
            items = client.connection.conversation.item
            content = [{"type": "output_text", "text": "between"}]
            await items.create(
                item={"type": "message", "role": "assistant", "content": content, "id": "mine"}, previous_item_id=one.id
            )
            added = await client.until("conversation.item.added")
            assert (added.previous_item_id, added.item.id) == (one.id, "mine")
            await client.until("conversation.item.done")
            await items.retrieve(item_id="mine")
            assert (await client.until("conversation.item.retrieved")).item.content[0].text == "between"
            await client.answer()
            assert [text for _, text in texts(asked[-1])] == ["one", "between", "two"]
            await items.delete(item_id=two.id)
            assert (await client.until("conversation.item.deleted")).item_id == two.id
            await items.delete(item_id=two.id)
            assert (await client.error()).code == "item_delete_invalid_item_id"

    run(talk())


def test_a_spoken_item(server: Running, asked: list[Question]) -> None:
    async def talk() -> None:
        async with talking(server, **MANUAL, **SMALL) as client:
            audio = base64.b64encode(pcm(question())).decode()
            part = {"type": "input_audio", "audio": audio}
            await client.connection.conversation.item.create(
                item={"type": "message", "role": "user", "content": [part]}
            )
            await client.until("conversation.item.done")
            await client.answer()
            assert asked[-1].task.name == "A1A2"

    run(talk())


# Formats


@pytest.mark.parametrize(
    ("name", "rate_hz"), [("audio/pcm", 24_000), ("audio/pcm", 16_000), ("audio/pcmu", 8_000), ("audio/pcma", 8_000)]
)
def test_formats_in_and_out(server: Running, name: str, rate_hz: int) -> None:
    from anytalk.serve.sound import WireFormat

    async def talk() -> tuple[int, float]:
        wire = WireFormat(name, rate_hz)
        shown = {"type": name, "rate": rate_hz} if name == "audio/pcm" else {"type": name}
        async with talking(server, **SMALL) as client:
            client.is_strict = rate_hz != 16_000  # other rates of PCM are an extension
            await client.setup(audio={"input": {"format": shown}, "output": {"format": shown}})
            sound = wire.encode(question(rate_hz=rate_hz))
            await client.say(sound, bytes_per_ms=rate_hz // 1000 * wire.bytes_per_sample)
            await client.until("response.done")
            return len(wire.decode(client.sound())), rate_hz / 8_000

    samples, ratio = run(talk())
    # Six columns are three frames of the tiny codec and what it holds back.
    assert samples > 0
    assert abs(samples / ratio - round(samples / ratio / 80) * 80) <= 1


# Mistakes


def test_every_mistake_is_told_and_the_connection_stays(server: Running) -> None:
    async def talk() -> None:
        async with talking(server, **SMALL) as client:
            for number, (message, code, said) in enumerate(MISTAKES):
                expected = None
                if message.startswith('{"type": "'):
                    expected = f"mine-{number}"
                    message = json.dumps({**json.loads(message), "event_id": expected})
                await client.connection._connection.send(message)
                error = await client.error()
                assert (error.code, error.event_id) == (code, expected), (message, error)
                assert said in error.message, (message, error)
                assert error.type == "invalid_request_error"
            await client.connection._connection.send(b"\x00\x01garbage")
            assert (await client.error()).code == "invalid_json"
            await client.connection._connection.send("[" * 100_000)
            assert (await client.error()).code == "invalid_json"
            await client.type("still there?")
            response, _ = await client.answer()
            assert response.output

    run(talk())


def test_a_silent_turn_is_refused_and_forgotten(server: Running, asked: list[Question]) -> None:
    async def talk() -> None:
        async with talking(server, **MANUAL, **SMALL) as client:
            await client.say(bytes(48 * 500))
            await client.connection.input_audio_buffer.commit()
            assert "silent" in (await client.error()).message
            await client.type("hello")
            await client.answer()
            assert len(asked[-1].turns) == 1

    run(talk())


def test_a_manual_turn_has_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    async def talk(server: Running) -> None:
        async with talking(server, **MANUAL, **SMALL) as client:
            await client.say(pcm(np.tile(question(), 2)[: 24_000 * 3]), piece_ms=500)
            error = await client.error()
            assert error.code == "input_audio_buffer_full"
            await client.connection.input_audio_buffer.commit()
            while (await client.next(PATIENCE_S)).type != "input_audio_buffer.committed":
                pass
        async with talking(server, **SMALL) as client:
            loud = question()[12_000 : 12_000 + 24_000]
            await client.say(pcm(np.tile(loud, 4)))
            # Nobody is interrupted in the middle of a long speech, but its first two seconds are a turn.
            stopped = await client.until("input_audio_buffer.speech_stopped")
            started = next(e for e in client.events if e.type == "input_audio_buffer.speech_started")
            assert 1_900 <= stopped.audio_end_ms - started.audio_start_ms <= 2_200

    with running(make_talker(), max_turn_s=2.0) as server:
        run(talk(server))
