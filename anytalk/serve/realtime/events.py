"""Define the client events of the Realtime protocol (with GA names), and read them."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from anytalk.errors import did_you_mean
from anytalk.serve.errors import RequestError, check_characters, check_values, of_validation


class ClientEvent(BaseModel):
    """Holds the fields of every client event."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    type: str
    event_id: str | None = Field(None, max_length=512)


class SessionUpdate(ClientEvent):
    """Changes the given fields of the session."""

    session: dict[str, Any]


class Append(ClientEvent):
    """Adds sound, in base64, to the input buffer."""

    audio: str


class Commit(ClientEvent):
    """Makes the input buffer a turn."""


class Clear(ClientEvent):
    """Empties the input buffer."""


class OutputClear(ClientEvent):
    """Stops the sound that is played; for WebRTC only."""


class ItemCreate(ClientEvent):
    """Adds an item to the conversation."""

    item: dict[str, Any]
    previous_item_id: str | None = None


class ItemTruncate(ClientEvent):
    """Tells how much of an answer the user heard."""

    item_id: str
    content_index: int = Field(ge=0)
    audio_end_ms: int = Field(ge=0)


class ItemDelete(ClientEvent):
    """Deletes an item."""

    item_id: str


class ItemRetrieve(ClientEvent):
    """Requests an item."""

    item_id: str


class AudioOutputChoice(BaseModel):
    """Chooses format and voice of one response."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: dict[str, Any] | None = None
    voice: str | dict[str, Any] | None = None


class AudioChoice(BaseModel):
    """Holds the sound options of one response."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    output: AudioOutputChoice | None = None


class ResponseOptions(BaseModel):
    """Overrides session settings for one response; unknown fields are ignored and reported."""

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
    """Requests a response."""

    response: ResponseOptions | None = None


class ResponseCancel(ClientEvent):
    """Cancels a response."""

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
"""Maps the names of events to their classes."""


class EventError(Exception):
    """Reports an event that can't be read, with the client's id of the event if that is known."""

    def __init__(self, error: RequestError, event_id: str | None) -> None:
        super().__init__(error.message)
        self.error, self.event_id = error, event_id


def read_event(text: str) -> ClientEvent:
    """Parse a message; EventError if it isn't JSON, names an unknown event, or has fields that don't fit."""
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
    # Raw text can't hold lone surrogates, only escapes can.
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
