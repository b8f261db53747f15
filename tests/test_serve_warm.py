"""What is loaded or built on first use is there before the addresses are printed."""

from __future__ import annotations

import asyncio
import functools
import gc
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import tiny_talker
from talkers import make_talker
from torch import Tensor

from anytalk.decode.jobs import Ended, Question, Said, Speech
from anytalk.decode.telling import AudioDelta
from anytalk.grid.tasks import TASKS
from anytalk.model.talker import Talker
from anytalk.plugins.contracts import Heard
from anytalk.serve.settings import ServeSettings
from anytalk.serve.state import ServerState
from anytalk.serve.warm_up import warm_up


class LateTables(torch.nn.Module):
    """Stands before a part, and builds a table when the part is first called."""

    def __init__(self, part: torch.nn.Module, method: str) -> None:
        super().__init__()
        self.table: Tensor | None = None
        called = getattr(part, method)

        def first_builds(*args: Any, **kwargs: Any) -> Any:
            if self.table is None:
                self.table = torch.ones(3)
            return called(*args, **kwargs)

        setattr(part, method, first_builds)
        part.late = self


def still_missing(talker: Talker) -> dict[str, object]:
    """All that is None or empty in the talker's parts, the misses of our function caches, and what is imported."""
    found: dict[str, object] = {"imported": len([name for name in sys.modules if name.partition(".")[0] != "tests"])}
    for root, part in (("model", talker.model), ("codec", talker.codec)):
        for name, child in part.named_modules():
            for key, value in vars(child).items():
                found[f"{root}.{name}.{key}"] = len(value) if isinstance(value, dict | list) else value is None
    for cache in gc.get_objects():
        if type(cache) is functools._lru_cache_wrapper and str(cache.__module__).startswith("anytalk"):
            found[f"{cache.__module__}.{cache.__qualname__}"] = cache.cache_info().misses
    return found


async def answer(state: ServerState, said: Said, task: str) -> list[Any]:
    question = Question(turns=[said], task=TASKS[task], options=state.decode_options(30))
    return [event async for event in state.model.answer(question)]


def test_nothing_is_built_by_the_first_question_that_is_left() -> None:
    talker = make_talker()
    late = [
        LateTables(part, method)
        for part, method in (
            (talker.model.encoder, "forward"),
            (talker.model.backbone, "text_logits"),
            (talker.codec, "new_stream"),
        )
    ]
    state = ServerState(talker, ServeSettings(), "tiny")
    before = still_missing(talker)
    assert all(part.table is None for part in late)
    try:
        warm_up(state)
        warm = still_missing(talker)
        assert all(part.table is not None for part in late)
        assert warm != before
        sound = np.random.default_rng(1).standard_normal(16_000).astype(np.float32) / 10
        for said, task in ((Said("user", "Hello"), "T1A2"), (Said("user", speech=Speech(sound)), "A1A2")):
            events = asyncio.run(answer(state, said, task))
            assert isinstance(events[-1], Ended)
            assert any(isinstance(event, AudioDelta) for event in events)
            assert still_missing(talker) == warm
    finally:
        state.model.stop()


def test_ears_that_hear_nothing_do_not_end_the_server(caplog: pytest.LogCaptureFixture) -> None:
    class Deaf(torch.nn.Module):
        sample_rate_hz, max_duration_s = 16_000, None

        def listen(self, waves: list[Tensor]) -> list[Heard]:
            return [Heard(text="", confidence=0.0) for _ in waves]

    class Broken(Deaf):
        def listen(self, waves: list[Tensor]) -> list[Heard]:
            raise RuntimeError("no ears today")

    for ears, says in ((Deaf(), ""), (Broken(), "the first question failed: the model failed: RuntimeError")):
        talker = make_talker(ears=False)
        talker.model.ears = ears
        state = ServerState(talker, ServeSettings(), "tiny")
        try:
            warm_up(state)
            assert says in caplog.text
            assert bool(says) == ("the first question failed" in caplog.text)
            assert isinstance(asyncio.run(answer(state, Said("user", "Hello"), "T1A2"))[-1], Ended)
        finally:
            state.model.stop()


def test_addresses_are_printed_when_it_is_warm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from typer.testing import CliRunner

    from anytalk.cli.app import build_app
    from anytalk.serve import run

    order = []
    monkeypatch.setattr("anytalk.serve.warm_up.warm_up", lambda state: order.append("warm"))
    monkeypatch.setattr("anytalk.cli.serve._announce", lambda *_: order.append("addresses"))
    monkeypatch.setattr(run, "run_server", lambda *_: order.append("serves"))
    monkeypatch.setattr("anytalk.serve.heap.settle", lambda: None)
    tiny_talker(tmp_path / "t")
    served = CliRunner().invoke(build_app(), ["serve", str(tmp_path / "t"), "--port", "0"])
    assert served.exit_code == 0, served.output
    assert order == ["warm", "addresses", "serves"]
