"""Serve ``/v1/audio/transcriptions``: cut sound files at pauses and transcribe the pieces."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from typing import Annotated

import numpy as np
import torch
from fastapi import APIRouter, File, Form, Request, UploadFile
from fastapi.concurrency import run_in_threadpool
from starlette.formparsers import MultiPartParser
from starlette.responses import Response

from anytalk.decode.jobs import Ended, Failed, Question, Said, Speech
from anytalk.decode.telling import TextDelta
from anytalk.grid.audio import MIN_DURATION_S, SILENCE_PEAK
from anytalk.grid.tasks import TASKS
from anytalk.plugins.contracts import Ears, TimesWords
from anytalk.serve.errors import RequestError
from anytalk.serve.hints import ears_told
from anytalk.serve.http.answers import begun, errors_as_events, refused, server_sent, unless_gone
from anytalk.serve.http.files_out import read_sound
from anytalk.serve.http.transcripts import Segment, Transcript, check_wanted, spoken_span, transcript_as
from anytalk.serve.state import ServerState


def transcription_routes(state: ServerState) -> APIRouter:
    """Return the endpoint."""
    router = APIRouter()
    # Larger files would be written to disk.
    MultiPartParser.spool_max_size = max(MultiPartParser.spool_max_size, state.settings.max_body_bytes + 1)

    @router.post("/v1/audio/transcriptions")
    async def transcriptions(
        request: Request,
        file: Annotated[UploadFile, File()],
        model: Annotated[str, Form()] = "",
        language: Annotated[str | None, Form()] = None,
        prompt: Annotated[str | None, Form()] = None,
        response_format: Annotated[str, Form()] = "json",
        temperature: Annotated[float, Form()] = 0.0,
        stream: Annotated[bool, Form()] = False,
        granularities: Annotated[list[str], Form(alias="timestamp_granularities[]")] = [],  # noqa: B006
    ) -> Response:
        others = set(await request.form()) - _FIELDS
        own = state.talker.model.ears
        check_wanted(response_format, granularities, others, stream, isinstance(own, TimesWords))
        if own is not None and temperature:
            said = "these ears write the likeliest words; leave `temperature` at 0"
            raise RequestError(said, "unsupported_value", "temperature")
        if prompt is not None and len(prompt) > _MAX_PROMPT:
            said = f"`prompt` has {len(prompt)} characters; {_MAX_PROMPT} are allowed"
            raise RequestError(said, "string_above_max_length", "prompt")
        told = ears_told(state.talker, language, prompt)
        written = Transcript(language=language or "", granularities=granularities)
        pieces = _written(state, written, await file.read(), file.filename or "the file", temperature, told)
        if stream:
            return await begun(errors_as_events(_events(pieces, written)), "text/event-stream")
        await unless_gone(request, _all_of(pieces))
        return transcript_as(response_format, written)

    return router


_FIELDS = {"file", "model", "language", "prompt", "response_format", "temperature", "stream"}
_FIELDS |= {"timestamp_granularities[]", "timestamp_granularities"}
_MAX_PROMPT = 10_000
"""Characters; of a longer one Whisper would read the end only."""


async def _written(
    state: ServerState, written: Transcript, data: bytes, name: str, temperature: float, told: Ears | None
) -> AsyncGenerator[str, None]:
    """Transcribe a file while holding a place; yield the text as it comes, and add its segments to `written`.

    Raises:
        RequestError: no place is left, or the sound can't be read or heard.
    """
    await state.admission.wait_for_leaving()
    with state.admission.place():
        rate_hz = state.ear_rate_hz
        longest_s = state.max_turn_s if state.talker.model.ears is None else state.settings.max_file_s
        wave = await run_in_threadpool(read_sound, data, name, rate_hz, longest_s, "file")
        written.seconds = round(len(wave) / rate_hz, 3)
        for start, piece in _pieces(state, wave):
            # Pieces that are too short or silent hold no words.
            if len(piece) < MIN_DURATION_S * rate_hz or float(np.abs(piece).max()) < SILENCE_PEAK:
                continue
            speech = Speech(piece, is_timed="word" in written.granularities, ears=told)
            said = ""
            async with aclosing(_heard(state, speech, temperature)) as texts:
                async for text in texts:
                    # One space separates the texts of two pieces.
                    if not said.strip() and text.strip() and written.segments:
                        text = f" {text.lstrip()}"
                    said += text
                    yield text
            if said.strip():
                written.segments.append(Segment.of(said.strip(), start / rate_hz, spoken_span(piece, rate_hz), speech))


def _pieces(state: ServerState, wave: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """Yield start and sound of each piece, cut in pauses by transcribing ears; RequestError if one is too long."""
    ears, start = state.talker.model.ears, 0
    while start < len(wave):
        rest = wave[start:]
        size = (0 if ears is None else ears.first_cut(torch.from_numpy(rest))) or len(rest)
        if ears is not None and ears.max_duration_s is not None and size > ears.max_duration_s * ears.sample_rate_hz:
            said = f"the ears take at most {ears.max_duration_s:g} s at once; cut the file into pieces"
            raise RequestError(said, "audio_too_long", "file")
        yield start, rest[:size].copy()
        start += size


async def _heard(state: ServerState, speech: Speech, temperature: float) -> AsyncGenerator[str, None]:
    """Yield the text of one piece: at once from transcribing ears, token by token from the model."""
    question = Question(
        turns=[Said("user", None, speech)],
        task=TASKS["A1T1"],
        options=state.decode_options(temperature=temperature),
        max_context_columns=state.settings.max_context_columns,
    )
    status = "cancelled"
    try:
        async with aclosing(state.model.answer(question)) as events:
            async for event in events:
                if isinstance(event, Failed):
                    status = "failed"
                    raise refused(event)
                if isinstance(event, Ended) or speech.text is not None:
                    status = "completed"
                if speech.text is not None:
                    yield speech.text
                    return
                if isinstance(event, TextDelta):
                    yield event.text
    finally:
        state.metrics.answers.labels(status).inc()


async def _all_of(pieces: AsyncGenerator[str, None]) -> None:
    async with aclosing(pieces):
        async for _ in pieces:
            pass


async def _events(pieces: AsyncGenerator[str, None], written: Transcript) -> AsyncGenerator[bytes, None]:
    async with aclosing(pieces):
        async for text in pieces:
            if text:
                yield server_sent({"type": "transcript.text.delta", "delta": text})
    yield server_sent({"type": "transcript.text.done", "text": written.text})
