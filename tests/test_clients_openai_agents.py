"""openai-agents with its defaults: a voice turn, an interruption, a function."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from clients_lab import HEARD, falls_silent, optional, spoken
from serve_lab import Running, is_idle, run

agents, realtime = optional("agents", "agents.realtime")
pytestmark = pytest.mark.filterwarnings("ignore")


@agents.function_tool
def get_weather(city: str) -> str:
    """Tell the weather."""
    return f"sunny-in-{city}"


@asynccontextmanager
async def agent(stock: Running, **options: Any) -> AsyncIterator[Any]:
    """A session of an agent whose every setting is the package's own."""
    made = realtime.RealtimeAgent(name="Assistant", instructions="Be brief.", **options)
    model = {"url": f"ws://{stock.address}/v1/realtime", "api_key": "any"}
    async with await realtime.RealtimeRunner(made).run(model_config=model) as session:
        yield session


async def until(session: Any, wanted: Callable[[Any], bool]) -> list[Any]:
    """The session's events up to the one that is waited for."""
    seen: list[Any] = []
    async with asyncio.timeout(30):
        async for event in session:
            seen.append(event)
            assert event.type != "error", event
            if wanted(event):
                return seen
    raise AssertionError("the session ended")


def says(text: str) -> Callable[[Any], bool]:
    """Whether the history holds an answer."""

    def looked(event: Any) -> bool:
        history = getattr(event, "history", [])
        parts = [part for item in history if getattr(item, "role", "") == "assistant" for part in item.content]
        return any(text in (getattr(part, "transcript", None) or "") for part in parts)

    return looked


def test_a_voice_turn(stock: Running) -> None:
    async def talk() -> None:
        async with agent(stock) as session:
            for piece in spoken():
                await session.send_audio(piece)
            seen = await until(session, says("You said it."))
            assert any(event.type == "audio" for event in seen)
            assert HEARD in str(session._history)

    run(talk())


def test_an_interruption(stock: Running) -> None:
    async def talk() -> None:
        async with agent(stock) as session:
            await session.send_message("Tell me a story")
            await until(session, lambda event: event.type == "audio")
            await session.interrupt()
            await until(session, lambda event: event.type == "audio_interrupted")
            await falls_silent(stock)

    run(talk())
    stock.wait_until(lambda: is_idle(stock))


def test_a_function(stock: Running) -> None:
    async def talk() -> None:
        async with agent(stock, tools=[get_weather]) as session:
            await session.send_message("What's the weather?")
            seen = await until(session, says("It is sunny-in-Paris."))
            assert [event.type for event in seen if event.type.startswith("tool")] == ["tool_start", "tool_end"]

    run(talk())
