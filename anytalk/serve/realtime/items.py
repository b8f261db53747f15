"""Keep the items of a conversation, and convert them to turns for the model."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

from anytalk.decode.jobs import TURNS_DROPPED_AT_ONCE, Said, Speech
from anytalk.grid.tools import Call, ToolSpelling
from anytalk.serve.calling import call_of
from anytalk.serve.errors import RequestError
from anytalk.serve.questions import new_id
from anytalk.serve.sound import KeptSound, WireFormat

MS_PER_CHARACTER = 65
"""Length of a character of English speech; estimates what was heard of an answer whose sound is incomplete."""
_TEXT_KINDS = {"user": ("input_text", "text"), "system": ("input_text", "text"), "assistant": ("output_text", "text")}


@dataclass
class Item:
    """Holds a message, a function call or its result."""

    role: str  # `"user"`, `"assistant"` or `"system"`; calls are the assistant's, results the user's
    id: str = field(default_factory=lambda: new_id("item"))
    text: str | None = None  # text, or the transcript of a spoken question once it is known
    speech: Speech | None = None  # the speech of a spoken question
    sound: KeptSound | None = None  # sound of a spoken question, while it is kept; see `Conversation`
    audio_ms: int | None = None  # length of the answer's sound; None for an answer in text
    heard_ms: int | None = None  # how much of it the user heard; None for all
    is_whole: bool = True  # whether the answer's sound is complete
    status: str = "completed"  # as in the protocol
    call: Call | None = None  # a function call
    result: str | None = None  # the result of a function call
    call_id: str = ""  # of a call and its result

    @property
    def kind(self) -> str:
        """Return the item's type in the protocol."""
        return "function_call" if self.call else "message" if self.result is None else "function_call_output"

    def shown(self, sound_as: WireFormat | None = None) -> dict[str, Any]:
        """Return the item as the protocol shows it; `sound_as` adds the user's sound in that format, if it is kept."""
        head = {"id": self.id, "object": "realtime.item", "type": self.kind, "status": self.status}
        if self.call is not None:
            return {**head, "call_id": self.call_id, "name": self.call.name, "arguments": self.call.arguments}
        if self.result is not None:
            return {**head, "call_id": self.call_id, "output": self.result}
        part: dict[str, Any]
        if self.speech is not None:
            part = {"type": "input_audio", "transcript": self.text}
            if sound_as is not None and self.sound is not None:
                part["audio"] = base64.b64encode(self.sound.encoded(sound_as)).decode()
        elif self.role != "assistant":
            part = {"type": "input_text", "text": self.text or ""}
        elif self.audio_ms is not None:
            part = {"type": "output_audio", "transcript": self.heard_text}
        else:
            part = {"type": "output_text", "text": self.text or ""}
        empty = self.role == "assistant" and self.status == "in_progress"
        return {**head, "role": self.role, "content": [] if empty else [part]}

    @property
    def heard_text(self) -> str:
        """Return the text that the user heard, cut between words in proportion to the sound."""
        text = self.text or ""
        if self.heard_ms is None or self.audio_ms is None:
            return text
        whole_ms = self.audio_ms if self.is_whole else max(self.audio_ms, len(text) * MS_PER_CHARACTER)
        if self.heard_ms >= whole_ms:
            return text
        end = len(text) * self.heard_ms // max(whole_ms, 1)
        if end < len(text) and not text[end].isspace():
            end = max(text.rfind(" ", 0, end), 0)
        return text[:end].rstrip()

    def said(self) -> Said:
        if self.speech is not None:
            return Said("user", None, self.speech)
        return Said(self.role, self.heard_text if self.role == "assistant" else self.text or "")


class Conversation:
    """Keeps items in order.

    Args:
        max_items: If there are more, the oldest few are dropped.
        max_sound_s: Length of the user's sound that is kept; older turns keep only what the model needs.
    """

    def __init__(self, max_items: int, max_sound_s: float = 0.0) -> None:
        self.id = new_id("conv")
        self.max_items, self.max_sound_s = max_items, max_sound_s
        self.items: list[Item] = []

    def add(self, item: Item, after: str | None = None) -> str | None:
        """Insert an item after another (``"root"``: first; None: last); return the id of the item before it.

        Raises:
            RequestError: the other item doesn't exist, or the id is taken.
        """
        if any(known.id == item.id for known in self.items):
            raise RequestError(f"there is an item '{item.id}' already", "item_create_duplicate_item_id", "item.id")
        place = len(self.items)
        if after == "root":
            place = 0
        elif after is not None:
            place = self.items.index(self.find(after, "previous_item_id")) + 1
        self.items.insert(place, item)
        previous = self.items[place - 1].id if place else None
        # Dropping several at once keeps the prompt's beginning, and with it the model's memory, for the next turns.
        if len(self.items) > self.max_items:
            del self.items[:TURNS_DROPPED_AT_ONCE]
        self._drop_old_sound()
        return previous

    def find(self, item_id: str, param: str = "item_id", code: str = "item_not_found") -> Item:
        """Return an item by id; RequestError with `code`, which clients look for, if there is none."""
        for item in self.items:
            if item.id == item_id:
                return item
        raise RequestError(f"there is no item '{item_id[:80]}'", code, param)

    def delete(self, item_id: str) -> None:
        """Delete an item; RequestError if there is none with this id."""
        self.items.remove(self.find(item_id, code="item_delete_invalid_item_id"))

    def truncate(self, item_id: str, content_index: int, audio_end_ms: int) -> None:
        """Note how much of an answer was heard.

        Raises:
            RequestError: there is no such item, it has no sound, or it has less sound than this.
        """
        item = self.find(item_id, code="item_truncate_invalid_item_id")
        if item.audio_ms is None:
            raise RequestError("only answers with sound can be truncated", "invalid_value", "item_id")
        if content_index != 0:
            raise RequestError(f"content_index is {content_index}; answers have one part, 0", param="content_index")
        if not item.is_whole:  # a client's clock may run ahead of an answer that was cut
            audio_end_ms = min(audio_end_ms, item.audio_ms)
        if audio_end_ms > item.audio_ms + 1:  # clients round
            raise RequestError(
                f"audio_end_ms is {audio_end_ms}; the answer has {item.audio_ms} ms of sound", param="audio_end_ms"
            )
        item.heard_ms = audio_end_ms

    def turns(self, spelling: ToolSpelling | None) -> list[Said]:
        return turns_of(self.items, spelling)

    def _drop_old_sound(self) -> None:
        left_s = self.max_sound_s
        for item in reversed(self.items):
            if item.sound is None:
                continue
            left_s -= item.sound.seconds
            if left_s < 0:
                item.sound = None


