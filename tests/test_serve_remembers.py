"""What a conversation remembers, through the server: what was heard, nothing else, and nobody else's."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from serve_lab import MANUAL, Running, Talk, num_answers, pcm, question, record, run, running, slow_down, talking, texts
from talkers import hf_talker, make_talker
from torch import Tensor

from anytalk.decode.jobs import Question
from anytalk.model.talker import Talker
from anytalk.plugins.contracts import JoinableCache

SYSTEM = "You are a voice assistant."
BRIEF = {**MANUAL, "max_output_tokens": 20}
Heard = tuple[str, bytes]


@pytest.fixture(scope="module")
def talker(tmp_path_factory: pytest.TempPathFactory) -> Talker:
    """Its caches are kept from turn to turn and are cropped."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = hf_talker(tmp_path_factory.mktemp("llama"), "talker", system=SYSTEM)
    assert isinstance(made.model.backbone.new_cache(1, 8), JoinableCache)
    write_words(made)
    return made


def write_words(talker: Talker, seed: int = 25) -> None:
    """Let it write letters and spaces, each one by all that it has read, and never an end; this seed begins briefly."""
    model = talker.model
    ids = [model.backbone.tokenizer.encode(letter)[0] for letter in "abcdefghijklmnopqrst" + 10 * " "]
    letters = torch.randn(model.backbone.width, len(ids), generator=torch.Generator().manual_seed(seed))
    plain = model.text_logits

    def only_words(normed: Tensor) -> Tensor:
        return torch.full_like(plain(normed), -1e4).index_copy(-1, torch.tensor(ids), normed @ letters)

    model.text_logits = only_words  # type: ignore[method-assign]


@pytest.fixture(scope="module")
def server(talker: Talker) -> Iterator[Running]:
    with running(talker, max_columns=40) as found:
        yield found


@pytest.fixture
def asked(server: Running, monkeypatch: pytest.MonkeyPatch) -> list[Question]:
    return record(server, monkeypatch)


async def told(client: Talk, text: str, **response: Any) -> tuple[Any, Heard]:
    """Ask by typing: the response, and its text and sound."""
    await client.type(text)
    response, sound = await client.answer(**response)
    return response, (response.output[0].content[0].transcript, sound)


async def told_anew(server: Running, before: list[tuple[str, str | None]], text: str) -> Heard:
    """The answer in a session that never knew more than these turns."""
    async with talking(server, **BRIEF) as client:
        for role, said in before:
            part = {"type": "output_text" if role == "assistant" else "input_text", "text": said}
            item = {"type": "message", "role": role, "content": [part]}
            await client.connection.conversation.item.create(item=item)
            await client.until("conversation.item.done")
        return (await told(client, text))[1]


async def transcript(client: Talk, item_id: str) -> str:
    """What the server shows of an answer."""
    await client.connection.conversation.item.retrieve(item_id=item_id)
    return str((await client.until("conversation.item.retrieved")).item.content[0].transcript)


