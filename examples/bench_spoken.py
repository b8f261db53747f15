"""How long the server lets a speaker wait: from the end of a spoken question to the first sound of the answer.

    python examples/bench_spoken.py mytalker --turns 10

Starts `anytalk serve` on a free port, and plays a sound file to its Realtime API as a microphone would: 20 ms every
20 ms, then silence. Once the server finds the end of the turn (`server_vad`, its silence of 500 ms included), and once
the client commits it with the last word (`manual`). Each question is a conversation of its own; the answer is cancelled
with its first sound. Prints medians and 90th percentiles: from the end of the last word, and from the turn's commit.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from bench_serve import Served, spread
from openai import AsyncOpenAI
from rich.console import Console
from rich.table import Table

from anytalk.grid.audio import SILENCE_PEAK, read_wave, to_pcm16

RATE_HZ = 24_000
PIECE_S = 0.02
QUESTION = Path(__file__).resolve().parent / "demo" / "weasels.wav"
MODES: dict[str, dict[str, Any] | None] = {"server_vad": {"type": "server_vad"}, "manual": None}
_WORD = 0.02
"""Of the file's peak: what is softer belongs to no word."""
_PATIENCE_S = 60.0


@dataclass(frozen=True)
class Waited:
    """One question, in seconds until the first sound of its answer."""

    mode: str  # of `MODES`
    from_speech_s: float  # since the end of the last word was sent
    from_commit_s: (
        float  # since the turn was over: of `server_vad` when the client was told, of `manual` when it said so
    )
    heard: str  # what the server wrote down


def spoken(path: Path) -> np.ndarray:
    """(N,) float32 at 24 kHz: the file without the silence after its last word."""
    wave = read_wave(path, RATE_HZ)
    loud = np.flatnonzero(np.abs(wave) >= max(_WORD * np.abs(wave).max(), SILENCE_PEAK))
    if not len(loud):
        sys.exit(f"Error: {path} is silent; give a spoken question")
    return wave[: loud[-1] + 1]


async def play(connection: Any, wave: np.ndarray) -> None:
    """Send sound in real time; returns with its last sample."""
    step, began = int(RATE_HZ * PIECE_S), time.perf_counter()
    for start in range(0, len(wave), step):
        piece = wave[start : start + step]
        await asyncio.sleep(began + (start + len(piece)) / RATE_HZ - time.perf_counter())
        await connection.input_audio_buffer.append(audio=base64.b64encode(to_pcm16(piece)).decode())


@asynccontextmanager
async def silence(connection: Any) -> AsyncIterator[None]:
    """Go on sending silence while the block runs."""
    sending = asyncio.create_task(play(connection, np.zeros(int(RATE_HZ * _PATIENCE_S), np.float32)))
    try:
        yield
    finally:
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)


async def ask(address: str, wave: np.ndarray, mode: str) -> Waited:
    """Speak one question in a conversation of its own."""
    client = AsyncOpenAI(api_key="none", base_url=address, max_retries=0)
    heard = {"turn_detection": MODES[mode], "transcription": {"model": "any"}}
    async with client.realtime.connect(model="talker") as connection:
        await connection.session.update(session={"type": "realtime", "audio": {"input": heard}})
        async for event in connection:
            if event.type == "session.updated":
                break
        await play(connection, wave)
        ended = committed = time.perf_counter()
        if mode == "manual":
            await connection.input_audio_buffer.commit()
            await connection.response.create()
            return await until_sound(connection, mode, ended, committed)
        async with silence(connection):
            return await until_sound(connection, mode, ended, committed)


async def until_sound(connection: Any, mode: str, ended: float, committed: float) -> Waited:
    """Wait for the first sound, then for the transcript and the answer's end."""
    first, words, is_over = None, None, False
    async for event in connection:
        if event.type == "input_audio_buffer.committed" and mode == "server_vad":
            committed = time.perf_counter()
        elif event.type == "response.output_audio.delta" and first is None:
            first = time.perf_counter()
            await connection.response.cancel()
        elif event.type == "conversation.item.input_audio_transcription.completed":
            words = event.transcript
        elif event.type == "response.done":
            is_over = True
        elif event.type == "error":
            sys.exit(f"Error: the server says: {event.error.message}")
        if is_over and first is None:
            sys.exit("Error: the answer has no sound; choose another --question")
        if is_over and words is not None and first is not None:
            return Waited(mode, first - ended, first - committed, words)
    sys.exit("Error: the connection was closed")


def measure(arguments: argparse.Namespace) -> list[Waited]:
    """Start the server, ask once to warm up, then measure both modes."""
    wave = spoken(arguments.question)
    server = Served(arguments.talker, 2, arguments.threads, arguments.max_columns, arguments.arithmetic)
    try:
        asyncio.run(ask(server.address, wave, "manual"))
        return [asyncio.run(ask(server.address, wave, mode)) for mode in MODES for _ in range(arguments.turns)]
    finally:
        server.stop()


def show(title: str, waits: list[Waited]) -> None:
    """Print a table."""
    table = Table(title=title)
    table.add_column("to the first sound, s, p50 / p90")
    for name in ("from the last word", "from the commit"):
        table.add_column(name, justify="right")
    for mode in MODES:
        of_mode = [wait for wait in waits if wait.mode == mode]
        from_speech, from_commit = [w.from_speech_s for w in of_mode], [w.from_commit_s for w in of_mode]
        table.add_row(mode, spread(from_speech), spread(from_commit))
    Console().print(table)
    print("heard:", *sorted({wait.heard for wait in waits}))


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("talker", type=Path)
    parser.add_argument("--question", type=Path, default=QUESTION, help="a sound file; default: the demo's person, 3 s")
    parser.add_argument("--turns", type=int, default=10, help="questions in each mode")
    parser.add_argument("--max-columns", type=int, default=256)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--arithmetic", default="auto", help="as of `anytalk serve`")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    waits = measure(arguments)
    show(f"{arguments.talker.name}, {arguments.question.name}, {arguments.turns} times each", waits)
    if arguments.json:
        arguments.json.write_text(json.dumps([asdict(wait) for wait in waits], indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
