"""A server for stock clients: a talker that hears one sentence, tells a long story, and calls a function when asked."""

from __future__ import annotations

import asyncio
import importlib
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
from serve_lab import Running, num_answers, pcm, question, running, slow_down
from tools_lab import scripted_talker, weather
from torch import Tensor

from anytalk.plugins.components import BuildContext
from anytalk.plugins.contracts import Ears, Heard

HEARD = "What did I say?"
STORY = " ".join(f"word{number}" for number in range(60))
PIECE_BYTES = 960  # 20 ms


class OneSentence(Ears):
    """Hears the same sentence in whatever is said."""

    @classmethod
    def build(cls, options: object, context: BuildContext) -> OneSentence:
        return cls()

    @property
    def sample_rate_hz(self) -> int:
        return 16_000

    def listen(self, waves: Sequence[Tensor]) -> list[Heard]:
        return [Heard(text=HEARD) for _ in waves]


def answer(said: list[str]) -> str:
    if said[-1] == HEARD:
        return "You said it."
    return STORY if "story" in said[-1] else weather(said)


def optional(*names: str) -> list[Any]:
    """Modules of packages that aren't installed everywhere; their own warnings are their own."""
    found = []
    for name in names:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                found.append(importlib.import_module(name))
            except ImportError as error:
                pytest.skip(f"needs `make test-clients`: {error}", allow_module_level=True)
    return found


@contextmanager
def stock_server(max_columns: int = 200) -> Iterator[Running]:
    """Serve the talker; its answers take a moment, so that there is something to interrupt."""
    talker = scripted_talker(answer)
    talker.model.ears = OneSentence()
    with running(talker, "scripted", max_columns=max_columns) as server:
        slow_down(server, 0.01)
        yield server


def spoken(rate_hz: int = 24_000) -> list[bytes]:
    """A spoken question in pieces of 20 ms, with the silence after it; 16-bit."""
    data, size = pcm(question(rate_hz=rate_hz)), PIECE_BYTES * rate_hz // 24_000
    return [data[start : start + size] for start in range(0, len(data) - size + 1, size)]


async def falls_silent(server: Running) -> None:
    """Wait until no answer is being made; it takes a second at most after an interruption."""
    await asyncio.to_thread(server.wait_until, lambda: num_answers(server.state.model) == 0, 1.0)
