"""Define the fields of a chat completion: supported ones, those without effect, and refused ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from anytalk.serve.errors import RequestError

_MOST_STOPS, _LONGEST_STOP = 4, 1_000


class ChatAudio(BaseModel):
    """Chooses format and voice of a spoken answer."""

    model_config = ConfigDict(extra="forbid")

    format: str = "wav"
    voice: str | dict[str, Any] | None = None


class StreamOptions(BaseModel):
    """Holds the options of a streamed answer."""

    model_config = ConfigDict(extra="forbid")

    include_usage: bool = False
    include_obfuscation: bool | None = None  # ignored: it would pad pieces to hide their lengths


class ChatRequest(BaseModel):
    """Holds all fields of OpenAI's request; other names are refused."""

    model_config = ConfigDict(extra="forbid")

    messages: list[dict[str, Any]] = Field(min_length=1, max_length=400)
    modalities: list[Literal["text", "audio"]] | None = None
    audio: ChatAudio | None = None
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    max_completion_tokens: int | None = Field(None, ge=1)
    max_tokens: int | None = Field(None, ge=1)
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    seed: int | None = Field(None, ge=-(1 << 63), lt=1 << 63)
    stop: str | list[str] | None = None
    tools: list[Any] | None = None
    tool_choice: Any = None
    parallel_tool_calls: bool | None = None

    # Without effect: one model answers all clients alike, and nothing is stored.
    model: str = ""
    metadata: dict[str, Any] | None = None
    prediction: dict[str, Any] | None = None
    prompt_cache_key: str | None = None
    prompt_cache_options: dict[str, Any] | None = None
    prompt_cache_retention: str | None = None
    safety_identifier: str | None = None
    service_tier: str | None = None
    store: bool | None = None
    user: str | None = None

    # Refused, unless their value asks for nothing: see `NOT_DONE`.
    frequency_penalty: float | None = None
    function_call: Any = None
    functions: list[Any] | None = None
    logit_bias: dict[str, Any] | None = None
    logprobs: bool | None = None
    moderation: Any = None
    n: int | None = None
    presence_penalty: float | None = None
    reasoning_effort: str | None = None
    response_format: dict[str, Any] | None = None
    top_logprobs: int | None = None
    verbosity: str | None = None
    web_search_options: dict[str, Any] | None = None


NOT_DONE: dict[str, tuple[Callable[[Any], bool], str]] = {
    **dict.fromkeys(
        ("frequency_penalty", "logit_bias", "logprobs", "presence_penalty", "top_logprobs"),
        (lambda value: not value, "it is not done here; leave it out"),
    ),
    **dict.fromkeys(("function_call", "functions"), (lambda value: not value or value == "none", "send `tools`")),
    "moderation": (lambda value: value is None, "answers are not moderated here; leave it out"),
    "n": (lambda value: value in (None, 1), "one answer at a time: leave it at 1"),
    "reasoning_effort": (lambda value: value is None, "how long the model thinks is its own; leave it out"),
    "response_format": (lambda value: value in (None, {"type": "text"}), "only text is written; leave it out"),
    "verbosity": (lambda value: value in (None, "medium"), "say in a message how long the answer should be"),
    "web_search_options": (lambda value: value is None, "nothing is looked up here; leave it out"),
}
"""Maps refused fields to a test for values that ask for nothing, and to the message for all other values."""


def check_chat(wanted: ChatRequest) -> None:
    """Check that a chat can be answered as requested; RequestError if it can't."""
    for name, (asks_nothing, why) in NOT_DONE.items():
        if not asks_nothing(getattr(wanted, name)):
            raise RequestError(f"`{name}`: {why}", "unsupported_value", name)
    if "audio" in (wanted.modalities or ()) and "text" not in (wanted.modalities or ()):
        raise RequestError("a spoken answer has a text too: use ['text', 'audio']", "invalid_value", "modalities")


def stops_of(stop: str | list[str] | None) -> tuple[str, ...]:
    """Return the strings before which a text ends (RequestError: too many, too long or empty ones)."""
    stops = (stop,) if isinstance(stop, str) else tuple(stop or ())
    if len(stops) > _MOST_STOPS:
        said = f"{len(stops)} strings were given; {_MOST_STOPS} are looked for"
    elif "" in stops:
        said = "an empty string ends every text before it begins; leave it out"
    elif any(len(one) > _LONGEST_STOP for one in stops):
        said = f"a string has more than {_LONGEST_STOP} characters; shorten it"
    else:
        return stops
    raise RequestError(f"`stop`: {said}", "invalid_value", "stop")
