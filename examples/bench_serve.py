"""What many conversations at once cost: one server, one question alone, then as many sessions as asked for together.

    python examples/bench_serve.py mytalker --sessions 8 16 32 --turns 1

Starts `anytalk serve` on a free port and talks to it through OpenAI's client. Each session asks its own questions,
typed, and each answer must be the one that the question got alone: nothing is lost or crossed. Prints the times to the
first sound and to the end (median and 90th percentile), how long listeners wait in the middle of answers, the server's
CPU seconds per answer and per second of speech, how many seconds of speech it makes in a second (it is saturated where
more sessions don't raise that), and its memory before and while it answers.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil
from openai import AsyncOpenAI
from rich.console import Console
from rich.table import Table

QUESTIONS = (
    "What is the capital of France?",
    "How many days are in a week?",
    "What color is the sky?",
    "What do bees make?",
    "Who wrote Romeo and Juliet?",
    "What is the opposite of hot?",
    "Which planet do we live on?",
    "How do you spell cat?",
)
_START_S = 600.0
_PCM_BYTES_PER_S = 48_000
_MEMORY_PARTS = 8


@dataclass(frozen=True)
class Answered:
    """One answer, timed from the request for it."""

    question: str
    text: str
    first_sound_s: float
    end_s: float
    speech_s: float
    late_s: float  # the longest that a listener had heard all there was, and waited


class Served:
    """`anytalk serve` as a process of its own."""

    def __init__(self, talker: Path, sessions: int, threads: int | None, columns: int, arithmetic: str) -> None:
        words = [sys.executable, "-m", "anytalk", "serve", str(talker), "--port", "0"]
        words += ["--max-sessions", str(sessions)]
        words += ["--requests-per-minute", "100000", "--max-columns", str(columns)]
        words += ["--arithmetic", arithmetic] + ([] if threads is None else ["--threads", str(threads)])
        self._process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        self.watched = psutil.Process(self._process.pid)
        self.address = self._wait()

    def _wait(self) -> str:
        assert self._process.stdout is not None
        said = []
        end = time.monotonic() + _START_S
        for line in self._process.stdout:
            said.append(line)
            found = re.search(r"API\s+(http\S+)", line)
            if found:
                return found.group(1)
            if time.monotonic() > end:
                break
        self.stop()
        sys.exit("Error: the server did not start:\n" + "".join(said))

    def cpu_s(self) -> float:
        """CPU seconds so far."""
        times = self.watched.cpu_times()
        return float(times.user + times.system)

    def memory_mb(self) -> float:
        """Resident memory."""
        return float(self.watched.memory_info().rss) / 1e6

    def stop(self) -> None:
        """End it."""
        self._process.terminate()
        self._process.wait(30)


async def ask(connection: Any, question: str) -> Answered:
    """One typed turn of a session."""
    content = [{"type": "input_text", "text": question}]
    await connection.conversation.item.create(item={"type": "message", "role": "user", "content": content})
    began = time.perf_counter()
    await connection.response.create()
    first, text, sound_bytes, late = None, "", 0, 0.0
    async for event in connection:
        if event.type == "response.output_audio.delta":
            passed = time.perf_counter() - began
            first = first or passed
            late = max(late, passed - first - sound_bytes / _PCM_BYTES_PER_S)
            sound_bytes += len(event.delta) * 3 // 4
        elif event.type == "response.output_audio_transcript.done":
            text = event.transcript
        elif event.type == "error":
            sys.exit(f"Error: the server says: {event.error.message}")
        elif event.type == "response.done":
            end = time.perf_counter() - began
            return Answered(question, text, first or end, end, sound_bytes / _PCM_BYTES_PER_S, late)
    sys.exit("Error: the connection was closed")


async def session(
    address: str, questions: Sequence[str], answered: Callable[[], None] = lambda: None
) -> list[Answered]:
    """Each question in a conversation of its own, so that answers can be compared."""
    client = AsyncOpenAI(api_key="none", base_url=address, max_retries=0)
    answers = []
    for question in questions:
        async with client.realtime.connect(model="talker") as connection:
            answers.append(await ask(connection, question))
        answered()
    return answers


async def together(address: str, sessions: int, turns: int, answered: Callable[[], None]) -> list[Answered]:
    """All sessions at once; session number n begins with question number n."""
    asked = [[QUESTIONS[(n + turn) % len(QUESTIONS)] for turn in range(turns)] for n in range(sessions)]
    found = await asyncio.gather(*(session(address, questions, answered) for questions in asked))
    return [answer for answers in found for answer in answers]


class MemoryWatch:
    """The server's memory while it answers, at the end of each part of the answers."""

    def __init__(self, server: Served, answers: int) -> None:
        self._server, self._step, self._count = server, max(1, answers // _MEMORY_PARTS), 0
        self.seen_mb = [server.memory_mb()]

    def answered(self) -> None:
        """One more answer is over."""
        self._count += 1
        if self._count % self._step == 0:
            self.seen_mb.append(self._server.memory_mb())


def spread(values: Sequence[float]) -> str:
    """Median and 90th percentile."""
    tenths = statistics.quantiles(values, n=10, method="inclusive") if len(values) > 1 else [values[0]] * 9
    return f"{statistics.median(values):.2f} / {tenths[8]:.2f}"


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Run it all."""
    server = Served(
        arguments.talker, max(arguments.sessions), arguments.threads, arguments.max_columns, arguments.arithmetic
    )
    try:
        asyncio.run(session(server.address, QUESTIONS[:1]))  # warm
        cpu = server.cpu_s()
        alone = asyncio.run(session(server.address, QUESTIONS[: max(arguments.sessions)]))
        figures: dict[str, Any] = {"alone": told(alone, server.cpu_s() - cpu, sum(a.end_s for a in alone))}
        right = {answer.question: answer.text for answer in alone}
        figures["crowds"] = [crowd(server, count, arguments.turns, right) for count in arguments.sessions]
        return figures
    finally:
        server.stop()


def crowd(server: Served, sessions: int, turns: int, right: dict[str, str]) -> dict[str, Any]:
    """So many sessions at once, and how many answers were not those that the questions got alone."""
    watch = MemoryWatch(server, sessions * turns)
    cpu, began = server.cpu_s(), time.perf_counter()
    answers = asyncio.run(together(server.address, sessions, turns, watch.answered))
    figures = told(answers, server.cpu_s() - cpu, time.perf_counter() - began)
    others = sum(right.get(answer.question, answer.text) != answer.text for answer in answers)
    return {"sessions": sessions, **figures, "other_answers": others, "memory_mb": watch.seen_mb}


def told(answers: Sequence[Answered], cpu_s: float, wall_s: float) -> dict[str, Any]:
    """The figures of some answers that took so many seconds, together, of the server's processors and of the clock."""
    speech_s = max(sum(answer.speech_s for answer in answers), 1e-9)
    return {
        "answers": [asdict(answer) for answer in answers],
        "cpu_s_per_answer": cpu_s / len(answers),
        "cpu_s_per_speech_s": cpu_s / speech_s,
        "speech_s_per_s": speech_s / wall_s,
        "wall_s": wall_s,
    }


def show(figures: dict[str, Any]) -> None:
    """Print a table."""
    groups = [figures["alone"], *figures["crowds"]]
    table = Table()
    for name in ("", "alone", *(f"{group['sessions']} at once" for group in figures["crowds"])):
        table.add_column(name, justify="right" if name else "left")
    for label, key in (
        ("first sound, s, p50 / p90", "first_sound_s"),
        ("whole answer, s, p50 / p90", "end_s"),
        ("waiting inside an answer, s, p50 / p90", "late_s"),
    ):
        table.add_row(label, *(spread([a[key] for a in group["answers"]]) for group in groups))
    for label, key in (
        ("CPU seconds per answer", "cpu_s_per_answer"),
        ("CPU seconds per second of speech", "cpu_s_per_speech_s"),
        ("seconds of speech made in a second", "speech_s_per_s"),
    ):
        table.add_row(label, *(f"{group[key]:.2f}" for group in groups))
    others = (f"{group['other_answers']} of {len(group['answers'])}" for group in figures["crowds"])
    table.add_row("answers other than alone", "", *others)
    table.add_row("memory at most, MB", "", *(f"{max(group['memory_mb']):.0f}" for group in figures["crowds"]))
    Console(width=60 + 20 * len(groups)).print(table)


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("talker", type=Path)
    parser.add_argument("--sessions", type=int, nargs="+", default=[8], help="how many at once; several: in turn")
    parser.add_argument("--turns", type=int, default=2, help="questions of each session")
    parser.add_argument("--max-columns", type=int, default=256)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--arithmetic", default="auto", help="as of `anytalk serve`")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    figures = measure(arguments)
    show(figures)
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
