"""Answers over HTTP that fail after their beginning."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncGenerator, Iterator
from typing import Any

import httpx2
import numpy as np
import pytest
from serve_lab import Running, running
from talkers import make_talker

from anytalk.decode.jobs import Failed, Started
from anytalk.decode.telling import AudioDelta, TextDelta


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    with running(make_talker()) as found:
        yield found


KINDS: list[tuple[str, dict[str, Any]]] = [
    ("audio/speech", {"input": "Hello there!", "response_format": "pcm"}),
    ("audio/speech", {"input": "Hello there!", "response_format": "pcm", "stream_format": "sse"}),
    ("chat/completions", {"messages": [{"role": "user", "content": "Hello!"}], "stream": True}),
]


@pytest.mark.parametrize(("path", "body"), KINDS)
def test_an_answer_that_fails_halfway_ends_as_its_kind_does(
    server: Running, monkeypatch: pytest.MonkeyPatch, path: str, body: dict[str, Any]
) -> None:
    """Events by an error, a file before its end; the operator is told in one line."""

    async def answer(*_: Any) -> AsyncGenerator[Any, None]:
        yield Started(1, 0)
        yield TextDelta("Hel")
        yield AudioDelta(np.zeros(8_000, np.float32))
        yield Failed("the endpoint has gone", is_ours=True)

    said: list[str] = []
    listener = logging.Handler()
    monkeypatch.setattr(listener, "emit", lambda record: said.append(record.getMessage()))
    for name in ("anytalk.serve", "uvicorn.error"):
        monkeypatch.setattr(logging.getLogger(name), "handlers", [listener])
    monkeypatch.setattr(server.state.model, "answer", answer)
    url = f"http://{server.address}/v1/{path}"
    if path == "audio/speech" and "stream_format" not in body:
        with pytest.raises(httpx2.RemoteProtocolError):
            httpx2.post(url, json=body)
    else:
        last = httpx2.post(url, json=body).text.strip().splitlines()[-1]
        assert json.loads(last.removeprefix("data: "))["error"]["message"] == "the endpoint has gone"
    server.wait_until(lambda: server.state.admission.taken == 0)
    assert said == ["an answer failed halfway: the endpoint has gone"]
