"""Every field of OpenAI's chat completions is done, has no effect on the answer by its nature, or is refused."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx2
import pytest
from openai.types.chat.completion_create_params import CompletionCreateParamsBase
from serve_lab import Running, record, running
from talkers import make_talker
from tools_lab import WEATHER

from anytalk.serve.http.chat_options import NOT_DONE, ChatRequest

TOOL = {"type": "function", "function": {name: WEATHER[name] for name in WEATHER if name != "type"}}
DONE: dict[str, Any] = {
    "messages": [{"role": "user", "content": "Hello!"}],
    "modalities": ["text"],
    "audio": {"voice": "alloy", "format": "mp3"},
    "stream": False,
    "stream_options": {"include_usage": True},
    "max_completion_tokens": 3,
    "max_tokens": 3,
    "temperature": 0.5,
    "top_p": 0.5,
    "seed": 7,
    "stop": ["never said"],
    "tools": [],
    "tool_choice": "auto",
    "parallel_tool_calls": True,
}
WITHOUT_EFFECT: dict[str, Any] = {
    "model": "gpt-x",
    "metadata": {"a": "b"},
    "prediction": {"type": "content", "content": "x"},
    "prompt_cache_key": "k",
    "prompt_cache_options": {"a": 1},
    "prompt_cache_retention": "24h",
    "safety_identifier": "s",
    "service_tier": "auto",
    "store": True,
    "user": "u",
}
REFUSED: list[tuple[str, Any, str]] = [
    ("frequency_penalty", 0.5, "not done here"),
    ("function_call", "auto", "send `tools`"),
    ("functions", [{"name": "f"}], "send `tools`"),
    ("logit_bias", {"5": 1}, "not done here"),
    ("logprobs", True, "not done here"),
    ("moderation", {"model": "m"}, "not moderated"),
    ("n", 2, "leave it at 1"),
    ("presence_penalty", -1, "not done here"),
    ("reasoning_effort", "low", "its own"),
    ("response_format", {"type": "json_object"}, "only text"),
    ("response_format", {"type": "json_schema", "json_schema": {"name": "x"}}, "only text"),
    ("stop", "", "empty string"),
    ("stop", ["a", ""], "empty string"),
    ("stop", list("abcde"), "4 are looked for"),
    ("stop", "a" * 1001, "1000 characters"),
    ("stop", 5, "stop"),
    ("stop", ["a", 5], "stop"),
    ("top_logprobs", 3, "not done here"),
    ("verbosity", "low", "in a message"),
    ("web_search_options", {}, "nothing is looked up"),
    ("tools", [TOOL], "doesn't support functions"),
    ("tool_choice", "required", "doesn't support functions"),
    ("temperature", 3, "temperature"),
    ("top_p", 0, "top_p"),
    ("seed", "x", "seed"),
    ("stream_options", {"x": 1}, "stream_options.x"),
    ("top_k", 5, "top_k: Extra inputs"),
    ("audio", {"speed": 2}, "audio.speed"),
    ("modalities", ["audio"], "['text', 'audio']"),
]
ASKS_NOTHING = {
    "function_call": "none",
    "functions": [],
    "logit_bias": {},
    "logprobs": False,
    "n": 1,
    "response_format": {"type": "text"},
    "stop": [],
    "top_logprobs": 0,
    "verbosity": "medium",
    "frequency_penalty": 0,
}


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    with running(make_talker(), max_columns=6) as found:
        yield found


def post(server: Running, **fields: Any) -> httpx2.Response:
    body = {"messages": DONE["messages"], **fields}
    return httpx2.post(f"http://{server.address}/v1/chat/completions", json=body, timeout=30)


def test_no_field_is_forgotten() -> None:
    known = {*CompletionCreateParamsBase.__annotations__, "stream"}
    assert known <= set(ChatRequest.model_fields) == set(DONE) | set(WITHOUT_EFFECT) | set(NOT_DONE)
    assert {name for name, *_ in REFUSED} >= set(NOT_DONE)


def test_what_is_understood_and_what_has_no_effect(server: Running) -> None:
    plain = post(server, max_tokens=3).json()["choices"]
    assert post(server, max_tokens=3, **WITHOUT_EFFECT).json()["choices"] == plain
    assert post(server, max_tokens=3, **ASKS_NOTHING).json()["choices"] == plain
    off = dict.fromkeys(set(NOT_DONE) | set(WITHOUT_EFFECT) - {"model"})
    assert post(server, max_tokens=3, **off).json()["choices"] == plain
    assert post(server, **DONE).status_code == 200


def test_options_reach_the_model(server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = record(server, monkeypatch)
    first, second = (post(server, **DONE | {"temperature": 1.5}).json()["choices"] for _ in range(2))
    assert first == second, "the same seed"
    options = asked[0].options
    assert (options.seed, options.max_columns, options.text.temperature, options.text.top_p) == (7, 3, 1.5, 0.5)


@pytest.mark.parametrize(("name", "value", "said"), REFUSED)
def test_what_is_not_done_is_refused(server: Running, name: str, value: Any, said: str) -> None:
    answer = post(server, **{name: value})
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert said in error["message"]
    assert str(error["param"]).startswith(name) or name in error["message"] or name == "tool_choice"
