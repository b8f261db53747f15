"""Client events of the Realtime protocol (GA names): what they may hold, and reading them."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from anytalk.errors import did_you_mean
from anytalk.serve.errors import RequestError, check_characters, check_values, of_validation


class ClientEvent(BaseModel):
    """Anything a client sends."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    type: str
    event_id: str | None = Field(None, max_length=512)


class SessionUpdate(ClientEvent):
    """Change what was sent of the session."""

    session: dict[str, Any]


class Append(ClientEvent):
    """Sound, base64."""

    audio: str


class Commit(ClientEvent):
    """The buffer is a turn."""


class Clear(ClientEvent):
    """Forget the buffer."""


class OutputClear(ClientEvent):
    """WebRTC only."""


class ItemCreate(ClientEvent):
    """Put an item into the conversation."""

    item: dict[str, Any]
    previous_item_id: str | None = None


class ItemTruncate(ClientEvent):
    """The user heard so much of an answer."""

    item_id: str
    content_index: int = Field(ge=0)
    audio_end_ms: int = Field(ge=0)


class ItemDelete(ClientEvent):
    """Take an item out."""

    item_id: str


class ItemRetrieve(ClientEvent):
    """Show an item."""

    item_id: str


class AudioOutputChoice(BaseModel):
    """Of one response."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: dict[str, Any] | None = None
    voice: str | dict[str, Any] | None = None


class AudioChoice(BaseModel):
    """Of one response."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    output: AudioOutputChoice | None = None


class ResponseOptions(BaseModel):
    """What one response changes of the session's settings; unknown fields are left out and reported."""

    model_config = ConfigDict(extra="allow", frozen=True)

    audio: AudioChoice | None = None
    conversation: Literal["auto", "none"] | None = None
    input: list[dict[str, Any]] | None = Field(None, max_length=200)
    instructions: str | None = None
    max_output_tokens: int | Literal["inf"] | None = None
    metadata: dict[Annotated[str, Field(max_length=64)], Annotated[str, Field(max_length=512)]] | None = Field(
        None, max_length=16
    )
    output_modalities: list[Literal["text", "audio"]] | None = None
    parallel_tool_calls: bool | None = None
    prompt: Any = None
    reasoning: dict[str, Any] | None = None
    tool_choice: Any = None
    tools: list[Any] | None = None


class ResponseCreate(ClientEvent):
    """Answer."""

    response: ResponseOptions | None = None


class ResponseCancel(ClientEvent):
    """Answer no more."""

    response_id: str | None = None


CLIENT_EVENTS: dict[str, type[ClientEvent]] = {
    "session.update": SessionUpdate,
    "input_audio_buffer.append": Append,
    "input_audio_buffer.commit": Commit,
    "input_audio_buffer.clear": Clear,
    "conversation.item.create": ItemCreate,
    "conversation.item.truncate": ItemTruncate,
    "conversation.item.delete": ItemDelete,
    "conversation.item.retrieve": ItemRetrieve,
    "response.create": ResponseCreate,
    "response.cancel": ResponseCancel,
    "output_audio_buffer.clear": OutputClear,
}
"""By name."""


class EventError(Exception):
    """An event that can't be read; the client's own id of it, as far as that could be."""

    def __init__(self, error: RequestError, event_id: str | None) -> None:
        super().__init__(error.message)
        self.error, self.event_id = error, event_id


def read_event(text: str) -> ClientEvent:
    """A message -> an event (EventError: no JSON, no such event, or fields that don't fit)."""
    try:
        check_values(text)
        raw = json.loads(text)
    except RequestError as error:
        raise EventError(error, None) from None
    except (ValueError, RecursionError):
        raise EventError(RequestError("the message is not JSON", "invalid_json"), None) from None
    if not isinstance(raw, dict):
        raise EventError(RequestError("the message is not a JSON object", "invalid_json"), None)
    given = raw.get("event_id")
    event_id = given if isinstance(given, str) and len(given) <= 512 else None
    if "\\u" in text:
        try:
            check_characters(json.dumps(raw, ensure_ascii=False))
        except RequestError as error:
            raise EventError(error, event_id) from None
    name = raw.get("type")
    if not isinstance(name, str):
        missing = RequestError("the event has no 'type'", "missing_required_parameter", "type")
        raise EventError(missing, event_id)
    if name not in CLIENT_EVENTS:
        shown = name[:80]
        said = f"unknown event '{shown}'{did_you_mean(shown, list(CLIENT_EVENTS))}"
        raise EventError(RequestError(said, "unknown_or_invalid_event", "type"), event_id)
    try:
        return CLIENT_EVENTS[name].model_validate(raw)
    except ValidationError as error:
        raise EventError(of_validation(error.errors()), event_id) from None
