"""pipecat-ai with its defaults: a voice turn, an interruption, a function, speech over HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from clients_lab import HEARD, PIECE_BYTES, optional, spoken
from serve_lab import Running, run

frames, pipeline, worker, runner, processor, contexts, aggregators, realtime, tts = optional(
    "pipecat.frames.frames",
    "pipecat.pipeline.pipeline",
    "pipecat.pipeline.worker",
    "pipecat.workers.runner",
    "pipecat.processors.frame_processor",
    "pipecat.processors.aggregators.llm_context",
    "pipecat.processors.aggregators.llm_response_universal",
    "pipecat.services.openai.realtime.llm",
    "pipecat.services.openai.tts",
)
schemas, tool_schemas, events, stt = optional(
    "pipecat.adapters.llm.schemas.function_schema",
    "pipecat.adapters.llm.schemas.tools_schema",
    "pipecat.services.openai.realtime.events",
    "pipecat.services.openai.stt",
)
pytestmark = pytest.mark.filterwarnings("ignore")


class Sink(processor.FrameProcessor):  # type: ignore[misc]
    """Keeps what comes out of the pipeline."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Any] = []

    async def process_frame(self, frame: Any, direction: Any) -> None:
        await super().process_frame(frame, direction)
        self.seen.append(frame)
        await self.push_frame(frame, direction)

    def text(self) -> str:
        """What was said so far."""
        return "".join(f.text for f in self.seen if isinstance(f, frames.TTSTextFrame))

    def has(self, kind: type[Any]) -> bool:
        return any(isinstance(frame, kind) for frame in self.seen)


async def until(condition: Callable[[], bool]) -> None:
    """Wait for something of the pipeline's."""
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.02)


@asynccontextmanager
async def flow(service: Any, context: Any | None = None) -> AsyncIterator[tuple[Any, Sink]]:
    """A running pipeline around one service; an error that it raises fails the test."""
    sink, parts = Sink(), [service]
    if context is not None:
        pair = aggregators.LLMContextAggregatorPair(context)
        parts = [pair.user(), service, sink, pair.assistant()]
    made = worker.PipelineWorker(
        pipeline.Pipeline(parts if context is not None else [service, sink]),
        params=worker.PipelineParams(audio_in_sample_rate=24_000, audio_out_sample_rate=24_000),
        enable_rtvi=False,
        cancel_on_idle_timeout=False,
    )
    started = asyncio.Event()

    @made.event_handler("on_pipeline_started")
    async def on_started(*_: Any) -> None:
        started.set()

    going = asyncio.create_task(runner.WorkerRunner(handle_sigint=False).run(made))
    await asyncio.wait_for(started.wait(), 10)
    yield made, sink
    await made.cancel()
    await asyncio.wait_for(going, 10)
    assert not sink.has(frames.ErrorFrame)


def speaker(stock: Running) -> Any:
    """The realtime service; only its transcription, which pipecat leaves off, is switched on."""
    heard = events.AudioInput(transcription=events.InputAudioTranscription())
    properties = events.SessionProperties(audio=events.AudioConfiguration(input=heard))
    settings = realtime.OpenAIRealtimeLLMService.Settings(session_properties=properties)
    return realtime.OpenAIRealtimeLLMService(
        api_key="any", base_url=f"ws://{stock.address}/v1/realtime", settings=settings
    )


def asked(text: str, **options: Any) -> Any:
    return contexts.LLMContext([{"role": "user", "content": text}], **options)


async def speak(made: Any) -> None:
    for piece in spoken():
        await made.queue_frame(frames.InputAudioRawFrame(audio=piece, sample_rate=24_000, num_channels=1))
        await asyncio.sleep(0)


def test_a_voice_turn(stock: Running) -> None:
    async def talk() -> None:
        context = contexts.LLMContext([{"role": "developer", "content": "Say hello!"}])
        async with flow(speaker(stock), context) as (made, sink):
            await made.queue_frame(frames.LLMRunFrame())
            await until(lambda: "Hello" in sink.text())
            await until(lambda: sink.has(frames.TTSStoppedFrame))
            await speak(made)
            await until(lambda: "You said it." in sink.text())
            assert sink.has(frames.TTSAudioRawFrame)
            await until(lambda: HEARD in str(context.get_messages()))

    run(talk())


def test_an_interruption(stock: Running) -> None:
    async def talk() -> None:
        async with flow(speaker(stock), asked("Tell me a story")) as (made, sink):
            await made.queue_frame(frames.LLMRunFrame())
            await until(lambda: sink.has(frames.TTSAudioRawFrame))
            await speak(made)
            await until(lambda: sink.has(frames.InterruptionFrame))
            await until(lambda: "You said it." in sink.text())
            assert "word59" not in sink.text()

    run(talk())


def test_a_function(stock: Running) -> None:
    schema = schemas.FunctionSchema(
        name="get_weather",
        description="Tell the weather.",
        properties={"city": {"type": "string"}},
        required=["city"],
    )

    async def get_weather(call: Any) -> None:
        await call.result_callback(f"sunny-in-{call.arguments['city']}")

    async def talk() -> None:
        service = speaker(stock)
        service.register_function("get_weather", get_weather)
        context = asked("What's the weather?", tools=tool_schemas.ToolsSchema(standard_tools=[schema]))
        async with flow(service, context) as (made, sink):
            await made.queue_frame(frames.LLMRunFrame())
            await until(lambda: "sunny-in-Paris" in sink.text())

    run(talk())


def test_transcripts_as_they_come(stock: Running) -> None:
    async def talk() -> None:
        service = stt.OpenAIRealtimeSTTService(api_key="any", base_url=f"ws://{stock.address}/v1/realtime")
        async with flow(service) as (made, sink):
            await until(lambda: service._session_ready)  # what comes earlier is not sent
            await made.queue_frame(frames.VADUserStartedSpeakingFrame())
            await speak(made)
            await made.queue_frame(frames.VADUserStoppedSpeakingFrame())
            await until(lambda: sink.has(frames.TranscriptionFrame))
            assert [f.text for f in sink.seen if isinstance(f, frames.TranscriptionFrame)] == [HEARD]

    run(talk())


def test_speech_over_http(stock: Running) -> None:
    async def talk() -> None:
        service = tts.OpenAITTSService(api_key="any", base_url=f"http://{stock.address}/v1")
        async with flow(service) as (made, sink):
            await made.queue_frame(frames.TTSSpeakFrame("Hello there!"))
            await until(
                lambda: sum(len(f.audio) for f in sink.seen if isinstance(f, frames.TTSAudioRawFrame)) > PIECE_BYTES
            )

    run(talk())
