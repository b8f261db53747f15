"""What a server does when more come than it has places, when one talks for long, and when many come and go.

    anytalk attach tiny -o t --encoder tiny --codec tiny
    python examples/bench_load.py t

Twelve clients ask at eight places, and come back when they are refused: every answer must be the one that its question
got alone. Then 1,500 connections, of which every second one is cut without a word, and one conversation of 300 turns.
Prints the server's memory and its open files before, between and after.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import sys
import time
import urllib.request
from collections import Counter
from pathlib import Path

from bench_serve import QUESTIONS, Served, ask
from openai import AsyncOpenAI
from websockets.asyncio.client import connect

PLACES, CLIENTS, ANSWERS = 8, 12, 120
TURNS, TURNS_A_PART = 300, 50
CONNECTIONS = 1_500
COLUMNS = 24
_BACK_AFTER_S = 0.1
_FULL = "session_limit_reached"


async def crowd(address: str) -> Counter[str]:
    """Twelve clients at eight places, until they have their answers."""
    client = AsyncOpenAI(api_key="none", base_url=address, max_retries=0)
    alone: dict[str, str] = {}
    for question in QUESTIONS:
        async with client.realtime.connect(model="t") as connection:
            alone[question] = (await ask(connection, question)).text
    found: Counter[str] = Counter()
    numbers = iter(range(ANSWERS))

    async def come_again_and_again() -> None:
        for number in numbers:
            question = QUESTIONS[number % len(QUESTIONS)]
            while True:
                async with client.realtime.connect(model="t") as connection:
                    event = await connection.recv()
                    if event.type == "session.created":
                        answered = await ask(connection, question)
                        found["answers"] += 1
                        found["other answers than alone"] += answered.text != alone[question]
                        break
                    found["refused"] += event.type == "error" and event.error.code == _FULL
                    found["anything else"] += event.type != "error" or event.error.code != _FULL
                await asyncio.sleep(_BACK_AFTER_S)

    await asyncio.gather(*(come_again_and_again() for _ in range(CLIENTS)))
    return found


async def long_talk(server: Served) -> list[float]:
    """One conversation; the server's memory in MB after each part of its turns."""
    client, seen = AsyncOpenAI(api_key="none", base_url=server.address, max_retries=0), []
    async with client.realtime.connect(model="t") as connection:
        for turn in range(TURNS):
            await ask(connection, f"{QUESTIONS[turn % len(QUESTIONS)]} ({turn})")
            if (turn + 1) % TURNS_A_PART == 0:
                seen.append(server.memory_mb())
    return seen


async def come_and_go(address: str) -> Counter[str]:
    """Connections, twelve at a time; every second one is cut."""
    found: Counter[str] = Counter()
    numbers = iter(range(CONNECTIONS))
    url = address.replace("http", "ws", 1) + "/realtime"

    async def visit() -> None:
        for number in numbers:
            async with connect(url) as connection:
                event = json.loads(await connection.recv())
                found["let in" if event["type"] == "session.created" else str(event["error"]["code"])] += 1
                if number % 2:
                    connection.transport.abort()

    await asyncio.gather(*(visit() for _ in range(CLIENTS)))
    return found


def places_taken(address: str) -> int:
    """How many places the server says are taken, a moment later."""
    time.sleep(1)
    with urllib.request.urlopen(address.removesuffix("/v1") + "/health") as answer:
        return int(json.load(answer)["sessions"])


def main() -> None:
    """Measure and print; the status is 1 where an answer was another's, or a place was lost."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("talker", type=Path)
    talker = parser.parse_args().talker
    server = Served(talker, PLACES, 1, COLUMNS, "auto")
    try:
        began = time.perf_counter()

        def now() -> str:
            return f"{server.memory_mb():.0f} MB, {server.watched.num_fds()} open files"

        print("before:", now())
        found = asyncio.run(crowd(server.address))
        print(f"{CLIENTS} clients at {PLACES} places:", _told(found), "|", now())
        came = asyncio.run(come_and_go(server.address))
        taken = places_taken(server.address)
        print(f"{CONNECTIONS} connections:", _told(came), "|", now(), f"| places taken afterwards: {taken}")
        print(f"{TURNS} turns of one conversation, MB:", *(f"{mb:.0f}" for mb in asyncio.run(long_talk(server))))
        print(f"{time.perf_counter() - began:.0f} s, {server.cpu_s():.0f} s of processor time, in all")
        wrong = found["other answers than alone"] + found["anything else"] + taken + (came.total() != CONNECTIONS)
        sys.exit(int(wrong > 0))
    finally:
        server.stop()


def _told(found: Counter[str]) -> str:
    return ", ".join(itertools.starmap("{} {}".format, ((count, name) for name, count in found.items())))


if __name__ == "__main__":
    main()
