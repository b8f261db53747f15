"""livekit-agents with its openai plugin and their defaults: a voice turn, an interruption, a function, HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from clients_lab import HEARD, falls_silent, optional, spoken
from serve_lab import Running, run

rtc, llm, stt, context, plugin = optional(
    "livekit.rtc",
    "livekit.agents.llm",
    "livekit.agents.stt",
    "livekit.agents.utils.http_context",
    "livekit.plugins.openai",
)
pytestmark = pytest.mark.filterwarnings("ignore")


@asynccontextmanager
async def speaker(stock: Running) -> AsyncIterator[Any]:
    """A session of the realtime model, as an agent would hold it."""
    async with context.open():
        model = plugin.realtime.RealtimeModel(base_url=f"http://{stock.address}/v1", api_key="any")
        session = model.session()
        session.on("error", lambda error: pytest.fail(f"{error.error}"))
        await session.update_instructions("Be brief.")
        yield session
        await session.aclose()
        await model.aclose()


async def heard(generation: Any) -> tuple[str, int]:
    """What an answer says, and how many samples of sound it has."""
    text, samples = "", 0
    async for message in generation.message_stream:
        async for piece in message.text_stream:
            text += str(piece)
        async for frame in message.audio_stream:
            samples += frame.samples_per_channel
    return text.strip(), samples


def frames(rate_hz: int = 24_000) -> list[Any]:
    return [
        rtc.AudioFrame(data=piece, sample_rate=rate_hz, num_channels=1, samples_per_channel=len(piece) // 2)
        for piece in spoken(rate_hz)
    ]


async def ask(session: Any, text: str) -> Any:
    """A typed question; the answer is on its way."""
    chat = session.chat_ctx.copy()
    chat.add_message(role="user", content=text)
    await session.update_chat_ctx(chat)
    return await session.generate_reply()


def test_a_voice_turn(stock: Running) -> None:
    async def talk() -> None:
        async with speaker(stock) as session:
            begun: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
            written: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
            session.on("generation_created", begun.set_result)
            session.on("input_audio_transcription_completed", lambda e: e.is_final and written.set_result(e.transcript))
            for frame in frames():
                session.push_audio(frame)
            text, samples = await heard(await begun)
            assert text == "You said it."
            assert samples > 0
            assert await written == HEARD

    run(talk())


def test_an_interruption(stock: Running) -> None:
    async def talk() -> None:
        async with speaker(stock) as session:
            generation = await ask(session, "Tell me a story")
            async for message in generation.message_stream:
                await anext(aiter(message.audio_stream))
                session.interrupt()
                session.truncate(message_id=message.message_id, modalities=["audio"], audio_end_ms=100)
            await falls_silent(stock)
            text, _ = await heard(await ask(session, "Hello!"))
            assert text.startswith("Hello")

    run(talk())


def test_a_function(stock: Running) -> None:
    @llm.function_tool
    async def get_weather(city: str) -> str:
        """Tell the weather."""
        return f"sunny-in-{city}"

    async def talk() -> None:
        async with speaker(stock) as session:
            await session.update_tools([get_weather])
            generation = await ask(session, "What's the weather?")
            calls = [call async for call in generation.function_stream]
            assert [(call.name, call.arguments) for call in calls] == [("get_weather", '{"city": "Paris"}')]
            chat = session.chat_ctx.copy()
            chat.items.append(
                llm.FunctionCallOutput(call_id=calls[0].call_id, name="get_weather", output="sunny", is_error=False)
            )
            await session.update_chat_ctx(chat)
            text, samples = await heard(await session.generate_reply())
            assert text == "It is sunny."
            assert samples > 0

    run(talk())


def test_transcripts_as_they_come(stock: Running) -> None:
    async def talk() -> str:
        async with context.open():
            ears = plugin.STT(base_url=f"http://{stock.address}/v1", api_key="any", use_realtime=True)
            stream = ears.stream()
            for frame in frames():
                stream.push_frame(frame)
            async for event in stream:
                if event.type == stt.SpeechEventType.FINAL_TRANSCRIPT:
                    await stream.aclose()
                    return str(event.alternatives[0].text)
        raise AssertionError("nothing was written down")

    assert run(talk()) == HEARD


def test_speech_and_transcripts_over_http(stock: Running) -> None:
    async def talk() -> None:
        async with context.open():
            base = {"base_url": f"http://{stock.address}/v1", "api_key": "any"}
            samples = 0
            async for event in plugin.TTS(**base).synthesize("Hello there!"):
                samples += event.frame.samples_per_channel
            assert samples > 0
            found = await plugin.STT(**base).recognize(rtc.combine_audio_frames(frames()))
            assert found.alternatives[0].text == HEARD

    run(talk())
