"""Our own server over a model that is served elsewhere: one that waits holds nobody up, and interruptions reach it."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from endpoint_lab import Endpoint, Reply, endpoint, forever
from serve_lab import MANUAL, Running, is_idle, num_answers, run, running, talking
from served_parts import served_talker
from talkers import make_talker

from anytalk.decode.engine import DecodeOptions
from anytalk.decode.session import Session
from anytalk.model.talker import Talker
from anytalk.plugins import BuildContext, PartRef
from anytalk.plugins.registry import default_registry

pytest.importorskip("openai")


def talker_of(url: str, name: str = "small", **options: Any) -> Talker:
    part = PartRef(name="served", options={"model": url, "name": name, **options})
    return served_talker(default_registry().build("backbone", part, BuildContext()))


@pytest.fixture
def served() -> Iterator[Endpoint]:
    with endpoint() as found:
        yield found


@pytest.fixture
def server(served: Endpoint) -> Iterator[Running]:
    with running(talker_of(served.url), max_columns=300) as found:
        yield found


def contents(served: Endpoint) -> list[str]:
    return [message["content"] for message in served.asked[-1]["messages"]]


def test_an_answer_and_the_next(server: Running, served: Endpoint) -> None:
    async def talk() -> None:
        async with talking(server, **MANUAL) as client:
            await client.type("What time is it?")
            response, sound = await client.answer(max_output_tokens=40)
            assert response.output[0].content[0].transcript == "It is nine."
            assert sound
            await client.type("And now?")
            await client.answer(max_output_tokens=40)
            assert contents(served) == ["What time is it?", "It is nine.", "And now?"]

    run(talk())


def test_talking_over_an_answer_cancels_the_request_and_cuts_the_history(server: Running, served: Endpoint) -> None:
    async def talk() -> None:
        good, served.script = served.script, forever
        async with talking(server, **MANUAL) as client:
            await client.type("a long story")
            await client.connection.response.create()
            for _ in range(3):
                await client.until("response.output_audio.delta")
            await client.connection.response.cancel()
            done = await client.until("response.done")
            assert done.response.status == "cancelled"
            assert served.hung_up.wait(20)
            server.wait_until(lambda: num_answers(server.state.model) == 0, 20)
            items = client.connection.conversation.item
            item = done.response.output[0]
            await items.truncate(item_id=item.id, content_index=0, audio_end_ms=0)
            await client.until("conversation.item.truncated")
            served.script = good
            await client.type("Stop!")
            await client.answer(max_output_tokens=5)
            assert contents(served) == ["a long story", "Stop!"]

    run(talk())


def test_what_was_heard_of_a_cut_answer_is_what_the_model_is_told(server: Running, served: Endpoint) -> None:
    async def talk() -> None:
        async with talking(server, **MANUAL) as client:
            await client.type("What time is it?")
            response, sound = await client.answer(max_output_tokens=40)
            items, item = client.connection.conversation.item, response.output[0]
            await items.truncate(item_id=item.id, content_index=0, audio_end_ms=len(sound) // 48 * 3 // 4)
            await client.until("conversation.item.truncated")
            await client.type("And now?")
            await client.answer(max_output_tokens=5)
            assert contents(served) == ["What time is it?", "It is", "And now?"]

    run(talk())


@pytest.mark.parametrize("status", [401, 429, 500])
def test_a_refusal_is_a_sentence_and_the_session_goes_on(status: int, server: Running, served: Endpoint) -> None:
    async def talk() -> None:
        good, served.script = served.script, lambda reply: reply.error(status, "not today")
        async with talking(server, **MANUAL) as client:
            await client.type("What time is it?")
            response, _ = await client.answer()
            assert response.status == "failed"
            assert "not today" in response.status_details.error.message
            assert served.url in response.status_details.error.message
            served.script = good
            response, _ = await client.answer(max_output_tokens=40)
            assert response.output[0].content[0].transcript == "It is nine."

    run(talk())


def test_a_silent_model_holds_nobody_up_and_takes_no_rounds(server: Running, served: Endpoint) -> None:
    """While one waits, the thread sleeps; another one is answered."""
    silent = threading.Event()

    def waits_for_the_first(reply: Reply) -> None:
        if len(served.asked) == 1:
            assert silent.wait(20)
        reply.say("It is nine.")

    served.script = waits_for_the_first

    async def talk() -> None:
        async with talking(server, **MANUAL) as first, talking(server, **MANUAL) as second:
            await first.type("What time is it?")
            await first.connection.response.create()
            await first.until("response.output_item.added")
            server.wait_until(lambda: len(served.asked) == 1, 20)
            rounds: list[int] = []
            server.state.model._on_columns = rounds.append
            time.sleep(0.3)
            assert len(rounds) <= 2
            await second.type("And you?")
            response, _ = await second.answer(max_output_tokens=40)
            assert response.output[0].content[0].transcript == "It is nine."
            assert "response.done" not in first.types()
            silent.set()
            done = await first.until("response.done")
            assert done.response.output[0].content[0].transcript == "It is nine."

    run(talk())


def test_a_client_that_leaves_while_the_model_is_silent(server: Running, served: Endpoint) -> None:
    def pings(reply: Reply) -> None:
        reply.begin()
        while True:
            reply.raw(": ping\n\n")
            time.sleep(0.02)

    served.script = pings

    async def talk() -> None:
        async with talking(server, **MANUAL) as client:
            await client.type("What time is it?")
            await client.connection.response.create()
            await client.until("response.output_item.added")
            server.wait_until(lambda: len(served.asked) == 1, 20)

    run(talk())
    assert served.hung_up.wait(20)
    server.wait_until(lambda: is_idle(server), 20)


def test_chat_completions_pass_it_on(server: Running, served: Endpoint) -> None:
    async def ask() -> None:
        async with server.client() as client:
            messages: Any = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Well?"}]
            answer = await client.chat.completions.create(model="tiny", messages=messages)
            assert answer.choices[0].message.content == "It is nine."
            assert contents(served) == ["Be brief.", "Well?"]
            served.script = lambda reply: reply.error(503, "loading model")
            with pytest.raises(Exception, match="loading model") as caught:
                await client.chat.completions.create(model="tiny", messages=messages)
            assert caught.value.status_code == 500  # type: ignore[attr-defined]

    run(ask())


def test_a_server_that_goes_down_hangs_up(served: Endpoint) -> None:
    served.script = forever

    async def talk(server: Running) -> None:
        async with talking(server, **MANUAL) as client:
            await client.type("a long story")
            await client.connection.response.create()
            await client.until("response.output_audio.delta")
            server.state.model.end()
            done = await client.until("response.done")
            assert done.response.status == "failed"

    with running(talker_of(served.url), max_columns=3000) as server:
        run(talk(server))
        assert served.hung_up.wait(20)


def test_over_our_own_chat_completions() -> None:
    """Two of our servers in a row: the second one speaks what the first one's model writes."""
    talker = make_talker(ears=False)
    options = DecodeOptions(max_columns=24)
    *_, alone = Session(talker).ask(text="Well?", task="T1T2", options=options)
    with running(talker) as first:
        *_, spoken = Session(talker_of(f"http://{first.address}/v1", "tiny")).ask(
            text="Well?", options=DecodeOptions(max_columns=24)
        )
    assert alone.text  # type: ignore[union-attr]
    assert alone.text.startswith(spoken.text)  # type: ignore[union-attr]
    assert spoken.text  # type: ignore[union-attr]
    assert spoken.audio_s > 0  # type: ignore[union-attr]