def turns_of(items: Sequence[Item], spelling: ToolSpelling | None) -> list[Said]:
    """Convert items to turns; answers of which nothing was heard are left out.

    Args:
        spelling: How the model writes calls and results; None leaves these out.
    """
    turns: list[Said] = []
    for kind, group in groupby(items, lambda item: item.kind):
        alike = list(group)
        if kind == "message":
            turns += [item.said() for item in alike if item.role != "assistant" or item.heard_text]
        elif spelling is not None and kind == "function_call":
            # Words before the calls belong to the same turn.
            said = turns.pop().text if turns and turns[-1].role == "assistant" else None
            calls = [item.call for item in alike if item.call is not None]
            turns.append(Said("assistant", spelling.calls(said or "", calls)))
        elif spelling is not None:
            turns.append(Said("user", spelling.results([item.result or "" for item in alike])))
    return turns


def read_item(given: dict[str, Any], decode: Any, max_text_chars: int) -> Item:
    """Read an item from a client.

    Args:
        decode: Converts base64 to :class:`~anytalk.decode.jobs.Speech` and the sound to keep.

    Raises:
        RequestError: an unknown type, no content, or content that doesn't belong to the role.
    """
    kind, role = given.get("type"), given.get("role")
    if kind in ("function_call", "function_call_output"):
        return _tool_item(given, max_text_chars)
    if kind not in (None, "message"):
        raise RequestError(
            f"items of the type {str(kind)[:40]!r} are not supported; send message, function_call or"
            " function_call_output",
            "unsupported_value",
            "item.type",
        )
    if not isinstance(role, str) or role not in _TEXT_KINDS:
        raise RequestError(f"role is {str(role)[:40]!r}; expected user, assistant or system", param="item.role")
    content = given.get("content")
    if not isinstance(content, list) or not content or not all(isinstance(part, dict) for part in content):
        raise RequestError("'content' must be a list of parts", "missing_required_parameter", "item.content")
    item = Item(role, id=_item_id(given.get("id")))
    texts: list[str] = []
    for number, part in enumerate(content):
        param, part_kind = f"item.content[{number}]", part.get("type")
        if part_kind == "input_audio" and role == "user":
            if not isinstance(part.get("audio"), str):
                raise RequestError("'audio' must be base64", "missing_required_parameter", f"{param}.audio")
            item.speech, item.sound = decode(part["audio"], f"{param}.audio")
        elif part_kind in _TEXT_KINDS[role]:
            texts.append(_text(part.get("text"), f"{param}.text"))
        elif part_kind == "output_audio" and role == "assistant":
            texts.append(_text(part.get("transcript"), f"{param}.transcript"))
        else:
            said = f"a part of the type {str(part_kind)[:40]!r} isn't allowed in a message of role {role}"
            raise RequestError(said, "invalid_value", f"{param}.type")
    if item.speech is not None and len(content) > 1:
        raise RequestError("a message holds speech or text, not both; send two items", param="item.content")
    item.text = None if item.speech is not None else "\n".join(texts)
    if item.text is not None and not item.text.strip():
        raise RequestError("the text is empty", "invalid_value", "item.content[0].text")
    if len(item.text or "") > max_text_chars:
        said = f"the text has {len(item.text or '')} characters; {max_text_chars} are allowed"
        raise RequestError(said, "string_above_max_length", "item.content")
    return item


def _tool_item(given: dict[str, Any], max_text_chars: int) -> Item:
    """Read a function call or its result."""
    item = Item("user", id=_item_id(given.get("id")), call_id=_text(given.get("call_id"), "item.call_id")[:200])
    if given["type"] == "function_call_output":
        item.result = _text(given.get("output"), "item.output")
    else:
        item.role = "assistant"
        item.call = call_of(given.get("name"), given.get("arguments"), "item.arguments")
    if len(item.result or (item.call.arguments if item.call else "")) > max_text_chars:
        raise RequestError(f"more than {max_text_chars} characters were given", "string_above_max_length", "item")
    return item


def _item_id(given: Any) -> str:
    if given is None:
        return new_id("item")
    if not isinstance(given, str) or not 0 < len(given) <= 64:
        raise RequestError("an item's id is a string of 1 to 64 characters", "invalid_value", "item.id")
    return given


def _text(given: Any, param: str) -> str:
    if not isinstance(given, str):
        raise RequestError("a text part needs its text", "missing_required_parameter", param)
    return given