def test_what_was_truncated_is_gone_and_what_was_heard_stays(server: Running, asked: list[Question]) -> None:
    async def talk() -> None:
        async with talking(server, **MANUAL) as client:
            first, (whole, sound) = await told(client, "tell me")
            items = client.connection.conversation.item
            await items.truncate(item_id=first.output[0].id, content_index=0, audio_end_ms=len(sound) // 48 * 2 // 3)
            await client.until("conversation.item.truncated")
            heard = await transcript(client, first.output[0].id)
            assert 0 < len(heard) < len(whole)
            assert whole.startswith(heard)
            await client.setup(max_output_tokens=20)
            second, answer = await told(client, "go on")
            shown = [("system", SYSTEM), ("user", "tell me"), ("assistant", heard), ("user", "go on")]
            assert texts(asked[-1]) == shown
            # The caches hold the question and the words that were heard, so they were rolled back, not thrown away.
            cached = second.usage.input_token_details.cached_tokens
            assert first.usage.input_tokens < cached < second.usage.input_tokens
            # And nothing else: who never knew the rest of the answer says the same, who knows it doesn't.
            assert await told_anew(server, [("user", "tell me"), ("assistant", heard)], "go on") == answer
            assert await told_anew(server, [("user", "tell me"), ("assistant", whole)], "go on") != answer
            # A later turn goes on from there.
            third, _ = await told(client, "and then?")
            assert texts(asked[-1]) == [*shown, ("assistant", answer[0]), ("user", "and then?")]
            assert third.usage.input_token_details.cached_tokens >= second.usage.input_tokens - 1

    run(talk())


def test_an_answer_of_which_nothing_was_heard_was_never_given(server: Running, asked: list[Question]) -> None:
    async def talk() -> None:
        async with talking(server, **BRIEF) as client:
            first, _ = await told(client, "tell me")
            items = client.connection.conversation.item
            await items.truncate(item_id=first.output[0].id, content_index=0, audio_end_ms=0)
            await client.until("conversation.item.truncated")
            second, answer = await told(client, "go on")
            assert texts(asked[-1])[1:] == [("user", "tell me"), ("user", "go on")]
            assert second.usage.input_token_details.cached_tokens <= first.usage.input_tokens
            assert await told_anew(server, [("user", "tell me")], "go on") == answer
            # Deleted is deleted, too.
            await items.delete(item_id=second.output[0].id)
            await client.until("conversation.item.deleted")
            _, answer = await told(client, "anew")
            assert texts(asked[-1])[1:] == [("user", "tell me"), ("user", "go on"), ("user", "anew")]
            assert await told_anew(server, [("user", "tell me"), ("user", "go on")], "anew") == answer

    run(talk())


@pytest.mark.parametrize("way", ["cancel", "speak"])
def test_an_interrupted_answer_is_remembered_as_far_as_it_was_heard(
    talker: Talker, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    detection = None if way == "cancel" else {"type": "server_vad", "create_response": False}

    async def talk(server: Running, asked: list[Question]) -> None:
        async with talking(server, audio={"input": {"turn_detection": detection}}) as client:
            await client.type("tell me")
            await client.connection.response.create()
            for _ in range(80):
                await client.until("response.output_audio.delta")
            if way == "cancel":
                await client.connection.response.cancel()
            else:
                await client.say(pcm(question()), piece_ms=20)
            done = await client.until("response.done")
            assert done.response.status == "cancelled"
            made = "".join(e.delta for e in client.events if e.type == "response.output_audio_transcript.delta")
            heard = done.response.output[0].content[0].transcript
            assert 0 < len(heard) < len(made)
            assert made.startswith(heard)
            if way == "speak":
                spoken = await client.until("input_audio_buffer.committed")
                await client.connection.conversation.item.delete(item_id=spoken.item_id)
                await client.until("conversation.item.deleted")
            server.wait_until(lambda: num_answers(server.state.model) == 0)
            await client.setup(max_output_tokens=20)
            second, answer = await told(client, "go on")
            assert texts(asked[-1])[1:] == [("user", "tell me"), ("assistant", heard), ("user", "go on")]
            assert second.usage.input_token_details.cached_tokens > len(SYSTEM) / 2
            assert await told_anew(server, [("user", "tell me"), ("assistant", heard)], "go on") == answer

    with running(talker, max_columns=300) as server:
        slow_down(server, 0.01)
        run(talk(server, record(server, monkeypatch)))


def test_sessions_know_nothing_of_each_other(server: Running, asked: list[Question]) -> None:
    """Turn about, and side by side: each says what it would say alone."""
    lines = {"anna": ["my name is anna", "who am i?", "and now?"], "bob": ["my name is bob", "who am i?", "and now?"]}

    async def alone(name: str) -> list[Heard]:
        async with talking(server, **BRIEF) as client:
            return [(await told(client, text))[1] for text in lines[name]]

    async def turn_about() -> dict[str, list[Heard]]:
        found: dict[str, list[Heard]] = {name: [] for name in lines}
        async with talking(server, **BRIEF) as anna, talking(server, **BRIEF) as bob:
            for turn in range(3):
                for name, client in (("anna", anna), ("bob", bob)):
                    found[name].append((await told(client, lines[name][turn]))[1])
                    said = str(texts(asked[-1]))
                    assert name in said
                    assert not {*lines} - {name} & {other for other in lines if other in said}
        return found

    async def side_by_side() -> dict[str, list[Heard]]:
        return dict(zip(lines, await asyncio.gather(*map(alone, lines)), strict=True))

    async def talk() -> None:
        wanted = {name: await alone(name) for name in lines}
        assert wanted["anna"] != wanted["bob"]
        assert await turn_about() == wanted
        assert await side_by_side() == wanted

    run(talk())


def test_nobody_is_told_faster_what_another_one_asked(server: Running) -> None:
    """Of another session's question not a column is known, in that session's time nor after it."""

    async def cached(client: Talk) -> int:
        response, _ = await told(client, "a question that somebody asked before")
        return int(response.usage.input_token_details.cached_tokens)

    async def talk() -> None:
        async with talking(server, **BRIEF) as one:
            found = [await cached(one)]
            async with talking(server, **BRIEF) as two:
                found.append(await cached(two))
        async with talking(server, **BRIEF) as three:
            found.append(await cached(three))
        assert len(set(found)) == 1
        assert found[0] > 0, "what all conversations begin with is known"

    run(talk())


def test_a_session_that_is_over_leaves_no_cache_behind(server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    from anytalk.serve.realtime import session

    made: list[Any] = []

    class Kept(session.Memory):
        def __init__(self) -> None:
            super().__init__()
            made.append(self)

    monkeypatch.setattr(session, "Memory", Kept)

    async def talk() -> None:
        async with talking(server, **BRIEF) as client:
            await told(client, "remember this")
            server.wait_until(lambda: num_answers(server.state.model) == 0)
            assert made[0].cache is not None

    run(talk())
    server.wait_until(lambda: server.state.admission.taken == 0)
    assert made[0].cache is None
    assert made[0].columns.size == 0


def test_settings_are_merged() -> None:
    async def talk(server: Running) -> Any:
        async with talking(server, instructions="A", max_output_tokens=9) as client:
            await client.setup(audio={"input": {"turn_detection": {"silence_duration_ms": 700}}})
            updated = await client.setup(audio={"output": {"voice": "bob"}})
            return updated.session

    with running(make_talker(speakers=("anna", "bob"))) as server:
        session = run(talk(server))
    assert session.instructions == "A"
    assert session.max_output_tokens == 9
    detection = session.audio.input.turn_detection
    assert (detection.silence_duration_ms, detection.threshold) == (700, 0.5)
    assert session.audio.output.voice == "bob"
    assert session.audio.input.format.rate == 24_000
